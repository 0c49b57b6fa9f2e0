"""Language models from local folders: causal ones to be trained, classifiers as rewards.

Weights are read from safetensors only; code in a folder is never run and nothing is downloaded.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlkit import files
from rlkit.tuning.models import loading, optional, replacing_folder, trained
from rlkit.validation import check_integer

library = partial(optional, extra="lm")
SAFE = {"local_files_only": True, "trust_remote_code": False}
Reward = Callable[[Sequence[str], Sequence[str]], Sequence[float]]  # of prompts and responses


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model with its tokenizer; its weights are those of the reference.

    Parameters that require a gradient are those that a policy learns.
    """

    module: nn.Module  # in evaluation mode: no dropout
    tokenizer: Any
    end: int  # token that ends a response
    pad: int  # token that fills up
    context: int  # most tokens of prompt and response
    adapter: Any = None  # what wraps the module where adapters are trained

    @property
    def accepts(self) -> frozenset[str]:
        """Names of what the module's call takes."""
        return frozenset(signature(self.module.forward).parameters)

    def encode(self, text: str, opening: bool = False) -> list[int]:
        """Token numbers of a text; `opening` texts get the tokenizer's first token, if any."""
        return list(self.tokenizer.encode(text, add_special_tokens=opening))

    def decode(self, tokens: Sequence[int]) -> str:
        """Text up to the end token."""
        listed = list(tokens)
        if self.end in listed:
            listed = listed[: listed.index(self.end)]
        return str(self.tokenizer.decode(listed, skip_special_tokens=True))


def check_folder(folder: Path) -> dict[str, Any]:
    """The configuration of a model's folder.

    Raises:
        ValueError: no folder, no `config.json`, code of its own, or no safetensors.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; accepted: a folder with config.json")
    config = files.read_json(folder / "config.json")
    if "auto_map" in config:
        raise ValueError(f"{folder}: config.json asks for code of its own; that is never run")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} has no *.safetensors; other formats are not read")
    return config


def load_pretrained(folder: Path, kind: str, device: str, options: dict[str, Any]) -> Any:
    """A model of `kind` (a class of transformers) in single precision.

    Raises:
        ValueError: as `check_folder`, or what transformers cannot load; names the folder.
    """
    check_folder(folder)
    made = getattr(library("transformers"), kind)
    with loading(folder, f"not loaded as {kind}"):
        model = made.from_pretrained(
            str(folder), use_safetensors=True, dtype=torch.float32, **SAFE, **options
        )
    return model.to(device).eval()


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder.

    Raises:
        ValueError: there is none that loads without code.
    """
    made = library("transformers").AutoTokenizer
    with loading(folder, "tokenizer not loaded"):
        return made.from_pretrained(str(folder), **SAFE)


def load_model(folder: Path, device: str = "cpu") -> LanguageModel:
    """A causal language model.

    Args:
        folder: with `config.json`, safetensors and a tokenizer.
        device: of torch.

    Raises:
        ValueError: a folder that does not load, or a tokenizer without an end token or with more
            tokens than the model.
    """
    module = load_pretrained(folder, "AutoModelForCausalLM", device, {})
    tokenizer = load_tokenizer(folder)
    end = tokenizer.eos_token_id
    size = module.get_input_embeddings().weight.shape[0]
    if end is None:
        raise ValueError(f"{folder}: the tokenizer has no end token (eos_token)")
    if len(tokenizer) > size:
        raise ValueError(f"{folder}: {len(tokenizer)} tokens, but the model knows {size}")
    pad = tokenizer.pad_token_id
    return LanguageModel(
        module, tokenizer, int(end), int(end if pad is None else pad), context_of(module, tokenizer)
    )


def context_of(module: Any, tokenizer: Any) -> int:
    """Most tokens that a model reads at once."""
    known = getattr(module.config, "max_position_embeddings", None)
    limits = [known, getattr(tokenizer, "model_max_length", None)]
    return int(min(limit for limit in [*limits, 1 << 20] if isinstance(limit, int)))


def with_adapters(language: LanguageModel, rank: int, seed: int = 0) -> LanguageModel:
    """The same model, of which only low-rank updates of its matrices are trained.

    Hu et al. (2022), "LoRA". They start at zero, where the policy is the reference.

    Args:
        language: the model; its module is changed.
        rank: of each update, >= 1.
        seed: of their first factors.

    Raises:
        ValueError: a rank below 1, or peft is not installed.
    """
    check_integer("rank", rank, 1)
    peft = library("peft")
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = peft.get_peft_model(language.module, config).eval()
    return replace(language, module=adapter.get_base_model(), adapter=adapter)


def save_model(language: LanguageModel, parameters: dict[str, Tensor], folder: Path) -> None:
    """Write a trained model as an ordinary folder: safetensors, configuration, tokenizer.

    The folder appears whole or not at all; one that exists is replaced. Adapters are merged.

    Args:
        language: the model, which keeps the reference's weights.
        parameters: what was learned, `[1, ...]` by name.
        folder: to be written.
    """
    with replacing_folder(folder) as fresh:
        trained(language.module, language.adapter, parameters).save_pretrained(fresh)
        language.tokenizer.save_pretrained(fresh)


def load_reward(folder: Path, device: str = "cpu") -> Reward:
    """Scores of a sequence classifier with one label, read from prompt and response as one text.

    Raises:
        ValueError: a folder that does not load or has another number of labels.
    """
    model = load_pretrained(folder, "AutoModelForSequenceClassification", device, {})
    tokenizer = load_tokenizer(folder)
    if model.config.num_labels != 1:
        raise ValueError(f"{folder}: {model.config.num_labels} labels; accepted: 1")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    limit = context_of(model, tokenizer)

    def reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        if batch["input_ids"].shape[1] > limit:
            raise ValueError(f"a text has more than the {limit} tokens that {folder} reads")
        with torch.no_grad():
            scores = model(**{name: leaf.to(device) for name, leaf in batch.items()}).logits
        return [float(score) for score in scores[:, 0]]

    return reward


def checked_rewards(scores: Sequence[float], prompts: Sequence[str]) -> list[float]:
    """Rewards as numbers.

    Raises:
        ValueError: another number of them than of prompts, or one that is not finite; names the
            row and its prompt.
    """
    if len(scores) != len(prompts):
        raise ValueError(f"the reward gave {len(scores)} numbers for {len(prompts)} responses")
    for row, score in enumerate(scores):
        if not math.isfinite(score):
            raise ValueError(
                f"reward of row {row} is {score}, prompt {json.dumps(prompts[row][:60])}; "
                "accepted: finite numbers"
            )
    return [float(score) for score in scores]
