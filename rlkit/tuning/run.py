"""A run that trains one model, with records and checkpoints, whatever the model is.

Its folder holds `config.json`, TensorBoard events, `curves.jsonl` (a line a record),
`checkpoints/` and what the kind of run adds.
"""

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import MappingKey, keystr, tree_flatten_with_path, tree_map_with_path

from rlkit import checkpoint, files
from rlkit.board import Board
from rlkit.protocol import Tree
from rlkit.validation import check_integer

CURVES = "curves.jsonl"
Progress = Callable[[int, float], None]  # told the steps done and the steps a second


@dataclass(frozen=True)
class Length:
    """How long a run is and how often it is written down.

    Raises:
        ValueError: a number below 1.
    """

    steps: int = 100  # of the agent
    record: int = 10  # steps between records
    save: int = 50  # steps between checkpoints
    look: int = 16  # responses or images drawn for a record

    def __post_init__(self) -> None:
        for field in fields(self):
            check_integer(field.name, getattr(self, field.name), 1)


class Shown(NamedTuple):
    """What a record shows."""

    values: dict[str, float]  # by name
    samples: Sequence[str] = ()  # what a language model wrote, one on a line
    picture: bytes = b""  # a PNG file of what an image model drew


class Tuning(ABC):
    """Trains one model; a run that was broken off goes on from its last checkpoint.

    A kind of run calls `restore` when it is made, and says what a step is (`update`), what it
    learns (`learned`), what a record shows (`show`) and what it leaves at the end (`finish`).

    Args:
        agent: a dataclass, whose fields identify the run.
        out: folder of the run.
        seed: of every draw, in `[0, 2**32)`.
        settings: what else identifies it.
        about: the same, from the caller, such as the files it was read from.

    Raises:
        ValueError: a seed outside its range, or settings that JSON does not know.
    """

    lines: ClassVar[tuple[str, ...]] = (CURVES,)  # files to which a record adds lines
    state: Any  # tree of tensors, with what is learned

    def __init__(
        self,
        agent: Any,
        out: Path,
        seed: int,
        settings: Mapping[str, Any],
        about: Mapping[str, Any] | None,
    ) -> None:
        check_integer("seed", seed, 0, 2**32 - 1)
        self.out, self.seed, self.step = out, seed, 0
        described = {"name": type(agent).__name__, **asdict(agent)}
        config = {"agent": described, "seed": seed, "about": dict(about or {}), **settings}
        # As it is read back: lists for tuples.
        self.config = files.loads(files.dumps(config))
        self.key = hashlib.sha256(files.dumps(self.config).encode()).hexdigest()

    @abstractmethod
    def update(self) -> dict[str, float]:
        """Take one step of the agent; returns what it reports."""

    @abstractmethod
    def learned(self) -> dict[str, Tensor]:
        """What must stay finite, `[...]` by name."""

    @abstractmethod
    def show(self, look: int) -> Shown:
        """Measure on `look` samples, and write what belongs beside the curves."""

    @abstractmethod
    def finish(self) -> None:
        """Write what was learned."""

    def restore(self, fresh: Tree) -> None:
        """Take the state of the last checkpoint, or `fresh` if there is none.

        Raises:
            ValueError: the folder holds a run with other settings, or checkpoints that do not fit.
        """
        path = self.out / "config.json"
        if path.exists() and files.read_json(path) != self.config:
            raise ValueError(f"{self.out} holds a run with other settings; accepted: a new folder")
        self.state = fresh
        found = checkpoint.load(self.out / "checkpoints", self.key)
        if found is not None:
            tensors, _, self.step = found
            self.state = tree_map_with_path(
                lambda place, leaf: fitting(tensors, name_of(place), leaf), fresh
            )

    def save(self) -> None:
        """Write a checkpoint of the present state."""
        leaves, _ = tree_flatten_with_path(self.state)
        tensors = {name_of(place): leaf for place, leaf in leaves}
        checkpoint.save(self.out / "checkpoints", tensors, {"key": self.key}, self.step)

    def advance(self) -> dict[str, float]:
        """One step of the agent; returns what it reports.

        Raises:
            ValueError: a reward or a learned number that is not finite.
        """
        report = self.update()
        self.step += 1
        for name, leaf in self.learned().items():
            if not bool(torch.isfinite(leaf).all()):
                raise ValueError(f"{name} is not finite after step {self.step}; try a smaller rate")
        return report

    def run(self, length: Length, progress: Progress | None = None) -> dict[str, float]:
        """Train up to `length.steps` steps in all, write what was learned; returns the last record.

        Args:
            length: of the run.
            progress: told the number of steps done and the steps a second.

        Raises:
            ValueError: as `advance`.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        files.write_json(self.out / "config.json", self.config)
        for name in self.lines:
            keep_until(self.out / name, self.step)
        board = Board(self.out, self.step, self.config)
        begun, start = time.perf_counter(), self.step
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
        last = self.rows()[-1:] or [{}]
        return {name: value for name, value in last[0].items() if name != "step"}

    def record(
        self, board: Board, length: Length, speed: float, report: Mapping[str, float]
    ) -> None:
        """Measure, and write to the board and the curves."""
        shown = self.show(length.look)
        values = {**shown.values, **report}
        arrays = {name: np.array([value]) for name, value in values.items()}
        board.record(self.step, {}, arrays, speed, samples=shown.samples, picture=shown.picture)
        append(self.out / CURVES, [{"step": self.step, **values}])

    def rows(self) -> list[dict[str, Any]]:
        """The records of the run so far; none where their file was deleted."""
        path = self.out / CURVES
        lines = path.read_bytes().splitlines() if path.exists() else []
        return [files.loads(line) for line in lines]


def name_of(place: tuple[Any, ...]) -> str:
    """Name of a tensor in a checkpoint: its key in a flat state, else the path to it."""
    flat = len(place) == 1 and isinstance(place[0], MappingKey)
    return str(place[0].key) if flat else keystr(place)


def fitting(tensors: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    """A tensor of a checkpoint, `[...]` as `like`.

    Raises:
        ValueError: it is missing or of another shape or type.
    """
    found = tensors.get(name)
    if found is None or found.shape != like.shape or found.dtype != like.dtype:
        raise ValueError(f"the checkpoint lacks {name} of shape {list(like.shape)} {like.dtype}")
    return found.to(like.device)


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
