"""Training of a tiny language model by the agents, in files and from the command line."""

import json
import math

import pytest
import torch
from torch.utils._pytree import tree_leaves

from rlkit import registry
from rlkit.cli import execute
from rlkit.lm.data import read_preferences
from rlkit.lm.knowledge import make_spec
from rlkit.lm.policy import LanguagePolicy

transformers = pytest.importorskip("transformers")

from rlkit.lm.model import load_model, load_reward, with_adapters  # noqa: E402
from rlkit.lm.training import OFFLINE, ONLINE, Length, Trainer, make_agent  # noqa: E402

HORIZON = 6
SMALL = {"rate": 3e-3, "batch": 8}
KNOWN = [name for name in (*OFFLINE, *ONLINE) if name in registry.entries("agent")]


@pytest.fixture(scope="module")
def language(folder):
    return load_model(folder)


@pytest.fixture
def spec(language, pairs):
    return make_spec(language, read_preferences(pairs), HORIZON)


def goods(prompts, responses):
    """A reward that counts a word."""
    return [float(response.split().count("good")) for response in responses]


def curves(folder):
    return [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]


def weights(trainer):
    return list(tree_leaves(trainer.state))


@pytest.mark.parametrize("name", KNOWN)
def test_every_agent_trains(name, language, spec, tmp_path):
    agent = make_agent(name, spec, SMALL)
    trainer = Trainer(language, spec, agent, tmp_path / "run", lambda p, r: list(map(len, r)))
    before = {key: leaf.clone() for key, leaf in trainer.state.policy.parameters.items()}
    last = trainer.run(Length(steps=2, record=1, look=4))
    assert all(math.isfinite(value) for value in last.values())
    after = trainer.state.policy.parameters
    assert any(not torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize("name", ["dpo", "ipo", "simpo", "slic"])
def test_preferred_responses_gain(name, language, spec, tmp_path):
    agent = make_agent(name, spec, SMALL | {"beta": 0.1})
    Trainer(language, spec, agent, tmp_path / "run").run(Length(steps=20, look=4))
    first, *_, last = curves(tmp_path / "run")
    assert first["margin"] == pytest.approx(0, abs=1e-4)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5) and first["accuracy"] < 0.9
    assert last["margin"] > 2 and last["accuracy"] > 0.95 and last["loss"] < 0.9 * first["loss"]


def test_the_step_of_dpo_is_that_of_its_loss_on_the_modules_own_scores(language, spec, tmp_path):
    """Adam's first moment after a step is a tenth of the gradient, here by another route."""
    agent = make_agent("dpo", spec, {"batch": 8, "beta": 0.3})
    trainer = Trainer(language, spec, agent, tmp_path / "run")
    trainer.advance()
    from rlkit.random import Rng

    index = Rng(0, "learn", torch.zeros(1, dtype=torch.int64), 0).integers("pair", 24, 8)[0]
    known, module = spec.known.tokens, language.module
    module.zero_grad()
    total = 0
    for row in index.tolist():
        scores = []
        for batch in (known.data.first, known.data.second):
            prompt = language.encode(known.prompts[int(batch.prompt[0, row])], True)
            token = batch.token[0, row].tolist()
            token = token[: token.index(language.end) + 1]
            law = torch.log_softmax(module(input_ids=torch.tensor([prompt + token])).logits[0], -1)
            at = torch.arange(len(prompt) - 1, len(prompt) - 1 + len(token))
            scores.append(law[at, torch.tensor(token)].sum())
        margin = scores[0] - scores[1]
        total = total - torch.nn.functional.logsigmoid(0.3 * (margin - margin.detach()))
    (total / 8).backward()
    for (name, leaf), adam in zip(
        trainer.state.policy.parameters.items(), trainer.state.policy.adam, strict=True
    ):
        del leaf
        expected = dict(module.named_parameters())[name].grad
        torch.testing.assert_close(10 * adam.mean[0], expected, rtol=2e-3, atol=2e-5)
    module.zero_grad()


def test_rloo_increases_a_reward(language, spec, tmp_path):
    agent = make_agent("rloo", spec, {"rate": 5e-3, "batch": 32, "beta": 0.01})
    trainer = Trainer(language, spec, agent, tmp_path / "run", goods)
    trainer.run(Length(steps=30, record=30, look=128))
    first, last = curves(tmp_path / "run")
    assert first["reward"] < 0.6 and last["reward"] > first["reward"] + 1
    assert last["kl"] > first["kl"] == pytest.approx(0, abs=1e-4)


