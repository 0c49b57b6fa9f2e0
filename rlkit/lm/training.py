"""Training of a language model by the agents of this library, with records and checkpoints.

A folder of a run holds `config.json`, TensorBoard events, `curves.jsonl` and `samples.jsonl` (a
line a record), `checkpoints/`, and at the end `model/`: an ordinary folder of a trained model.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_unflatten

from rlkit import checkpoint, files, registry
from rlkit.alignment.agents import AlignmentAgent, Learner
from rlkit.alignment.offline import OfflineAgent
from rlkit.board import Board
from rlkit.lm.knowledge import language_knowledge
from rlkit.lm.measures import Sample, measured, rewarded
from rlkit.lm.model import LanguageModel, Reward, save_model
from rlkit.protocol import Spec, Transition
from rlkit.random import Rng
from rlkit.tokens.problem import Scores
from rlkit.validation import check_choice, check_integer

OFFLINE = ("dpo", "ipo", "kto", "nca", "sft", "simpo", "slic")
ONLINE = ("dr_po", "grpo", "ppo_rlhf", "reinforce", "rloo")
RATE = 1e-5  # step size unless given: weights of a language model take small steps
BATCH = 16  # responses a step unless given
CURVES, SAMPLES = "curves.jsonl", "samples.jsonl"


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


@dataclass(frozen=True)
class Length:
    """How long a run is and how often it is written down.

    Raises:
        ValueError: a number below 1.
    """

    steps: int = 100  # of the agent
    record: int = 10  # steps between records
    save: int = 50  # steps between checkpoints
    look: int = 16  # responses written for a record

    def __post_init__(self) -> None:
        for field in fields(self):
            check_integer(field.name, getattr(self, field.name), 1)


class Trainer:
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
        check_integer("seed", seed, 0, 2**32 - 1)
        if reward is None and not isinstance(agent, OfflineAgent):
            raise ValueError(f"{type(agent).__name__} learns from rewards; give a reward model")
        self.language, self.spec, self.agent = language, spec, agent
        self.out, self.reward, self.seed = out, reward, seed
        described = {"name": type(agent).__name__, **asdict(agent)}  # type: ignore[call-overload]
        config = {"agent": described, "horizon": spec.horizon, "seed": seed}
        # As it is read back: lists for tuples.
        self.config = files.loads(files.dumps({**config, "about": dict(about or {})}))
        self.key = hashlib.sha256(files.dumps(self.config).encode()).hexdigest()
        replica = torch.zeros(1, dtype=torch.int64, device=first_parameter(language).device)
        self.replica = replica
        self.state: Learner = agent.initial(spec, Rng(seed, "initial", replica))
        self.step = 0
        self.restore()

    def restore(self) -> None:
        """Take the state of the last checkpoint, if there is one.

        Raises:
            ValueError: the folder holds a run with other settings, or checkpoints that do not fit.
        """
        path = self.out / "config.json"
        if path.exists() and files.read_json(path) != self.config:
            raise ValueError(f"{self.out} holds a run with other settings; accepted: a new folder")
        found = checkpoint.load(self.out / "checkpoints", self.key)
        if found is None:
            return
        tensors, _, self.step = found
        leaves, structure = tree_flatten_with_path(self.state)
        after = [fitting(tensors, keystr(path), leaf) for path, leaf in leaves]
        self.state = tree_unflatten(after, structure)

    def save(self) -> None:
        """Write a checkpoint of the present state."""
        leaves, _ = tree_flatten_with_path(self.state)
        tensors = {keystr(path): leaf for path, leaf in leaves}
        checkpoint.save(self.out / "checkpoints", tensors, {"key": self.key}, self.step)

    def advance(self) -> None:
        """One step of the agent."""
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
        self.step += 1
        refuse_broken(self.state, self.step)

    def run(self, length: Length) -> dict[str, float]:
        """Train up to `length.steps` steps in all and write the model; returns the last record.

        Raises:
            ValueError: a reward or a weight that is not finite.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        files.write_json(self.out / "config.json", self.config)
        for name in (CURVES, SAMPLES):
            keep_until(self.out / name, self.step)
        board = Board(self.out, self.step, self.config)
        begun, start = time.perf_counter(), self.step
        last: dict[str, float] = {}
        try:
            if self.step == 0:
                self.record(board, length, 0.0)
            while self.step < length.steps:
                self.advance()
                done = self.step == length.steps
                if done or self.step % length.record == 0:
                    speed = (self.step - start) / (time.perf_counter() - begun)
                    last = self.record(board, length, speed)
                if done or self.step % length.save == 0:
                    self.save()
            save_model(self.language, self.state.policy.parameters, self.out / "model")
            board.finish(self.step)
        finally:
            board.close()
        return last or self.record_only(length)

    def record_only(self, length: Length) -> dict[str, float]:
        """What a record would hold, without writing it."""
        return measured(self.spec, self.agent, self.state, self.reward, length.look)[0]

    def record(self, board: Board, length: Length, speed: float) -> dict[str, float]:
        """Measure, and write to the board and the two files of lines."""
        values, samples = measured(self.spec, self.agent, self.state, self.reward, length.look)
        lines = [readable(sample) for sample in samples]
        arrays = {name: np.array([value]) for name, value in values.items()}
        board.record(self.step, {}, arrays, speed, samples=lines)
        append(self.out / CURVES, [{"step": self.step, **values}])
        append(self.out / SAMPLES, [{"step": self.step, **each._asdict()} for each in samples])
        return values


def first_parameter(language: LanguageModel) -> Tensor:
    """Any tensor of the model, for its device."""
    return next(language.module.parameters())


def fitting(tensors: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    """A tensor of a checkpoint.

    Raises:
        ValueError: it is missing or of another shape or type.
    """
    found = tensors.get(name)
    if found is None or found.shape != like.shape or found.dtype != like.dtype:
        raise ValueError(f"the checkpoint lacks {name} of shape {list(like.shape)} {like.dtype}")
    return found.to(like.device)


def refuse_broken(state: Learner, step: int) -> None:
    """Raise where a weight is not finite.

    Raises:
        ValueError: naming the weight and the step.
    """
    for name, leaf in state.policy.parameters.items():
        if not bool(torch.isfinite(leaf).all()):
            raise ValueError(f"{name} is not finite after step {step}; try a smaller rate")


def preferred(scores: Tensor) -> Tensor:
    """1 where response `2 i` has a higher reward than its neighbour, 0, 1/2 for a tie, `[1, P]`."""
    count = scores.shape[1] // 2 * 2
    ahead = scores[:, 0:count:2] - scores[:, 1:count:2]
    return (torch.sign(ahead) + 1) / 2


def readable(sample: Sample) -> str:
    """A sample on one line."""
    reward = "" if sample.reward is None else f"{sample.reward:.3g}  "
    return f"{reward}{json.dumps(sample.prompt[-80:])} -> {json.dumps(sample.response)}"


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add lines of JSON to a file."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(files.dumps(row) + "\n" for row in rows)


def keep_until(path: Path, step: int) -> None:
    """Drop the lines of a file that a resumed run writes again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().split(b"\n"):
        try:
            row = files.loads(line)
        except ValueError:  # the end of a file that was being written
            continue
        if step > 0 and row["step"] <= step:
            kept.append(files.dumps(row))
    files.write_bytes(path, "".join(line + "\n" for line in kept).encode())
