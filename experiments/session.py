"""The part of a run that one process does: advance, record, save, finish."""

import contextlib
import datetime
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlkit import checkpoint, files, provenance, results
from rlkit.config import RunConfig
from rlkit.experiments.interrupts import Request
from rlkit.experiments.progress import reporter, say
from rlkit.protocol import Discrete
from rlkit.rollout import TIERS, Rollout, Run

if TYPE_CHECKING:
    from rlkit.board import Board

PIECE_SECONDS = 0.2  # between looks at the clock and at signals
WASTEFUL = 4  # times as many replicas computed as asked for
SHOWN = 8  # samples of text at a record
CHECKPOINT = "checkpoint"
RECORD, STATE = "record/", "state/"

Array = NDArray[np.float64]


class RunError(RuntimeError):
    """A run that failed; the message is one line."""


def begin(config: RunConfig, tier: str) -> Rollout:
    """The rollout of a configuration before its first step.

    Raises:
        ValueError: problem and agent do not fit.
        RunError: something in them raised.
    """
    run = Run(
        config.problem(),
        config.learner(),
        steps=config.steps,
        replicas=config.replicas,
        seed=config.seed,
        first_replica=config.first_replica,
        group=config.group,
        tier=tier,
        device=config.device,
    )
    try:
        return Rollout(run)
    except ValueError:
        raise
    except Exception as error:
        raise RunError(f"{config.folder} failed before step 1: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Kind and first line of an error."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


class Session:
    """Takes a run from where it stands to its end.

    Args:
        config: of the run.
        folder: of the run, locked by the caller.
        loop: at step 0.
        request: tells when to stop early.

    Raises:
        ValueError: the checkpoint is damaged or of another run.
    """

    def __init__(self, config: RunConfig, folder: Path, loop: Rollout, request: Request) -> None:
        self.config, self.folder, self.loop, self.request = config, folder, loop, request
        self.rows: dict[str, list[Array]] = {name: [] for name in loop.record()}
        self.seconds, self.peak, self.began = 0.0, 0, time.monotonic()
        loaded = checkpoint.load(folder / CHECKPOINT, config.key)
        if loaded:
            try:
                self._restore(*loaded)
            except ValueError as error:
                raise ValueError(f"{folder / CHECKPOINT}: {error}") from None
        self.started_at, self.saved, self.marked = self.loop.step, self.began, self.began
        self.board: Board | None = None

    def _restore(self, tensors: dict[str, Tensor], meta: dict[str, Any], step: int) -> None:
        tier, seconds, peak = (meta.get(name) for name in ("tier", "seconds", "peak"))
        if tier not in TIERS or not isinstance(seconds, float) or not isinstance(peak, int):
            raise ValueError(f"tier {tier!r}, seconds {seconds!r} or peak {peak!r} is malformed")
        self.seconds, self.peak = seconds, peak
        if tier != self.loop.tier:
            # It fell back before; the tiers may differ in the last bit, so it stays there.
            self.loop = begin(self.config, tier)
        state = {k.removeprefix(STATE): v for k, v in tensors.items() if k.startswith(STATE)}
        self.loop.restore(state, step)
        done = sum(point <= step for point in self.loop.grid)
        rows = {k.removeprefix(RECORD): v for k, v in tensors.items() if not k.startswith(STATE)}
        if set(rows) != set(self.rows):
            name = min(set(rows) ^ set(self.rows))
            odd = "surplus" if name in rows else "missing"
            raise ValueError(f"{odd} record {name!r}: another version's; remove the folder")
        for name, values in rows.items():
            expected = (done, self.config.replicas)
            if tuple(values.shape) != expected or values.dtype != torch.float64:
                raise ValueError(f"record {name!r} is {values.dtype} {list(values.shape)}")
            self.rows[name] = list(values.numpy())
        if self.config.output.progress != "none":
            say(f"{self.folder} goes on at step {step}")

    def run(self) -> None:
        """Advance to the end and write the results.

        Raises:
            RunError: a metric became NaN or infinite, or something in the run raised.
            KeyboardInterrupt: asked to stop; a checkpoint was saved.
        """
        try:
            self._introduce()
            self._advance()
            self._finish()
        except KeyboardInterrupt:
            self._status("interrupted")
            raise
        except Exception as error:
            line = one_line(error)
            # On a full disk the reason is worth more than the failure to write it down.
            with contextlib.suppress(OSError):
                self._status("failed", line)
            if isinstance(error, RunError):
                raise
            raise RunError(f"{self.folder} failed at step {self.loop.step}: {line}") from error
        else:
            # Here, because a run that is done stays done whatever interrupts the tidying.
            shutil.rmtree(self.folder / CHECKPOINT, ignore_errors=True)
        finally:
            if self.board is not None:
                # `_finish` has closed it already, unless something went wrong before.
                with contextlib.suppress(OSError):
                    self.board.close()

    def _introduce(self) -> None:
        for left_behind in self.folder.glob(".*.tmp-*"):
            left_behind.unlink()
        path = self.folder / results.MANIFEST
        sessions = files.read_json(path).get("sessions", []) if path.exists() else []
        self.manifest = {
            "config": self.config.document(),
            "device": device_name(self.config.device),
            "key": self.config.key,
            "sessions": [*sessions, {"started": now(), "step": self.loop.step}],
            **provenance.circumstances(),
        }
        files.write_json(path, self.manifest)
        self._status("running")
        padded, asked = self.config.padded_replicas, self.config.replicas
        if padded >= WASTEFUL * asked and self.config.output.progress != "none":
            say(
                f"group = {self.config.group} computes {padded} replicas for the {asked} asked "
                f"for: group={asked} takes less time and memory (another last bit, too)"
            )
        if self.config.output.tensorboard:
            from rlkit.board import Board

            self.board = Board(self.folder, self.loop.step, self.config.document())

    def _advance(self) -> None:
        config, loop, chunks = self.config, self.loop, 1
        name = f"{config.experiment} {config.key}"
        with reporter(config.output.progress, name, config.steps, config.replicas) as progress:
            for point in loop.grid:
                while loop.step < point:
                    before = time.monotonic()
                    # Only whole chunks: where a chunk is cut may show in the last bit.
                    whole = (loop.step // loop.chunk + chunks) * loop.chunk
                    loop.advance(point if loop.step < loop.chunk else min(point, whole))
                    if loop.step == point:
                        self._record()
                    progress.update(loop.step, self._speed())
                    self._look_up()
                    spent = time.monotonic() - before
                    chunks = chunks * 2 if spent < PIECE_SECONDS / 2 else max(1, chunks // 2)

    def _speed(self) -> float:
        done = (self.loop.step - self.started_at) * self.config.replicas
        return done / max(time.monotonic() - self.began, 1e-9)

    def _record(self) -> None:
        row = self._row()
        for name, values in row.items():
            self.rows[name].append(values)
        if self.board is None:
            return
        totals = self.loop.groups[0].carry.totals
        space = self.loop.groups[0].spec.action
        actions = self.loop.actions() if isinstance(space, Discrete) else None
        self.board.record(
            self.loop.step,
            {name: values for name, values in row.items() if name in totals},
            {name: values for name, values in row.items() if name not in totals},
            self._speed(),
            None if actions is None else actions.numpy(),
            space.n if isinstance(space, Discrete) else 0,
            self._samples(),
        )

    def _samples(self) -> list[str]:
        """What the agent writes at present, where agent and problem can show it."""
        show = getattr(self.loop.run.agent, "samples", None)
        read = getattr(self.loop.run.problem, "transcripts", None)
        if show is None or read is None:
            return []
        group = self.loop.groups[0]
        return list(read(group.instance, show(group.spec, group.carry.agent, SHOWN)))

    def _row(self) -> dict[str, Array]:
        """The present metrics, `[N]` each.

        Raises:
            RunError: one of them is NaN or infinite.
        """
        row = {name: values.double().numpy() for name, values in self.loop.record().items()}
        fault = results.first_fault(
            {name: values[None] for name, values in row.items()},
            np.array([self.loop.step]),
            np.arange(self.config.replicas) + self.config.first_replica,
        )
        if fault:
            raise RunError(f"{self.folder}: {fault}")
        return row

    def _look_up(self) -> None:
        """Before the end, save where it is time or the process is to stop."""
        if self.loop.step == self.config.steps:
            return
        waited = time.monotonic() - self.saved
        if self.request.made or waited >= self.config.output.checkpoint_seconds:
            self._save()
        if self.request.made:
            raise KeyboardInterrupt

    def _save(self) -> None:
        self._row()  # what is not finite is not saved
        self._account()
        tensors = {STATE + name: leaf for name, leaf in self.loop.state().items()}
        for name, values in self.rows.items():
            stacked = np.array(values).reshape(len(values), self.config.replicas)
            tensors[RECORD + name] = torch.from_numpy(stacked)
        meta = {
            "key": self.config.key,
            "peak": self.peak,
            "seconds": self.seconds,
            "tier": self.loop.tier,
        }
        checkpoint.save(self.folder / CHECKPOINT, tensors, meta, self.loop.step)
        if self.board is not None:
            self.board.flush()
        self._status("running")
        self.saved = time.monotonic()

    def _account(self) -> None:
        """Add the time since the last call, and the memory."""
        before, self.marked = self.marked, time.monotonic()
        self.seconds += self.marked - before
        self.peak = max(self.peak, provenance.peak_memory())

    def _status(self, state: str, error: str | None = None) -> None:
        status = {"state": state, "step": self.loop.step, "steps": self.config.steps}
        reason = {} if error is None else {"error": error}
        files.write_json(self.folder / results.STATUS, {**status, **reason, "updated": now()})

    def _finish(self) -> None:
        config, loop, path = self.config, self.loop, self.folder / results.TABLE
        replica = np.arange(config.first_replica, config.first_replica + config.replicas)
        metrics = {name: np.stack(values) for name, values in self.rows.items()}
        results.Results(config.key, np.array(loop.grid), replica, metrics).save(path)
        self._account()
        self.manifest |= {
            "finished": now(),
            "peak_memory_bytes": self.peak,
            "results": files.fingerprint(path),
            "seconds": self.seconds,
            "steps_per_s": config.steps * config.replicas / self.seconds,
            "tier": {"requested": config.tier, "used": loop.tier},
        }
        files.write_json(self.folder / results.MANIFEST, self.manifest)
        if self.board is not None:
            self.board.finish(loop.step)
        self._status("done")


def now() -> str:
    """Date and time, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def device_name(device: str) -> str:
    """Name of the processor or of the accelerator."""
    return provenance.processor() if device == "cpu" else torch.cuda.get_device_name(device)
