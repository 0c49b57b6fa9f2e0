"""A run is begun, resumed or reused, and always ends with the same bytes."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from rlkit import checkpoint, results
from rlkit.config import RunConfig, resolve
from rlkit.envs.bandits.bernoulli import BernoulliBandit
from rlkit.experiments import session
from rlkit.experiments.runner import RunError, execute
from rlkit.rollout import simulate


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """Runs go to `runs/` below the working directory."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    return tmp_path


def configured(root: str = "runs", **changes) -> RunConfig:
    """A small run of Thompson sampling, which draws continuous numbers."""
    output = {"root": root, "progress": "none", "tensorboard": False, "checkpoint_seconds": 1e9}
    values = {
        "env": {"name": "BernoulliBandit-v0", "arms": 5},
        "agent": {"name": "thompson_beta"},
        "steps": 150,
        "replicas": 20,
        "group": 16,
        "tier": "eager",
        **changes,
    }
    values["output"] = output | changes.get("output", {})
    return resolve(values, "demo", memory=False)


def status(folder: Path) -> dict:
    return json.loads((folder / "status.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def stop_at(monkeypatch, step: int, number: int = signal.SIGTERM) -> None:
    """Send this process a signal once the loop has reached `step`."""
    advance = session.Rollout.advance

    def watched(self, until):
        advance(self, until)
        if self.step >= step and not watched.sent:
            watched.sent = True
            os.kill(os.getpid(), number)

    watched.sent = False
    monkeypatch.setattr(session.Rollout, "advance", watched)


def interrupted(config: RunConfig, monkeypatch, step: int = 70) -> Path:
    """The folder of a run stopped on its way, with a checkpoint in it."""
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(KeyboardInterrupt):
            execute(config)
    return config.folder


def test_a_run_ends_with_what_the_library_computes():
    config = configured(first_replica=7, seed=3)
    folder = execute(config)
    assert folder == Path("runs/demo") / config.key
    found = results.Results.load(folder, config.key)
    history = simulate(
        config.problem(), config.learner(), 150, 20, seed=3, first_replica=7, group=16
    )
    assert found.replica.tolist() == list(range(7, 27))
    assert found.step.tolist() == history.step.tolist()
    for name, values in {**history.metrics, **history.diagnostics}.items():
        assert np.array_equal(found.metrics[name], values.double().numpy())
    assert status(folder)["state"] == "done"
    assert not (folder / "checkpoint").exists()


def test_the_manifest_says_how_the_run_was_made():
    config = configured()
    manifest = json.loads((execute(config) / "run.json").read_text())
    assert manifest["key"] == config.key
    assert manifest["config"] == config.document()
    assert manifest["tier"] == {"requested": "eager", "used": "eager"}
    assert manifest["seconds"] > 0
    assert manifest["steps_per_s"] == 150 * 20 / manifest["seconds"]
    assert manifest["peak_memory_bytes"] > 50 << 20
    assert {"command", "device", "git", "machine", "versions", "sessions"} <= set(manifest)


def test_a_finished_run_is_reused_untouched(capsys):
    config = configured(output={"progress": "line"})
    folder = execute(config)
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()}
    capsys.readouterr()
    assert execute(config) == folder
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()} == before
    assert "already finished" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_call_resumes_to_the_same_bytes(number, monkeypatch):
    whole, cut = configured("runs/whole"), configured("runs/cut")
    reference = (execute(whole) / "results.parquet").read_bytes()
    reached = [0]
    for step in (4, 40, 140):
        with monkeypatch.context() as patch:
            stop_at(patch, step, number)
            with pytest.raises(KeyboardInterrupt):
                execute(cut)
        assert status(cut.folder)["state"] == "interrupted"
        reached.append(status(cut.folder)["step"])
        assert step <= reached[-1] < 150
        assert not (cut.folder / "results.parquet").exists()
    assert (execute(cut) / "results.parquet").read_bytes() == reference
    sessions = json.loads((cut.folder / "run.json").read_text())["sessions"]
    assert [entry["step"] for entry in sessions] == reached


