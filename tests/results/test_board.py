"""Events as TensorBoard's own reader sees them."""

import json
import math
import time

import numpy as np
import pytest
import scipy.stats
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.util.tensor_util import make_ndarray

from rlkit.board import Board, flat, scalars

CONFIG = {
    "agent": {"name": "ucb1", "delta": 0.5},
    "env": {"means": [0.1, 0.9], "name": "BernoulliBandit-v0"},
    "steps": 100,
}


def totals(step: int, n: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {name: rng.random(n) * step for name in ("reward", "regret", "optimal")}


def write(board: Board, *steps: int) -> None:
    for step in steps:
        actions = np.arange(8) % 3
        board.record(step, totals(step), {"width": np.full(8, 0.5)}, 1e6, actions, 4)


def read(folder) -> EventAccumulator:
    """The reader behind TensorBoard's pages: every value arrives as a tensor of a plugin."""
    return EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()


def points(reader: EventAccumulator, tag: str) -> dict[int, np.ndarray]:
    return {event.step: make_ndarray(event.tensor_proto) for event in reader.Tensors(tag)}


def steps(reader: EventAccumulator, tag: str) -> list[int]:
    return [event.step for event in reader.Tensors(tag)]


@pytest.fixture
def finished(tmp_path):
    board = Board(tmp_path, 0, CONFIG)
    write(board, 1, 2, 5)
    board.finish(5)
    return tmp_path


def test_every_promised_tag_is_there_at_every_step(finished):
    reader = read(finished)
    tags = sorted(reader.PluginTagToContent("scalars"))
    assert tags == [
        "diag/optimal", "diag/width", "regret/average", "regret/cumulative", "regret/lower",
        "regret/upper", "reward/mean", "time/steps_per_s",
    ]  # fmt: skip
    for tag in tags:
        assert steps(reader, tag) == [1, 2, 5]


def test_the_band_is_the_student_interval_of_the_mean(finished):
    reader, regret = read(finished), totals(5)["regret"]
    band = scipy.stats.ttest_1samp(regret, 0).confidence_interval(0.95)
    for tag, expected in [
        ("regret/cumulative", regret.mean()),
        ("regret/lower", band.low),
        ("regret/upper", band.high),
        ("regret/average", regret.mean() / 5),
        ("reward/mean", totals(5)["reward"].mean() / 5),
        ("diag/optimal", totals(5)["optimal"].mean() / 5),
        ("diag/width", 0.5),
    ]:
        assert math.isclose(points(reader, tag)[5], expected, rel_tol=1e-6)


def test_a_single_replica_has_no_band():
    values = scalars(2, {"regret": np.array([3.0])}, {})
    assert values == {"regret/cumulative": 3.0, "regret/average": 1.5}


def test_all_values_of_a_step_are_in_one_event(finished):
    (path,) = finished.glob("events.out.tfevents.*")
    at = [event.step for event in EventFileLoader(str(path)).Load() if event.summary.value]
    assert at == [0, 1, 2, 5, 5]  # configuration, three records, end of the session


def test_the_histogram_counts_each_action(finished):
    buckets = points(read(finished), "actions")[5]
    assert buckets.tolist() == [[-0.5, 0.5, 3], [0.5, 1.5, 3], [1.5, 2.5, 2], [2.5, 3.5, 0]]


def test_many_actions_share_bins(tmp_path):
    board = Board(tmp_path, 0, CONFIG)
    board.record(1, totals(1), {}, 1.0, np.array([0, 999, 500]), 1000)
    board.close()
    buckets = points(read(tmp_path), "actions")[1]
    assert len(buckets) == 64
    assert buckets[:, 2].sum() == 3


def test_the_configuration_is_shown_as_text_and_as_hyper_parameters_once(finished):
    reader = read(finished)
    text = reader.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert json.loads(text) == CONFIG
    content = reader.SummaryMetadata(hparams_metadata.SESSION_START_INFO_TAG).plugin_data.content
    hparams = hparams_metadata.parse_session_start_info_plugin_data(content).hparams
    assert hparams["agent.name"].string_value == "ucb1"
    assert hparams["agent.delta"].number_value == 0.5
    assert hparams["env.means"].string_value == "[0.1,0.9]"
    assert len(reader.Tensors(hparams_metadata.SESSION_START_INFO_TAG)) == 1
    assert len(reader.Tensors(hparams_metadata.SESSION_END_INFO_TAG)) == 1
    assert [entry.name for entry in finished.iterdir() if entry.is_dir()] == []


def test_samples_of_text_are_shown_with_their_step(tmp_path):
    board = Board(tmp_path, 0, CONFIG)
    board.record(3, totals(3), {}, 1.0, samples=["prompt 0 | 1 2 | 0.500", "prompt 1 | 0 | 1.000"])
    board.close()
    (event,) = read(tmp_path).Tensors("samples/text_summary")
    shown = event.tensor_proto.string_val[0].decode().splitlines()
    assert event.step == 3
    assert [line.strip() for line in shown] == ["prompt 0 | 1 2 | 0.500", "prompt 1 | 0 | 1.000"]


def test_one_chart_shows_the_regret_with_its_margin(finished):
    reader = read(finished)
    text = reader.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    layout = layout_pb2.Layout.FromString(text)
    series = layout.category[0].chart[0].margin.series[0]
    named = {series.value, series.lower, series.upper}
    assert named <= set(reader.PluginTagToContent("scalars"))


def test_the_axis_is_described(finished):
    description = read(finished).SummaryMetadata("regret/cumulative").summary_description
    assert description == "x: environment steps of each replica"


def reopened(folder, step):
    """A board in a later second, by which readers order the files of a folder."""
    time.sleep(1.01 - time.time() % 1)
    return Board(folder, step, CONFIG)


def test_a_resumed_run_shows_no_step_twice(tmp_path):
    first = Board(tmp_path, 0, CONFIG)
    write(first, 1, 2, 5, 9)
    first.close()
    second = reopened(tmp_path, 5)
    write(second, 9, 10)
    second.finish(10)
    reader = read(tmp_path)
    assert steps(reader, "regret/cumulative") == [1, 2, 5, 9, 10]
    assert len(reader.Tensors("config/text_summary")) == 1


def test_a_half_written_event_of_a_killed_run_does_not_hide_what_follows(tmp_path):
    first = Board(tmp_path, 0, CONFIG)
    write(first, 1, 2, 5, 9)
    first.close()
    (path,) = tmp_path.glob("events.out.tfevents.*")
    path.write_bytes(path.read_bytes()[:-30])
    second = reopened(tmp_path, 5)
    write(second, 9, 10)
    second.finish(10)
    assert steps(read(tmp_path), "regret/cumulative") == [1, 2, 5, 9, 10]


def test_a_run_begun_again_replaces_its_events(tmp_path):
    for _ in range(2):
        board = Board(tmp_path, 0, CONFIG)
        write(board, 1, 2)
        board.close()
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
    assert steps(read(tmp_path), "regret/cumulative") == [1, 2]


def test_hyper_parameters_are_flat_and_plain():
    found = flat({"a": {"b": {"c": None}, "d": (1, 2)}, "e": True, "f": "x"})
    assert found == {"a.b.c": "null", "a.d": "[1,2]", "e": True, "f": "x"}
