"""A tiny causal model as a policy: against its own logits by hand, and against padding."""

import numpy as np
import pytest
import torch

from rlkit.alignment.knowledge import rows
from rlkit.lm.data import read_preferences
from rlkit.lm.knowledge import make_spec
from rlkit.lm.policy import LanguageCritic, LanguagePolicy, before_the_end
from rlkit.random import Rng
from rlkit.tokens import Responses

transformers = pytest.importorskip("transformers")

from rlkit.lm.model import load_model, save_model, with_adapters  # noqa: E402

HORIZON = 8
POLICY = LanguagePolicy()


@pytest.fixture(scope="module")
def language(folder):
    return load_model(folder)


@pytest.fixture
def spec(language, pairs):
    return make_spec(language, read_preferences(pairs), HORIZON)


def rng(name="start", n=1):
    return Rng(0, name, torch.arange(n))


def moved(parameters, seed=0, scale=0.05):
    random = np.random.default_rng(seed)
    return {
        name: leaf + torch.tensor(random.normal(0, scale, leaf.shape)).to(leaf)
        for name, leaf in parameters.items()
    }


def by_hand(module, prompt, response):
    """Log-probabilities of the tokens of one response, without padding, batch or cache."""
    with torch.no_grad():
        logits = module(input_ids=torch.tensor([prompt + response])).logits[0].double()
    law = torch.log_softmax(logits, -1)
    return [law[len(prompt) - 1 + i, token].item() for i, token in enumerate(response)]


def cut(token, end):
    return token[: token.index(end) + 1] if end in token else token


def test_scores_are_the_models_own_log_probabilities(spec, language):
    data = spec.known.tokens.data
    start = POLICY.start(spec, rng())
    for batch in (data.first, data.second):
        score = POLICY.score(spec, start, batch)
        laws = POLICY.laws(spec, start, batch)
        for row in range(batch.prompt.shape[1]):
            prompt = language.encode(spec.known.tokens.prompts[int(batch.prompt[0, row])], True)
            response = cut(batch.token[0, row].tolist(), language.end)
            expected = by_hand(language.module, prompt, response)
            assert score[0, row, : len(response)].tolist() == pytest.approx(expected, abs=2e-5)
            assert (score[0, row, len(response) :] == 0).all()
            assert laws[0, row].gather(-1, batch.token[0, row, :, None]).squeeze(
                -1
            ).tolist() == pytest.approx(score[0, row].tolist(), abs=1e-6)
        assert torch.logsumexp(laws, -1).abs().max() < 1e-5