def test_the_handlers_of_signals_are_given_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    execute(configured())
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_run_outside_the_main_thread_needs_no_signals():
    thread = threading.Thread(target=execute, args=(configured(),))
    thread.start()
    thread.join()
    assert status(configured().folder)["state"] == "done"


def test_how_often_the_loop_looks_up_changes_nothing(monkeypatch):
    bytes_of = []
    for index, seconds in enumerate((0.0, 1e9)):
        monkeypatch.setattr(session, "PIECE_SECONDS", seconds)
        config = configured(f"runs/{index}", steps=300, output={"checkpoint_seconds": 0.05})
        bytes_of.append((execute(config) / "results.parquet").read_bytes())
    assert bytes_of[0] == bytes_of[1]


def test_a_resumed_run_shows_no_step_twice_on_the_board(monkeypatch):
    config = configured(output={"tensorboard": True})
    folder = interrupted(config, monkeypatch, 60)
    with monkeypatch.context() as patch:  # killed after further events, before the next save
        patch.setattr(session.Session, "_finish", lambda self: None)
        execute(config)
    execute(config)
    reader = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    steps = [event.step for event in reader.Tensors("regret/cumulative")]
    assert steps == results.Results.load(folder).step.tolist()


KILLER = """
import os, signal, sys, time
import numpy as np, torch
torch.set_num_threads(1)
from rlkit.config import resolve
from rlkit.experiments.runner import execute
from rlkit import board, results

tier, kills, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def configured(root, seconds):
    output = {"root": root, "progress": "none", "checkpoint_seconds": seconds}
    values = {"env": {"name": "BernoulliBandit-v0", "arms": 5}, "agent": {"name": "thompson_beta"},
              "steps": 800, "replicas": 40, "group": 64, "tier": tier, "output": output}
    return resolve(values, "demo", memory=False)


def child(config):
    process = os.fork()
    if process == 0:
        code = 1
        try:
            execute(config)
            code = 0
        finally:
            os._exit(code)
    return process


start = time.monotonic()
whole, cut = configured("runs/whole", 1e9), configured("runs/cut", 0.02)
assert os.waitpid(child(whole), 0)[1] == 0
length, rng, survived, unfinished = time.monotonic() - start, np.random.default_rng(seed), 0, 0
while survived < kills:
    process = child(cut)
    time.sleep(rng.uniform(0.1, 0.6) * length)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    survived += 1
    if results.state(cut.folder) == "done":
        break
    unfinished += 1
process = child(cut)
assert os.waitpid(process, 0)[1] == 0
a, b = ((config.folder / "results.parquet").read_bytes() for config in (whole, cut))
assert a == b, "the bytes differ"
print("killed", survived, "unfinished", unfinished, "bytes", len(a))
"""


