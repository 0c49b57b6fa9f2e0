"""Training on an image model, with records and checkpoints.

A folder of a run holds `config.json`, TensorBoard events with grids of images, `curves.jsonl` (a
line a record), `images/` (a grid a record), `checkpoints/`, and at the end `results.parquet` and
what was learned: `noise.safetensors` of FIND, `model/` of DDPO.
"""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from rlkit import checkpoint, files
from rlkit.board import Board
from rlkit.images.ddpo import Ddpo
from rlkit.images.find import Find
from rlkit.images.grids import encoded, grid
from rlkit.images.moments import State
from rlkit.images.saving import save_model
from rlkit.images.task import Task
from rlkit.lm.training import append, fitting, keep_until
from rlkit.random import Rng
from rlkit.results import Results
from rlkit.validation import check_choice, check_integer

AGENTS: dict[str, type[Find] | type[Ddpo]] = {"ddpo": Ddpo, "find": Find}
CURVES, PICTURES, NOISE = "curves.jsonl", "images", "noise.safetensors"
Progress = Callable[[int, float], None]


def make_agent(name: str, values: Mapping[str, Any]) -> Find | Ddpo:
    """The agent of a name with fields of these values.

    Raises:
        ValueError: another name, a field that it does not have or that is outside its range.
    """
    check_choice("agent", name, AGENTS)
    made = AGENTS[name]
    allowed = [field.name for field in fields(made)]
    for key in values:
        check_choice(f"field of {name}", key, allowed)
    return made(**values)


@dataclass(frozen=True)
class Length:
    """How long a run is and how often it is written down.

    Raises:
        ValueError: a number below 1.
    """

    steps: int = 100  # of the agent
    record: int = 10  # steps between records
    save: int = 50  # steps between checkpoints
    look: int = 16  # images drawn for a record

    def __post_init__(self) -> None:
        for field in fields(self):
            check_integer(field.name, getattr(self, field.name), 1)


