"""How far a run is, for a person who waits: a bar on a terminal, a line a minute elsewhere."""

import sys
import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

LINE_SECONDS = 60.0


class Reporter(Protocol):
    """Follows one run of a known number of steps; used as a context."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End, also after an error."""

    def update(self, step: int, steps_per_s: float) -> None:
        """Report `step` steps done, at `steps_per_s` replica steps a second."""


class Silent:
    """Reports nothing."""

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""

    def update(self, step: int, steps_per_s: float) -> None:
        """Report nothing."""


class Lines(Silent):
    """A line on standard error each minute."""

    def __init__(self, name: str, steps: int, replicas: int) -> None:
        self._name, self._steps, self._replicas = name, steps, replicas
        self._next = time.monotonic() + LINE_SECONDS

    def update(self, step: int, steps_per_s: float) -> None:
        """Print where the last line is a minute old."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + LINE_SECONDS
            message = f"{self._name}: {step} of {self._steps} done"
            if steps_per_s > 0:
                left = (self._steps - step) * self._replicas / steps_per_s
                message += f", {speed(steps_per_s)}, {left / 60:.1f} minutes left"
            say(message)


class Bar:
    """A bar with steps a second and the time left, on standard error."""

    def __init__(self, name: str, steps: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),  # names may hold brackets
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task(name, total=steps, speed="")

    def __enter__(self) -> Self:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the bar."""
        self._progress.stop()

    def update(self, step: int, steps_per_s: float) -> None:
        """Move the bar."""
        text = speed(steps_per_s) if steps_per_s > 0 else ""
        self._progress.update(self._task, completed=step, speed=text)


def reporter(kind: str, name: str, steps: int, replicas: int) -> Reporter:
    """What `output.progress` asks for: "auto", "bar", "line" or "none"."""
    if kind == "none":
        return Silent()
    if kind == "bar" or (kind == "auto" and sys.stderr.isatty()):
        return Bar(name, steps)
    return Lines(name, steps, replicas)


def speed(steps_per_s: float) -> str:
    """Replica steps a second as a short text."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if steps_per_s >= size:
            return f"{steps_per_s / size:.3g} {unit} steps/s"
    return f"{steps_per_s:.3g} steps/s"


def say(message: str) -> None:
    """One line on standard error."""
    print(f"rlkit: {message}", file=sys.stderr, flush=True)