def killed(tier: str, kills: int, seed: int) -> str:
    command = [sys.executable, "-c", KILLER, tier, str(kills), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_killed_at_random_moments_ends_with_the_same_bytes():
    assert "unfinished 0" not in killed("eager", 4, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_many_runs_killed_at_random_moments_end_with_the_same_bytes(seed):
    assert "unfinished 0" not in killed("eager", 8, seed)


@pytest.mark.slow
def test_a_compiled_run_killed_at_random_moments_ends_with_the_same_bytes():
    assert "unfinished 0" not in killed("compiled", 3, 0)


TWINS = """
import os, sys
import torch
torch.set_num_threads(1)
from rlkit.config import resolve
from rlkit.experiments.runner import execute

output = {"progress": "none", "tensorboard": False}
values = {"env": {"name": "BernoulliBandit-v0"}, "agent": {"name": "ucb1"}, "steps": 400,
          "replicas": 20, "output": output}
config = resolve(values, "demo", memory=False)
children = []
for _ in range(3):
    children.append(os.fork())
    if children[-1] == 0:
        code = 1
        try:
            execute(config)
            code = 0
        finally:
            os._exit(code)
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
print(config.folder)
"""


def test_processes_with_the_same_run_do_it_once():
    command = [sys.executable, "-c", TWINS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert len(json.loads((folder / "run.json").read_text())["sessions"]) == 1


def test_the_lock_of_a_dead_process_holds_nobody_up():
    folder = configured().folder
    folder.mkdir(parents=True)
    (folder / ".lock").write_text("12345")
    (folder / ".results.parquet.tmp-12345").write_text("half")
    assert status(execute(configured()))["state"] == "done"
    assert not list(folder.glob(".*.tmp-*"))


def tampered(change) -> Path:
    folder = execute(configured())
    path = folder / "run.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: m["config"].update(steps=151), "config.steps is 151, this run has 150"),
        (lambda m: m["config"]["env"].update(arms=6), "config.env.arms is 6, this run has 5"),
        (lambda m: m["config"]["env"].pop("arms"), "config.env.arms is None, this run has 5"),
        (lambda m: m["config"].update(extra=1), "config.extra is 1"),
        (lambda m: m.update(config=3), "config is 3"),
        (lambda m: m.update(key="f" * 12), "another key"),
        (lambda m: m.pop("results"), "no fingerprint"),
        (lambda m: m["results"].update(sha256="0" * 64), "does not match its SHA-256"),
    ],
)
def test_a_folder_of_another_configuration_is_refused_untouched(change, text):
    folder = tampered(change)
    before = contents(folder)
    with pytest.raises(ValueError, match=text) as caught:
        execute(configured())
    assert "\n" not in str(caught.value)
    assert contents(folder) == before


def test_a_folder_of_something_else_is_refused_untouched():
    folder = configured().folder
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"holds thesis.tex but no run.json"):
        execute(configured())
    assert contents(folder) == {"thesis.tex": b"mine"}


def test_changed_results_are_refused_untouched():
    folder = execute(configured())
    (folder / "results.parquet").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"results.parquet: does not match"):
        execute(configured())
    (folder / "results.parquet").unlink()
    with pytest.raises(ValueError, match="missing from a finished run"):
        execute(configured())


def test_a_link_out_of_runs_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    Path("runs").mkdir()
    Path("runs/demo").symlink_to(outside)
    with pytest.raises(ValueError, match="outside runs/"):
        execute(configured())
    assert list(outside.iterdir()) == []


def test_a_problem_and_agent_that_do_not_fit_leave_no_folder():
    config = configured(agent={"name": "lin_ucb"})
    with pytest.raises(ValueError, match=r"."):
        execute(config)
    assert not Path("runs").exists()


def rewritten(folder: Path, change) -> None:
    """Change the content of the newest checkpoint, hashes included."""
    tensors, meta, step = checkpoint.load(folder / "checkpoint", folder.name)
    change(tensors, meta)
    checkpoint.save(folder / "checkpoint", tensors, meta, step)


def some(tensors: dict, prefix: str) -> str:
    return next(name for name in tensors if name.startswith(prefix))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t, m: t.pop(some(t, "state/")), "lacks"),
        (lambda t, m: t.update({"state/more": torch.zeros(1)}), "does not know"),
        (lambda t, m: t.update({some(t, "state/"): torch.zeros(3)}), "this run needs"),
        (lambda t, m: t.pop("record/regret"), "missing record 'regret'"),
        (lambda t, m: t.update({"record/more": torch.zeros(1)}), "surplus record"),
        (lambda t, m: t.update({"record/regret": t["record/regret"][1:]}), "record 'regret' is"),
        (lambda t, m: t.update({"record/regret": t["record/regret"].float()}), "float32"),
        (lambda t, m: m.update(tier="warp"), "tier 'warp'"),
        (lambda t, m: m.update(seconds="1"), "seconds '1'"),
        (lambda t, m: m.pop("peak"), "peak None"),
    ],
)
def test_a_checkpoint_of_another_structure_is_refused_untouched(change, text, monkeypatch):
    folder = interrupted(configured(), monkeypatch)
    rewritten(folder, change)
    before = contents(folder)
    with pytest.raises(ValueError, match=text) as caught:
        execute(configured())
    assert str(folder / "checkpoint") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert contents(folder) == before