def test_verdicts_train_kto_but_not_losses_of_pairs(language, write, tmp_path):
    rows = [
        {"prompt": f"w{i} sum up :", "response": word, "label": int(word == "good")}
        for i in range(10) for word in ("good", "bad")
    ]  # fmt: skip
    spec = make_spec(language, read_preferences(write(rows)), HORIZON)
    agent = make_agent("kto", spec, SMALL | {"beta": 0.5})
    assert agent.source == "outcomes"
    Trainer(language, spec, agent, tmp_path / "run").run(Length(steps=20, look=4))
    policy = LanguagePolicy()
    trainer = Trainer(language, spec, agent, tmp_path / "run")
    shown, label = spec.known.tokens.data.demonstration, spec.known.tokens.data.outcome
    ratio = policy.score(spec, trainer.state.policy.parameters, shown) - policy.reference(
        spec, shown
    )
    assert ratio.sum(-1)[label == 1].mean() > 0.5 + ratio.sum(-1)[label == 0].mean()
    with pytest.raises(ValueError, match="pairs = 0: the agent learns from them"):
        Trainer(language, spec, make_agent("ipo", spec, {}), tmp_path / "ipo")


def test_a_run_broken_off_goes_on_to_the_same_end(language, spec, tmp_path):
    def trainer(folder):
        agent = make_agent("rloo", spec, SMALL)
        return Trainer(language, spec, agent, tmp_path / folder, goods)

    length = Length(steps=6, record=1, save=2, look=4)
    whole = trainer("whole")
    whole.run(length)
    first = trainer("parts")
    # Fails in the sixth step, when the record of the fifth is written and no checkpoint of it is.
    first.reward = lambda prompts, responses: (
        goods(prompts, responses) if first.step < 5 or len(prompts) == 4 else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        first.run(length)
    assert [row["step"] for row in curves(tmp_path / "parts")] == [0, 1, 2, 3, 4, 5]
    second = trainer("parts")
    assert second.step == 4
    second.run(length)
    assert all(map(torch.equal, weights(whole), weights(second)))
    for name in ("curves.jsonl", "samples.jsonl"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "parts" / name).read_text()
    third = trainer("parts")
    assert third.step == 6 and third.run(length)["reward"] >= 0  # nothing left to do
    assert [row["step"] for row in curves(tmp_path / "parts")] == [0, 1, 2, 3, 4, 5, 6]


def test_a_folder_of_another_run_is_refused(language, spec, tmp_path):
    Trainer(language, spec, make_agent("dpo", spec, SMALL), tmp_path).run(Length(steps=1, look=2))
    with pytest.raises(ValueError, match="holds a run with other settings"):
        Trainer(language, spec, make_agent("dpo", spec, SMALL | {"beta": 0.2}), tmp_path)


def test_curves_and_texts_are_on_the_board(language, spec, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    agent = make_agent("rloo", spec, SMALL)
    Trainer(language, spec, agent, tmp_path / "run", goods).run(Length(steps=2, record=1, look=4))
    board = EventAccumulator(str(tmp_path / "run"), {"scalars": 0, "tensors": 0})
    board.Reload()
    tags = board.Tags()
    for name in ("reward", "kl", "entropy", "loss"):
        assert [event.step for event in board.Scalars(f"diag/{name}")] == [0, 1, 2]
    assert "samples/text_summary" in tags["tensors"]
    rows = [
        json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 12 and {"step", "prompt", "response", "reward"} == set(rows[0])
    assert rows[0]["reward"] == goods([""], [rows[0]["response"]])[0]


def test_kl_and_entropy_of_the_record_are_those_of_the_law(language, spec, tmp_path):
    """One-token responses: sums over the vocabulary at the prompts that were drawn."""
    agent = make_agent("dpo", spec, SMALL)
    trainer = Trainer(language, spec, agent, tmp_path / "run")
    last = trainer.run(Length(steps=3, look=400))
    seen = agent.samples(spec, trainer.state, 400)
    policy, parameters = LanguagePolicy(), trainer.state.policy.parameters
    with torch.no_grad():
        ratio = (policy.score(spec, parameters, seen) - policy.reference(spec, seen)).sum(-1)
        score = -policy.score(spec, parameters, seen).sum(-1)
    # The plain estimates of the same expectations.
    for name, plain in (("kl", ratio), ("entropy", score)):
        error = plain.std().item() / 20
        assert last[name] == pytest.approx(plain.mean().item(), abs=4 * error)
    assert last["kl"] > 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rewards_that_are_not_finite_are_refused_with_their_row(bad, language, spec, tmp_path):
    agent = make_agent("rloo", spec, SMALL)
    trainer = Trainer(
        language, spec, agent, tmp_path / "run",
        lambda prompts, responses: [0.0] * 3 + [bad] + [0.0] * (len(prompts) - 4),
    )  # fmt: skip
    with pytest.raises(ValueError, match=f"reward of row 3 is {bad}, prompt "):
        trainer.advance()
    trainer.reward = lambda prompts, responses: [0.0]
    with pytest.raises(ValueError, match="the reward gave 1 numbers for 8 responses"):
        trainer.advance()


def test_a_reward_that_is_needed_must_be_given(language, spec, tmp_path):
    with pytest.raises(ValueError, match="learns from rewards"):
        Trainer(language, spec, make_agent("rloo", spec, SMALL), tmp_path)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("dqo", {}, "did you mean 'dpo'"),
        ("psrl", {}, "agent = 'psrl' unknown"),
        ("dpo", {"betta": 1}, "did you mean 'beta'"),
        ("dpo", {"policy": "table"}, "field of dpo = 'policy' unknown"),
        ("dpo", {"beta": 0}, "beta = 0"),
    ],
)
def test_agents_and_fields_that_do_not_fit_are_refused(name, values, message, spec):
    with pytest.raises(ValueError, match=message):
        make_agent(name, spec, values)


def test_adapters_learn(folder, pairs, tmp_path):
    pytest.importorskip("peft")
    language = with_adapters(load_model(folder), 2)
    spec = make_spec(language, read_preferences(pairs), HORIZON)
    agent = make_agent("dpo", spec, {"rate": 2e-2, "batch": 8})
    Trainer(language, spec, agent, tmp_path / "run").run(Length(steps=20, look=4))
    first, *_, last = curves(tmp_path / "run")
    assert last["margin"] > first["margin"] + 1
    critic = make_agent("ppo_rlhf", spec, SMALL)
    Trainer(language, spec, critic, tmp_path / "ppo", goods).run(Length(steps=1, look=4))


def test_a_classifier_scores_a_text_as_by_itself(reward_folder, language):
    score = load_reward(reward_folder)
    prompts, responses = ["w1 w2 w3 :", "w4 :"], ["good", "bad w7 w8"]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(reward_folder).eval()
    got = score(prompts, responses)
    for text, value in zip(map("".join, zip(prompts, responses, strict=True)), got, strict=True):
        with torch.no_grad():
            alone = model(input_ids=torch.tensor([language.encode(text)])).logits.item()
        assert value == pytest.approx(alone, abs=1e-5)
    with pytest.raises(ValueError, match="more than the 48 tokens"):
        score(["w1 " * 60], ["good"])


def test_the_command_trains_resumes_and_refuses(
    folder, reward_folder, pairs, write, tmp_path, capsys
):
    out = tmp_path / "run"
    common = ["lm", "train", "--model", str(folder), "--horizon", "6", "--record", "2"]
    train = [*common, "--agent", "dpo", "--data", str(pairs), "--out", str(out), "batch=4"]
    assert execute([*train, "--steps", "2"]) == 0
    assert execute([*train, "--steps", "4"]) == 0
    said = capsys.readouterr().out
    assert "resumed after step 2" in said and "preference_loss" in said
    assert [row["step"] for row in curves(out)] == [0, 2, 4]
    assert load_model(out / "model").end == 2
    online = [*common, "--agent", "rloo", "--data", str(pairs), "--out", str(tmp_path / "rl")]
    assert execute([*online, "--steps", "1", "batch=4"]) == 2
    assert "learns from rewards" in capsys.readouterr().err
    assert execute([*online, "--steps", "1", "batch=4", "--reward-model", str(reward_folder)]) == 0
    for change, message in (
        ({"--data": str(write(b"", "empty.jsonl"))}, "empty.jsonl: empty"),
        ({"--model": str(tmp_path / "nowhere")}, "is no folder"),
        ({"--agent": "dopo"}, "did you mean"),
        ({"--horizon": "48"}, "horizon = 48 outside [2, 47]"),
        ({"--steps": "0"}, "steps = 0 outside [1, inf)"),
        ({"--device": "tpu"}, "--device = 'tpu' unknown"),
        ({"--form": "pear"}, "did you mean 'paired'"),
    ):
        options = {
            "--model": str(folder), "--agent": "dpo", "--data": str(pairs),
            "--out": str(tmp_path / "new"), "--horizon": "6",
        } | change  # fmt: skip
        words = [word for pair in options.items() for word in pair]
        assert execute(["lm", "train", *words]) == 2
        assert message in capsys.readouterr().err


def test_the_command_without_transformers_says_what_is_missing(
    folder, pairs, tmp_path, monkeypatch, capsys
):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    words = ["lm", "train", "--model", str(folder), "--agent", "dpo", "--data", str(pairs)]
    assert execute([*words, "--out", str(tmp_path / "run")]) == 2
    assert "pip install 'rlkit-gym[lm]'" in capsys.readouterr().err
