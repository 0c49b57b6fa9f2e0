"""Training on an image model, with records and checkpoints.

A folder of a run holds `config.json`, TensorBoard events with grids of images, `curves.jsonl` (a
line a record), `images/` (a grid a record), `checkpoints/`, and at the end `results.parquet` and
what was learned: `noise.safetensors` of FIND, `model/` of DDPO.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from rlkit import files
from rlkit.images.ddpo import Ddpo
from rlkit.images.find import Find
from rlkit.images.grids import encoded, grid
from rlkit.images.moments import State
from rlkit.images.saving import save_model
from rlkit.images.task import Task
from rlkit.random import Rng
from rlkit.results import Results
from rlkit.tuning.run import Length, Shown, Tuning
from rlkit.validation import check_choice

__all__ = ["Length", "Trainer", "make_agent"]

AGENTS: dict[str, type[Find] | type[Ddpo]] = {"ddpo": Ddpo, "find": Find}
PICTURES, NOISE = "images", "noise.safetensors"


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


class Trainer(Tuning):
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

    state: State

    def __init__(
        self,
        task: Task,
        agent: Find | Ddpo,
        out: Path,
        seed: int = 0,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        sampler = task.sampler
        settings = {
            "guidance": task.guidance,
            "prompts": list(task.prompts),
            "sampler": {
                "clip": sampler.clip if sampler.clip < np.inf else None,
                "eta": sampler.eta,
                "floor": sampler.floor,
                "prediction": sampler.prediction,
                "timestep": sampler.timestep.tolist(),
            },
        }
        super().__init__(agent, out, seed, settings, about)
        self.task, self.agent = task, agent
        self.restore(agent.initial(task, self.draws("initial", 1, 0)))

    def draws(self, stream: str, images: int, step: int) -> Rng:
        """Draws of a stream, a replica for each image."""
        return Rng(self.seed, stream, torch.arange(images, device=self.task.model.device), step)

    def update(self) -> dict[str, float]:
        """Take one step of the agent; returns what it reports."""
        rng = self.draws("act", self.agent.images(self.task), self.step)
        self.state, report = self.agent.advance(self.task, self.state, rng)
        return report

    def learned(self) -> State:
        """The state, which must stay finite, `[...]` by name."""
        return self.state

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

    def show(self, look: int) -> Shown:
        """Measure on `look` images, and write them as one picture."""
        (self.out / PICTURES).mkdir(exist_ok=True)
        values, images = self.measured(look)
        picture = encoded(grid(images))
        files.write_bytes(self.out / PICTURES / f"step_{self.step:012d}.png", picture)
        return Shown(values, picture=picture)

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