class Trainer:
    """Trains on one model; a run that was broken off goes on from its last checkpoint.

    Args:
        task: model, sampler, prompts and reward.
        agent: from `make_agent`.
        out: folder of the run.
        seed: of every draw, in `[0, 2**32)`.
        about: what else identifies the run, such as the files it was read from.

    Raises:
        ValueError: a task that the agent refuses, a seed outside its range, or a folder that
            holds another run.
    """

    def __init__(
        self,
        task: Task,
        agent: Find | Ddpo,
        out: Path,
        seed: int = 0,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        check_integer("seed", seed, 0, 2**32 - 1)
        self.task, self.agent, self.out, self.seed = task, agent, out, seed
        sampler = task.sampler
        config = {
            "agent": {"name": type(agent).__name__, **asdict(agent)},
            "guidance": task.guidance,
            "prompts": list(task.prompts),
            "sampler": {
                "clip": sampler.clip if sampler.clip < np.inf else None,
                "eta": sampler.eta,
                "floor": sampler.floor,
                "prediction": sampler.prediction,
                "timestep": sampler.timestep.tolist(),
            },
            "seed": seed,
        }
        # As it is read back: lists for tuples.
        self.config = files.loads(files.dumps({**config, "about": dict(about or {})}))
        self.key = hashlib.sha256(files.dumps(self.config).encode()).hexdigest()
        self.state: State = agent.initial(task, self.draws("initial", 1, 0))
        self.step = 0
        self.restore()

    def draws(self, stream: str, images: int, step: int) -> Rng:
        """Draws of a stream, a replica for each image."""
        return Rng(self.seed, stream, torch.arange(images, device=self.task.model.device), step)

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
        self.state = {name: fitting(tensors, name, leaf) for name, leaf in self.state.items()}

    def save(self) -> None:
        """Write a checkpoint of the present state."""
        checkpoint.save(self.out / "checkpoints", self.state, {"key": self.key}, self.step)

    def advance(self) -> dict[str, float]:
        """One step of the agent; returns what it reports.

        Raises:
            ValueError: a reward or a learned number that is not finite.
        """
        rng = self.draws("act", self.agent.images(self.task), self.step)
        self.state, report = self.agent.advance(self.task, self.state, rng)
        self.step += 1
        refuse_broken(self.state, self.step)
        return report

    def run(self, length: Length, progress: Progress | None = None) -> dict[str, float]:
        """Train up to `length.steps` steps in all, write what was learned; returns the last record.

        Args:
            length: of the run.
            progress: told the number of steps done and the steps a second.

        Raises:
            ValueError: as `advance`.
        """
        (self.out / PICTURES).mkdir(parents=True, exist_ok=True)
        files.write_json(self.out / "config.json", self.config)
        keep_until(self.out / CURVES, self.step)
        board = Board(self.out, self.step, self.config)
        begun, start, report = time.perf_counter(), self.step, dict[str, float]()
        try:
            if self.step == 0:
                self.record(board, length, 0.0, {})
            while self.step < length.steps:
                report = self.advance()
                speed = (self.step - start) / (time.perf_counter() - begun)
                done = self.step == length.steps
                if done or self.step % length.record == 0:
                    self.record(board, length, speed, report)
                if done or self.step % length.save == 0:
                    self.save()
                if progress is not None:
                    progress(self.step, speed)
            self.finish()
            board.finish(self.step)
        finally:
            board.close()
        return {name: value for name, value in self.rows()[-1].items() if name != "step"}

    def measured(self, look: int) -> tuple[dict[str, float], Tensor]:
        """Present values by name, and `look` images `[look, 3, H, W]`, on the same draws always."""
        agent, task = self.agent, self.task
        rng = self.draws("look", look, 0)
        prompt = torch.arange(look, device=rng.device) % task.count
        start = agent.starts(task, self.state, prompt, rng)
        points, _ = task.chains(agent.weights(self.state), start, prompt, rng)
        images, reward = task.scores(points[-1], prompt)
        values = {
            "reward": float(reward.mean()),
            "reward_deviation": float(reward.std(correction=0)),
            "queries": float(self.step * agent.images(task)),
            "evaluations": float(self.step * agent.evaluations(task)),
        }
        return {**values, **agent.report(self.state)}, images

    def record(
        self, board: Board, length: Length, speed: float, report: Mapping[str, float]
    ) -> None:
        """Measure, and write to the board, the file of lines and the folder of images."""
        values, images = self.measured(length.look)
        values = {**values, **report}
        picture = encoded(grid(images))
        files.write_bytes(self.out / PICTURES / f"step_{self.step:012d}.png", picture)
        arrays = {name: np.array([value]) for name, value in values.items()}
        board.record(self.step, {}, arrays, speed, picture=picture)
        append(self.out / CURVES, [{"step": self.step, **values}])

    def rows(self) -> list[dict[str, Any]]:
        """The records of the run so far."""
        return [files.loads(line) for line in (self.out / CURVES).read_bytes().splitlines()]

    def finish(self) -> None:
        """Write the table of records and what was learned."""
        rows = [row for row in self.rows() if row["step"] > 0]
        if rows:
            names = sorted(set.intersection(*(set(row) for row in rows)) - {"step"})
            metrics = {name: np.array([[float(row[name])] for row in rows]) for name in names}
            step = np.array([row["step"] for row in rows], dtype=np.int64)
            replica = np.zeros(1, dtype=np.int64)
            Results(self.key, step, replica, metrics).save(self.out / "results.parquet")
        if isinstance(self.agent, Ddpo):
            weights = self.agent.weights(self.state)
            named = {name: leaf[None] for name, leaf in weights.items()}
            save_model(self.task.model, named, self.out / "model")
            return
        shape = (self.task.count, *self.task.model.shape)
        noise = {"mean": self.state["mean"], "deviation": self.agent.deviation(self.state)}
        with files.replacing(self.out / NOISE) as sibling:
            safetensors.torch.save_file(
                {name: leaf.reshape(shape).contiguous().cpu() for name, leaf in noise.items()},
                sibling,
            )


def refuse_broken(state: State, step: int) -> None:
    """Raise where a learned number is not finite.

    Raises:
        ValueError: naming it and the step.
    """
    for name, leaf in state.items():
        if not bool(torch.isfinite(leaf).all()):
            raise ValueError(f"{name} is not finite after step {step}; try a smaller rate")