@pytest.mark.parametrize("family", ["Llama", "GPTNeoX", "OPT", "Bloom"])
def test_other_families_of_models_score_as_by_hand(
    family, tmp_path, pairs, fill_weights, save_tokenizer
):
    """Rotary, learned and no positions; with and without `position_ids`."""
    sizes = {"vocab_size": 56, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    marks = {"pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 2}
    more = {
        "Bloom": {"n_layer": 2, "n_head": 2}, "OPT": {"ffn_dim": 64, "word_embed_proj_dim": 32},
        "Llama": {"intermediate_size": 64}, "GPTNeoX": {"intermediate_size": 64},
    }[family]  # fmt: skip
    settings = getattr(transformers, f"{family}Config")(
        **sizes, **marks, **more, max_position_embeddings=48
    )
    module = getattr(transformers, f"{family}ForCausalLM")(settings)
    fill_weights(module, 4)
    module.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    language = load_model(tmp_path)
    spec = make_spec(language, read_preferences(pairs), HORIZON)
    start = POLICY.start(spec, rng())
    batch = POLICY.write(spec, start, torch.arange(24)[None], rng("write"))
    score = POLICY.score(spec, start, batch)
    for row in range(24):
        prompt = language.encode(spec.known.tokens.prompts[row], True)
        response = cut(batch.token[0, row].tolist(), language.end)
        expected = by_hand(language.module, prompt, response)
        assert score[0, row, : len(response)].tolist() == pytest.approx(expected, abs=2e-5)
    u = rng("write").uniform("token", 24, HORIZON, dtype=torch.float64)
    cdf = POLICY.laws(spec, start, batch).exp().cumsum(-1)
    again = (u[..., None] * cdf[..., -1:] >= cdf).sum(-1)
    assert ((again == batch.token) | (POLICY.mask(spec, batch) == 0)).double().mean() > 0.99


def test_the_policy_starts_as_the_reference_and_leaves_it_alone(spec):
    data = spec.known.tokens.data
    start = POLICY.start(spec, rng())
    before = POLICY.reference(spec, data.first)
    torch.testing.assert_close(POLICY.score(spec, start, data.first), before)
    other = POLICY.score(spec, moved(start), data.first)
    assert (other - before).abs().max() > 0.01
    assert torch.equal(POLICY.reference(spec, data.first), before)
    torch.testing.assert_close(
        POLICY.reference_laws(spec, data.first), POLICY.laws(spec, start, data.first)
    )


def test_padding_changes_nothing(spec):
    """Alone, a prompt has no padding; in a batch, it is padded to the longest on either side."""
    batch = spec.known.tokens.data.first
    parameters = moved(POLICY.start(spec, rng()))
    together = POLICY.score(spec, parameters, batch)
    lengths = spec.known.tokens.prompt_length[0, batch.prompt[0]]
    assert lengths.min() < lengths.max()
    for row in range(0, batch.prompt.shape[1], 3):
        alone = POLICY.score(spec, parameters, rows(batch, torch.tensor([[row]])))
        torch.testing.assert_close(alone[0, 0], together[0, row], rtol=0, atol=2e-5)


def test_what_follows_the_end_does_not_matter(spec, language):
    batch = spec.known.tokens.data.first
    parameters = POLICY.start(spec, rng())
    mask = before_the_end(batch.token, language.end) > 0
    assert not mask.all()
    noise = torch.randint(0, 40, batch.token.shape, generator=torch.Generator().manual_seed(0))
    other = batch._replace(token=torch.where(mask, batch.token, noise))
    torch.testing.assert_close(
        POLICY.score(spec, parameters, other), POLICY.score(spec, parameters, batch)
    )


def test_written_responses_end_once_and_score_as_they_were_drawn(spec, language):
    parameters = moved(POLICY.start(spec, rng()), scale=0.1)
    prompt = torch.arange(24)[None].repeat(1, 4)
    got = POLICY.write(spec, parameters, prompt, rng("write"))
    assert got.token.shape == (1, 96, HORIZON) and got.state.shape == (1, 96, HORIZON + 1)
    mask = POLICY.mask(spec, got)
    assert (got.token[mask == 0] == language.pad).all()
    assert 0 < (mask.sum(-1) < HORIZON).sum() < 96  # some end early
    # The draws again, from the laws of teacher forcing.
    u = rng("write").uniform("token", 96, HORIZON, dtype=torch.float64)
    cdf = POLICY.laws(spec, parameters, got).exp().cumsum(-1)
    again = (u[..., None] * cdf[..., -1:] >= cdf).sum(-1)
    assert ((again == got.token) | (mask == 0)).double().mean() > 0.995


def test_responses_follow_the_law_of_the_model(spec, language):
    """First tokens to one prompt against the model's law, by a chi-square of pooled tokens."""
    parameters = POLICY.start(spec, rng())
    count = 4000
    prompt = torch.zeros(1, count, dtype=torch.int64)
    got = POLICY.write(spec, parameters, prompt, rng("law"))
    law = POLICY.laws(spec, parameters, rows(got, torch.zeros(1, 1, dtype=torch.int64)))[0, 0, 0]
    expected = count * law.exp()
    seen = torch.bincount(got.token[0, :, 0], minlength=len(law)).double()
    deviation = (seen - expected) / expected.sqrt()
    assert len(law) - 1 < 2 * (deviation**2).sum()  # as many cells deviate as should
    freedom = len(law) - 1
    assert (deviation**2).sum() < freedom + 5 * (2 * freedom) ** 0.5


def test_given_tokens_are_kept(spec, language):
    data = spec.known.tokens.data.demonstration
    given = torch.arange(24)[None] % HORIZON
    parameters = POLICY.start(spec, rng())
    got = POLICY.write(spec, parameters, data.prompt, rng("given"), data.token, given)
    begun = (torch.arange(HORIZON) < given[..., None]) & (POLICY.mask(spec, data) > 0)
    assert ((got.token == data.token) | ~begun).all()
    assert torch.equal(got.given, given)
    over = (torch.arange(HORIZON) < given[..., None]).double().sum(-1) >= POLICY.mask(
        spec, data
    ).sum(-1)
    assert over.any() and (got.token[over] == data.token[over]).all()


def test_draws_do_not_depend_on_the_company(spec):
    parameters = moved(POLICY.start(spec, rng()))
    prompt = torch.arange(24)[None]
    many = POLICY.write(spec, parameters, prompt, rng("company"))
    few = POLICY.write(spec, parameters, prompt[:, :5], rng("company"))
    # Longer batches draw blocks in another place only from the first row on.
    assert few.token.shape == (1, 5, HORIZON)
    assert torch.equal(few.token, many.token[:, :5])


def test_gradients_are_those_of_the_module(spec, language):
    batch = spec.known.tokens.data.first
    parameters = POLICY.start(spec, rng())
    inner = {name: leaf.requires_grad_() for name, leaf in parameters.items()}
    POLICY.score(spec, inner, batch).sum().backward()
    language.module.zero_grad()
    for row in range(batch.prompt.shape[1]):
        prompt = language.encode(spec.known.tokens.prompts[int(batch.prompt[0, row])], True)
        response = cut(batch.token[0, row].tolist(), language.end)
        law = torch.log_softmax(
            language.module(input_ids=torch.tensor([prompt + response])).logits[0].double(), -1
        )
        at = torch.arange(len(prompt) - 1, len(prompt) - 1 + len(response))
        law[at, torch.tensor(response)].sum().backward()
    for name, leaf in language.module.named_parameters():
        torch.testing.assert_close(inner[name].grad[0], leaf.grad, rtol=1e-3, atol=1e-4)
    language.module.zero_grad()


def test_values_start_at_zero_and_stop_at_the_end(spec):
    batch = spec.known.tokens.data.first
    critic = LanguageCritic()
    parameters = critic.start(spec, rng())
    assert (critic.values(spec, parameters, batch) == 0).all()
    parameters["head"] = parameters["head"] + 1
    parameters["bias"] = parameters["bias"] + 0.5
    value = critic.values(spec, parameters, batch)
    mask = POLICY.mask(spec, batch)
    assert value.shape == mask.shape
    assert (value[mask == 0] == 0).all() and (value[mask > 0] != 0).all()
    alone = critic.values(spec, parameters, rows(batch, torch.tensor([[7]])))
    torch.testing.assert_close(alone[0, 0], value[0, 7], rtol=1e-4, atol=1e-4)


def test_a_value_does_not_see_its_own_token(spec):
    batch = spec.known.tokens.data.first
    critic = LanguageCritic()
    parameters = critic.start(spec, rng())
    parameters["head"] = parameters["head"] + 1
    other = batch._replace(token=batch.token.clone())
    other.token[..., 0] = 9
    before, after = (critic.values(spec, parameters, each) for each in (batch, other))
    torch.testing.assert_close(before[..., 0], after[..., 0])
    assert (before[..., 1] != after[..., 1]).any()


def test_a_saved_model_scores_the_same_when_loaded(spec, language, tmp_path, pairs):
    parameters = moved(POLICY.start(spec, rng()))
    save_model(language, parameters, tmp_path / "saved")
    assert list((tmp_path / "saved").glob("*.safetensors"))
    assert not list((tmp_path / "saved").glob("*.bin")) and not list(tmp_path.glob(".*"))
    again = load_model(tmp_path / "saved")
    other = make_spec(again, read_preferences(pairs), HORIZON)
    batch = spec.known.tokens.data.first
    torch.testing.assert_close(
        POLICY.reference(other, batch), POLICY.score(spec, parameters, batch).detach()
    )
    save_model(language, POLICY.start(spec, rng()), tmp_path / "saved")  # replaces it
    back = make_spec(load_model(tmp_path / "saved"), read_preferences(pairs), HORIZON)
    assert torch.equal(POLICY.reference(back, batch), POLICY.reference(spec, batch))


def test_adapters_start_at_the_reference_and_are_merged_when_saved(folder, pairs, tmp_path):
    pytest.importorskip("peft")
    plain = load_model(folder)
    whole = make_spec(plain, read_preferences(pairs), HORIZON)
    language = with_adapters(load_model(folder), 2)
    spec = make_spec(language, read_preferences(pairs), HORIZON)
    start = POLICY.start(spec, rng())
    assert start and all("lora_" in name for name in start)
    count = sum(leaf.numel() for leaf in start.values())
    assert count < 0.4 * sum(leaf.numel() for leaf in POLICY.start(whole, rng()).values())
    batch = spec.known.tokens.data.first
    torch.testing.assert_close(POLICY.score(spec, start, batch), POLICY.reference(whole, batch))
    trained = moved(start)
    score = POLICY.score(spec, trained, batch).detach()
    assert (score - POLICY.reference(whole, batch)).abs().max() > 0.01
    save_model(language, trained, tmp_path / "merged")
    again = make_spec(load_model(tmp_path / "merged"), read_preferences(pairs), HORIZON)
    torch.testing.assert_close(POLICY.reference(again, batch), score, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(POLICY.reference(spec, batch), POLICY.reference(whole, batch))


def test_adapters_do_not_touch_the_global_generators(folder, untouched_generators):
    pytest.importorskip("peft")
    with_adapters(load_model(folder), 2)


def test_one_replica_only(spec):
    with pytest.raises(ValueError, match="2 replicas of a language model; accepted: 1"):
        POLICY.start(spec, rng(n=2))
    parameters = {name: leaf.expand(2, *leaf.shape[1:]) for name, leaf in
                  POLICY.start(spec, rng()).items()}  # fmt: skip
    with pytest.raises(ValueError, match="2 replicas"):
        POLICY.score(spec, parameters, spec.known.tokens.data.first)


def test_other_problems_have_no_language_model():
    from rlkit.agents.alignment.rloo import RLOO
    from rlkit.envs.tokens.tree import TokenTree
    from rlkit.rollout import simulate

    with pytest.raises(ValueError, match="policy = 'lm': the problem has no language model"):
        simulate(TokenTree(), RLOO(policy="lm"), steps=1, replicas=1)


class Fake:
    """Tokens are letters; `.` ends."""

    end, pad, context = ord("."), ord("_"), 12

    def __init__(self, module):
        self.module = module

    def encode(self, text, opening=False):
        return [ord(letter) for letter in text if letter != " "]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "abcdefgh"}, "line 1: the prompt has 8 tokens; accepted: at most 7, the cont"),
        ({"prompt": " ", "chosen": "a"}, "line 1: key 'prompt' is empty"),
        ({"chosen": "abcde"}, "line 1: a response has 6 tokens with its end; accepted: at most"),
        ({"chosen": "a.b"}, "line 1: a response holds the end token"),
    ],
)
def test_texts_that_do_not_fit_are_refused_with_their_line(language, write, row, message):
    path = write([{"prompt": "p", "chosen": "ab", "rejected": "b"} | row])
    with pytest.raises(ValueError, match=message):
        make_spec(Fake(language.module), read_preferences(path), 5)


def test_folders_with_code_or_without_safetensors_are_refused(tmp_path, folder):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ValueError, match=r"has no \*.safetensors"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="not loaded as AutoModelForCausalLM"):
        load_model(tmp_path)
    text = (tmp_path / "config.json").read_text().replace("{", '{"auto_map": {},', 1)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="asks for code of its own"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        load_model(tmp_path / "none")


def test_responses_of_a_batch_carry_the_leaves_of_a_token_mdp(spec):
    data = spec.known.tokens.data
    read = POLICY.read(spec, data.first.prompt, data.first.token)
    assert isinstance(read, Responses)
    assert all(torch.equal(a, b) for a, b in zip(read, data.first, strict=True))
