"""Behind `drakes_motif`: rows of its table, and the outputs of steered samplers drawn again."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

from rlkit import registry, stats
from rlkit.diffusion.motif_task import MotifDiffusion
from rlkit.diffusion.task import knowledge
from rlkit.engine import Streams
from rlkit.figures import Array, Cell, Data

Values = dict[str, Array]  # what `MotifDiffusion.describe` measures, [N] each


class Row(NamedTuple):
    """A method of the table."""

    label: str
    colour: str
    agent: str
    fields: dict[str, Any]


def tuned(alpha: float, truncation: int = 6) -> Row:
    """A row of DRAKES."""
    fields: dict[str, Any] = {"agent_alpha": alpha, "agent_truncation": truncation}
    label = f"DRAKES, α = {alpha:g}" + (", K = T" if truncation == 12 else "")
    return Row(label, "orange" if truncation == 12 else "vermilion", "drakes", fields)


def balanced(row: Row) -> Row:
    """The same method on motifs that hold three of each letter."""
    return row._replace(fields=row.fields | {"motifs": ("GATAAG", "CTTCCG")})


BASE = Row("pre-trained", "black", "diffusion_best_of_n", {"agent_candidates": 1})
BEST = Row("best-of-10", "grey", "diffusion_best_of_n", {"agent_candidates": 10})
GUIDED = Row("CG", "sky", "dps", {})
SMC = Row("SMC(16)", "green", "diffusion_smc", {})
TDS = Row("TDS(16)", "purple", "tds", {})
SVDD = Row("SVDD-PM(10)", "blue", "svdd", {})
BASELINES = (BASE, BEST, GUIDED, SMC, TDS, SVDD)
TUNED = (tuned(0.0), tuned(0.02), tuned(0.05))
ALL_STEPS = (tuned(0.02, 12), tuned(0.05, 12))
SMOOTH = (*BASELINES, *TUNED, *ALL_STEPS)
BALANCED = tuple(balanced(row) for row in (*BASELINES, *TUNED[:2]))
LEARNED = (BASE, BEST, SVDD, *TUNED[:2])


def values(data: Data, row: Row, reward: str = "smooth") -> Values:
    """Measurements of a method: recorded where it is trained, of its outputs drawn again else."""
    cell = data.cell(row.agent, reward=reward, **row.fields)
    if row.agent != "drakes":
        return redrawn(cell)
    names = [n for n in cell.results.metrics if n.startswith("median_")]
    return {name: cell.final(name) for name in (*names, "log_data", "natural")}


def fields_of(cell: Cell, part: str) -> dict[str, Any]:
    """Fields of the problem or agent of a run, without its name."""
    found = {
        key.removeprefix(f"{part}."): value
        for key, value in cell.config.items()
        if key.startswith(f"{part}.") and key != f"{part}.name"
    }
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


@cache
def redrawn(cell: Cell) -> Values:
    """The outputs of the first iteration of a run, drawn again and measured.

    Raises:
        ValueError: they are not those of the run.
    """
    problem = registry.load("problem", cell.config["env.name"])(**fields_of(cell, "env"))
    agent = registry.load("agent", cell.config["agent.name"])(**fields_of(cell, "agent"))
    replica = torch.arange(int(cell.config["replicas"]))
    streams = Streams(int(cell.config["seed"]), replica)
    instance = problem.instance(streams.at("instance", 0))
    spec = problem.spec(instance)
    state = agent.initial(spec, streams.at("initial", 0))
    action, _ = agent.act(spec, state, None, streams.at("act", 0))
    task = knowledge(spec)
    assert isinstance(task, MotifDiffusion)
    mean = task.gold(action.point, action.prompt).double().mean(1).numpy()
    if not np.allclose(mean, cell.metric("gold_reward")[0], atol=1e-6):
        raise ValueError(f"outputs of {cell.run.key} were not drawn again: {mean[:3]}")
    return {name: value.double().numpy() for name, value in task.describe(action.point).items()}


def shown(value: Array, digits: int) -> str:
    """Mean over replicas and half of its 95 % interval."""
    centre, low, high = (float(x) for x in stats.interval(value))
    return f"{centre:.{digits}f} ± {(high - low) / 2:.{digits}f}"
