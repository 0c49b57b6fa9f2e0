"""Training of a language model by the agents of this library, with records and checkpoints.

A folder of a run holds `config.json`, TensorBoard events, `curves.jsonl` and `samples.jsonl` (a
line a record), `checkpoints/`, and at the end `model/`: an ordinary folder of a trained model.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlkit import registry
from rlkit.alignment.agents import AlignmentAgent, Learner
from rlkit.alignment.offline import OfflineAgent
from rlkit.lm.knowledge import language_knowledge
from rlkit.lm.measures import Sample, measured, rewarded
from rlkit.lm.model import LanguageModel, Reward, save_model
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.tokens.problem import Scores
from rlkit.tuning.run import CURVES, Length, Shown, Tuning, append
from rlkit.validation import check_choice

__all__ = ["OFFLINE", "ONLINE", "Length", "Trainer", "make_agent"]

OFFLINE = ("dpo", "ipo", "kto", "nca", "sft", "simpo", "slic")
ONLINE = ("dr_po", "grpo", "ppo_rlhf", "reinforce", "rloo")
RATE = 1e-5  # step size unless given: weights of a language model take small steps
BATCH = 16  # responses a step unless given
SAMPLES = "samples.jsonl"


def make_agent(name: str, spec: Spec, values: Mapping[str, Any]) -> AlignmentAgent:
    """The agent of a name with fields of these values, on a language model.

    `rate` and `batch` are small, and `source` is "outcomes" where the file holds verdicts, unless
    given.

    Raises:
        ValueError: an agent that does not train language models, or a field that it does not have
            or that is outside its range.
    """
    known = [each for each in (*OFFLINE, *ONLINE) if each in registry.entries("agent")]
    check_choice("agent", name, known)
    made = registry.load("agent", name)
    allowed = {field.name for field in fields(made)} - {"policy", "network", "responses"}
    for key in values:
        check_choice(f"field of {name}", key, allowed)
    given: dict[str, Any] = {"rate": RATE, "batch": BATCH}
    if "value_rate" in allowed:
        given["value_rate"] = RATE
    if "source" in allowed and not language_knowledge(spec).data.preferred.shape[1]:
        given["source"] = "outcomes"
    agent: AlignmentAgent = made(**{**given, **values, "policy": "lm"})
    if getattr(agent, "reward", "observed") != "observed":
        raise ValueError(f"reward = {agent.reward!r}; accepted with a language model: 'observed'")
    return agent


class Trainer(Tuning):
    """Trains one language model; a run that was broken off goes on from its last checkpoint.

    Args:
        language: the model, which stays the reference.
        spec: of the task, from `rlkit.lm.knowledge.make_spec`.
        agent: from `make_agent`.
        out: folder of the run.
        reward: of responses, for agents that learn from them.
        seed: of every draw, in `[0, 2**32)`.
        about: what else identifies the run, such as the files it was read from.

    Raises:
        ValueError: an online agent without a reward, a seed outside its range, or a folder that
            holds another run.
    """

    lines = (CURVES, SAMPLES)
    state: Learner

    def __init__(
        self,
        language: LanguageModel,
        spec: Spec,
        agent: AlignmentAgent,
        out: Path,
        reward: Reward | None = None,
        seed: int = 0,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(agent, out, seed, {"horizon": spec.horizon}, about)
        if reward is None and not isinstance(agent, OfflineAgent):
            raise ValueError(f"{type(agent).__name__} learns from rewards; give a reward model")
        self.language, self.spec, self.agent, self.reward = language, spec, agent, reward
        device = next(language.module.parameters()).device
        self.replica = torch.zeros(1, dtype=torch.int64, device=device)
        self.restore(agent.initial(spec, Rng(seed, "initial", self.replica)))

    def update(self) -> dict[str, float]:
        """Take one step of the agent, which reports nothing."""
        spec, agent = self.spec, self.agent
        learn = Rng(self.seed, "learn", self.replica, self.step)
        nothing: Any = None
        if isinstance(agent, OfflineAgent):  # does not read what it would write
            batch = Transition(nothing, nothing, nothing, nothing, nothing, nothing)
        else:
            act = Rng(self.seed, "act", self.replica, self.step)
            written, self.state = agent.act(spec, self.state, None, act)
            assert self.reward is not None
            scores = rewarded(spec, written, self.reward)
            feedback = Scores(scores, preferred(scores))
            batch = Transition(
                nothing, written, scores.mean(1), nothing, nothing, nothing, feedback
            )
        self.state = agent.learn(spec, self.state, batch, learn)  # type: ignore[attr-defined]
        return {}

    def learned(self) -> dict[str, Tensor]:
        """The policy's weights, which must stay finite, `[1, ...]` by name."""
        return self.state.policy.parameters

    def show(self, look: int) -> Shown:
        """Measure on `look` responses, and write them as lines."""
        values, samples = measured(self.spec, self.agent, self.state, self.reward, look)
        append(self.out / SAMPLES, [{"step": self.step, **each._asdict()} for each in samples])
        return Shown(values, samples=[readable(sample) for sample in samples])

    def finish(self) -> None:
        """Write the trained model."""
        save_model(self.language, self.state.policy.parameters, self.out / "model")


def preferred(scores: Tensor) -> Tensor:
    """1 where response `2 i` has a higher reward than its neighbour, 0, 1/2 for a tie, `[1, P]`."""
    count = scores.shape[1] // 2 * 2
    ahead = scores[:, 0:count:2] - scores[:, 1:count:2]
    return (torch.sign(ahead) + 1) / 2


def readable(sample: Sample) -> str:
    """A sample on one line."""
    reward = "" if sample.reward is None else f"{sample.reward:.3g}  "
    return f"{reward}{json.dumps(sample.prompt[-80:])} -> {json.dumps(sample.response)}"