def test_a_truncated_checkpoint_is_refused_untouched(monkeypatch):
    folder = interrupted(configured(), monkeypatch)
    (path,) = (folder / "checkpoint").glob("*/tensors.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    before = contents(folder)
    with pytest.raises(ValueError, match=r"tensors.safetensors: truncated or changed: 100 bytes"):
        execute(configured())
    assert contents(folder) == before


@dataclass(frozen=True)
class Faulty(BernoulliBandit):
    """A Bernoulli bandit whose reward is NaN for one replica from some step on."""

    def transition(self, instance, state, action, rng):
        step = super().transition(instance, state, action, rng)
        bad = (rng.replica == 13) & (rng.step >= 30)
        return step._replace(reward=torch.where(bad, torch.nan, step.reward))


@dataclass(frozen=True)
class Crashing(BernoulliBandit):
    """A Bernoulli bandit that raises at some step."""

    def transition(self, instance, state, action, rng):
        if rng.step == 30:
            raise ValueError("the coin is lost\nunder the table")
        return super().transition(instance, state, action, rng)


def test_a_nan_stops_the_run_and_is_named(monkeypatch):
    config = configured(agent={"name": "ucb1"}, steps=40, output={"checkpoint_seconds": 1e-6})
    monkeypatch.setattr(RunConfig, "problem", lambda self: Faulty(arms=5))
    with pytest.raises(
        RunError, match=r"reward is nan at step 3[12], replica 13 \(1 such values\)"
    ):
        execute(config)
    assert status(config.folder)["state"] == "failed"
    assert "reward is nan" in status(config.folder)["error"]
    assert not (config.folder / "results.parquet").exists()
    tensors, _, step = checkpoint.load(config.folder / "checkpoint", config.key)
    assert 20 < step <= 30
    assert all(t.isfinite().all() for t in tensors.values() if t.is_floating_point())


def test_a_crash_is_recorded_and_the_run_goes_on_once_it_is_mended(monkeypatch):
    reference = (execute(configured("runs/whole")) / "results.parquet").read_bytes()
    config = configured(output={"checkpoint_seconds": 1e-6})
    with monkeypatch.context() as patch:
        patch.setattr(RunConfig, "problem", lambda self: Crashing(arms=5))
        with pytest.raises(RunError, match=r"failed at step 30: ValueError: the coin is lost$"):
            execute(config)
    assert status(config.folder)["state"] == "failed"
    assert status(config.folder)["error"] == "ValueError: the coin is lost"
    assert (execute(config) / "results.parquet").read_bytes() == reference


def test_a_full_disk_fails_the_run_and_leaves_finished_ones_alone(monkeypatch):
    other = execute(configured(seed=1))
    before, config = contents(other), configured(output={"checkpoint_seconds": 1e-6})

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.files, "sync_file", full)
        with pytest.raises(RunError, match="No space left on device"):
            execute(config)
    assert contents(other) == before
    assert status(execute(config))["state"] == "done"


@pytest.mark.parametrize(("group", "told"), [(16, False), (80, True)])
def test_a_run_that_mostly_pads_says_how_not_to(group, told, capsys):
    execute(configured(steps=2, group=group, output={"progress": "line"}))
    hint = f"group = {group} computes {group} replicas for the 20 asked for: group=20 takes less"
    assert (hint in capsys.readouterr().err) == told


@pytest.mark.parametrize(("kind", "expected"), [("none", ""), ("line", "goes on at step 70")])
def test_progress_goes_to_standard_error_when_asked(kind, expected, monkeypatch, capsys):
    config = configured(output={"progress": kind})
    interrupted(config, monkeypatch, 70)
    execute(config)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert expected in captured.err
    assert bool(captured.err) == bool(expected)
