"""The window on a run: TensorBoard events, all values of one record in one event.

The x axis is the number of environment steps of each replica. Figures never read these files.
Tags: `regret/cumulative` with `regret/lower` and `regret/upper` (95 % Student interval of the mean
over replicas), `regret/average` and `reward/mean` (a step), `diag/*`, `time/steps_per_s`, the
histogram `actions`, the texts `config` and `samples`, the image `images`.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_DOUBLE, DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from rlkit import files, stats

EVENTS = "events.out.tfevents.*"
DRAIN_SECONDS = 1.0
FLUSH_SECONDS = 5
QUEUE = 1000
BINS = 64
AXIS = "x: environment steps of each replica"
CONFIG = "resolved configuration of the run"

Array = NDArray[Any]


class Board:
    """Writes the events of one run into its folder.

    Args:
        folder: of the run.
        resumed_at: step from which the run goes on; 0 replaces what a run without a checkpoint
            left, otherwise readers drop the events after this step.
        config: nested configuration, shown as text and as hyper-parameters.
    """

    def __init__(self, folder: Path, resumed_at: int, config: Mapping[str, Any]) -> None:
        self._described: set[str] = set()
        self._pending: list[Event] = []
        self._drained = time.monotonic()
        if resumed_at == 0:
            for stale in folder.glob(EVENTS):
                stale.unlink()
        self._writer = EventFileWriter(str(folder), QUEUE, FLUSH_SECONDS)
        # Readers take a second START for a restart, and drop what it overlaps.
        start = SessionLog(status=SessionLog.START)
        self._pending.append(Event(wall_time=time.time(), step=resumed_at + 1, session_log=start))
        if resumed_at == 0:
            self._introduce(config)
        self.flush()

    def _introduce(self, config: Mapping[str, Any]) -> None:
        summary = hparams_pb(flat(config))
        summary.value.append(_text("config", files.dumps(config, indent=2), CONFIG))
        summary.value.append(_layout())
        self._add(summary, 0)

    def record(
        self,
        step: int,
        totals: Mapping[str, Array],
        diagnostics: Mapping[str, Array],
        steps_per_s: float,
        actions: Array | None = None,
        arms: int = 0,
        samples: Sequence[str] = (),
        picture: bytes = b"",
    ) -> None:
        """Write what is known after `step` steps.

        Args:
            step: at least 1.
            totals: sums since the start by name, `[N]` each.
            diagnostics: present values by name, `[N]` each.
            steps_per_s: replica steps a second.
            actions: `[N]` integers in `[0, arms)` chosen last, None where they are not discrete.
            arms: number of actions.
            samples: lines of text that the agent wrote.
            picture: a PNG file of what the agent made, empty for none.
        """
        values = scalars(step, totals, diagnostics)
        values["time/steps_per_s"] = steps_per_s
        summary = Summary()
        for tag, value in values.items():
            entry = summary.value.add(tag=tag, simple_value=value)
            if tag not in self._described:
                self._described.add(tag)
                entry.metadata.CopyFrom(_axis())
        if actions is not None:
            summary.value.append(_histogram(actions, arms))
        if samples:
            lines = "\n".join(samples)
            summary.value.append(_text("samples", lines, "written by the present policy"))
        if picture:
            summary.value.append(_image(picture))
        self._add(summary, step)

    def _add(self, summary: Summary, step: int) -> None:
        self._pending.append(Event(wall_time=time.time(), step=step, summary=summary))
        # Each hand-over waits for the writer's thread, so events go in batches.
        if time.monotonic() - self._drained > DRAIN_SECONDS:
            self._drain()

    def _drain(self) -> None:
        for event in self._pending:
            self._writer.add_event(event)
        self._pending.clear()
        self._drained = time.monotonic()

    def flush(self) -> None:
        """Hand everything to the system, so that a reader sees it."""
        self._drain()
        self._writer.flush()

    def finish(self, step: int) -> None:
        """Mark the hyper-parameter session as successful and close the file."""
        info = plugin_data_pb2.SessionEndInfo(
            status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time()
        )
        data = plugin_data_pb2.HParamsPluginData(session_end_info=info)
        value = Summary.Value(
            tag=hparams_metadata.SESSION_END_INFO_TAG,
            metadata=hparams_metadata.create_summary_metadata(data),
            tensor=hparams_metadata.NULL_TENSOR,
        )
        self._add(Summary(value=[value]), step)
        self.close()

    def close(self) -> None:
        """Write what is pending and close the file."""
        self._drain()
        self._writer.close()


def scalars(
    step: int, totals: Mapping[str, Array], diagnostics: Mapping[str, Array]
) -> dict[str, float]:
    """Means over replicas after `step` steps by tag; arguments as in `Board.record`."""
    values: dict[str, float] = {}
    for name, total in totals.items():
        if name == "regret":
            values["regret/cumulative"] = float(total.mean())
            values["regret/average"] = float(total.mean()) / step
            if total.size > 1:
                band = stats.interval(total)
                values |= {"regret/lower": float(band.low), "regret/upper": float(band.high)}
        else:
            tag = "reward/mean" if name == "reward" else f"diag/{name}"
            values[tag] = float(total.mean()) / step
    return values | {f"diag/{name}": float(value.mean()) for name, value in diagnostics.items()}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, bool | float | str]:
    """Nested configuration with dotted names; what is no number, string or flag becomes JSON."""
    result: dict[str, bool | float | str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, bool | int | float | str):
            result[prefix + name] = value
        else:
            result[prefix + name] = files.dumps(value)
    return result


def _histogram(actions: Array, arms: int) -> Summary.Value:
    """Bins `[left, right, count]`, one for each action where they are few."""
    edges = np.arange(arms + 1) - 0.5 if arms <= BINS else np.linspace(-0.5, arms - 0.5, BINS + 1)
    bins = np.stack([edges[:-1], edges[1:], np.histogram(actions, edges)[0]], 1)
    tensor = TensorProto(dtype=DT_DOUBLE, double_val=bins.ravel(), tensor_shape=_shape(*bins.shape))
    described = histogram_metadata.create_summary_metadata("actions", AXIS)
    return Summary.Value(tag="actions", metadata=described, tensor=tensor)


def _image(picture: bytes) -> Summary.Value:
    """A PNG file, whose header states its size."""
    width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=picture)
    return Summary.Value(tag="images", image=image)


def _shape(*sizes: int) -> TensorShapeProto:
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes])


def _axis() -> SummaryMetadata:
    plugin = SummaryMetadata.PluginData(plugin_name="scalars")
    return SummaryMetadata(summary_description=AXIS, plugin_data=plugin)


def _string(text: bytes, *shape: int) -> TensorProto:
    return TensorProto(dtype=DT_STRING, string_val=[text], tensor_shape=_shape(*shape))


def _text(tag: str, text: str, about: str) -> Summary.Value:
    indented = "\n".join("    " + line for line in text.splitlines())
    return Summary.Value(
        tag=f"{tag}/text_summary",
        metadata=text_metadata.create_summary_metadata(tag, about),
        tensor=_string(indented.encode(), 1),
    )


def _layout() -> Summary.Value:
    """One chart of the regret with its interval, on the page of custom scalars."""
    series = layout_pb2.MarginChartContent.Series(
        value="regret/cumulative", lower="regret/lower", upper="regret/upper"
    )
    chart = layout_pb2.Chart(
        title="cumulative regret (95 % interval of the mean) by environment steps of each replica",
        margin=layout_pb2.MarginChartContent(series=[series]),
    )
    layout = layout_pb2.Layout(category=[layout_pb2.Category(title="regret", chart=[chart])])
    return Summary.Value(
        tag=layout_metadata.CONFIG_SUMMARY_TAG,
        metadata=layout_metadata.create_summary_metadata(),
        tensor=_string(layout.SerializeToString()),
    )
