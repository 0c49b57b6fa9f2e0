"""A tiny language model with a tokenizer of words, saved to a temporary folder."""

import json
import warnings

import numpy as np
import pytest

# The libraries' own business.
NOISE = ("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
WORDS = [f"w{i}" for i in range(40)] + ["good", "bad", "sum", "up", ":", "fine", "poor"]
SPECIAL = ["<unk>", "<pad>", "<end>"]
CONTEXT = 48


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/lm/" in str(item.path).replace("\\", "/"):
            for text in NOISE:
                item.add_marker(pytest.mark.filterwarnings(text))


def build_tokenizer(folder):
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", pad_token="<pad>", eos_token="<end>",
        model_max_length=CONTEXT,
    )  # fmt: skip
    fast.save_pretrained(folder)
    return fast


def fill(module, seed):
    """Weights from a generator of our own; a little large, so that laws are not flat."""
    import torch

    random = np.random.default_rng(seed)
    with torch.no_grad():
        for name, leaf in module.named_parameters():
            if leaf.dim() > 1:
                leaf.copy_(torch.tensor(random.normal(0, 0.15, leaf.shape)))
            elif "bias" in name:
                leaf.zero_()


def config(**more):
    transformers = pytest.importorskip("transformers")
    return transformers.GPT2Config(
        vocab_size=len(SPECIAL + WORDS) + 6, n_layer=2, n_head=2, n_embd=32, n_positions=CONTEXT,
        pad_token_id=1, eos_token_id=2, bos_token_id=2, **more,
    )  # fmt: skip


@pytest.fixture(scope="session")
def fill_weights():
    """The function that draws weights."""
    return fill


@pytest.fixture(scope="session")
def save_tokenizer():
    """The function that writes a tokenizer to a folder."""
    return build_tokenizer


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Of a causal model."""
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.GPT2LMHeadModel(config())
        fill(model, 0)
        model.save_pretrained(path)
        build_tokenizer(path)
    return path


@pytest.fixture(scope="session")
def reward_folder(tmp_path_factory):
    """Of a classifier with one label."""
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("reward")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.GPT2ForSequenceClassification(config(num_labels=1))
        fill(model, 1)
        model.save_pretrained(path)
        build_tokenizer(path)
    return path


@pytest.fixture
def write(tmp_path):
    """Writes rows, or raw bytes, as a file."""

    def make(rows, name="data.jsonl"):
        path = tmp_path / name
        if isinstance(rows, bytes):
            path.write_bytes(rows)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return make


@pytest.fixture
def pairs(write):
    """Comparisons in which "good" is always better than "bad"."""
    random = np.random.default_rng(3)
    rows = []
    for number in range(24):
        long = int(random.integers(2, 9))
        prompt = " ".join(f"w{i}" for i in random.integers(0, 40, long)) + " sum up :"
        extra = " ".join(f"w{i}" for i in random.integers(0, 40, number % 3))
        rows.append({"prompt": prompt, "chosen": f"good {extra}", "rejected": f"{extra} bad"})
    return write(rows)
