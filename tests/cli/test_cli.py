"""The command line: quick answers without torch, runs and sweeps with honest exit codes."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlkit import __version__, doctor, launch, registry
from rlkit.cli import execute

ROOT = Path(__file__).parents[2]
SMALL = ["steps=20", "replicas=4", "group=64", "output.progress=none", "output.tensorboard=false"]
HEAVY = "('torch', 'hydra', 'matplotlib', 'pyarrow', 'scipy', 'tensorboard')"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def process(*command, cwd=None):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=240, check=False
    )


@pytest.mark.parametrize(
    "command", ["list envs", "list agents --json", "list figures", "describe ucb1", "--help"]
)
def test_catalogue_commands_import_nothing_heavy(command):
    code = (
        f"import sys; from rlkit.cli import execute; code = execute({command.split()!r});"
        f"print([m for m in {HEAVY} if m in sys.modules], code, file=sys.stderr)"
    )
    assert process(sys.executable, "-c", code).stderr.strip() == "[] 0"


def test_import_and_list_are_quick():
    """The best of three, with room for a busy machine: goals are 0.6 and 0.5 s on an idle core."""

    def best(*command):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            assert process(sys.executable, *command).returncode == 0
            times.append(time.perf_counter() - start)
        return min(times)

    assert best("-c", "import rlkit") < 2.0
    assert best("-m", "rlkit.cli", "list", "envs") < 2.0


@pytest.mark.parametrize(("what", "kind"), [("envs", "problem"), ("agents", "agent")])
def test_list_and_its_json_name_everything(what, kind, capsys):
    assert execute(["list", what]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(registry.entries(kind))
    assert execute(["list", what, "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [record["name"] for record in records] == list(registry.entries(kind))
    for record in records:
        assert {field["name"] for field in record["fields"]} == {
            field.name for field in registry.entry(kind, record["name"]).fields
        }


@pytest.mark.parametrize("what", ["experiments", "figures"])
def test_experiments_and_figures_are_listed(what, capsys):
    assert execute(["list", what, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) != []


@pytest.mark.parametrize(
    "name", [*registry.entries("problem"), *registry.entries("agent"), "rlkit/BernoulliBandit-v0"]
)
def test_describe_shows_fields_defaults_comments_and_an_example(name, capsys):
    assert execute(["describe", name]) == 0
    text = capsys.readouterr().out
    short = name.removeprefix("rlkit/")
    kind = "problem" if short in registry.entries("problem") else "agent"
    for field in registry.entry(kind, short).fields:
        assert f"{field.name}: {field.annotation}" in text
        assert field.comment in text
        assert repr(field.default) in text
    assert f"rlkit run {'env' if kind == 'problem' else 'agent'}={short}" in text


def test_the_example_of_describe_runs(place, capsys):
    for name in registry.entries("problem"):
        assert execute(["describe", name]) == 0
        line = next(x for x in capsys.readouterr().out.splitlines() if "rlkit run" in x)
        assert launch.plan(launch.parse(line.split()[2:]))


def test_describe_shows_experiments_and_figures_of_one_name(capsys):
    assert execute(["describe", "informed_ts"]) == 0
    text = capsys.readouterr().out
    assert "rlkit run experiment=informed_ts" in text
    assert "rlkit figure informed_ts" in text


def test_version(capsys):
    assert execute(["--version"]) == 0
    assert capsys.readouterr().out == f"rlkit {__version__}\n"


def test_a_run_is_written_once_and_reused(place, capsys):
    assert execute(["run", *SMALL]) == 0
    folder = capsys.readouterr().out.strip()
    written = {path: path.stat().st_mtime_ns for path in Path(folder).iterdir()}
    assert "results.parquet" in {path.name for path in written}
    assert execute(["run", *SMALL]) == 0
    assert capsys.readouterr().out.strip() == folder
    assert {path: path.stat().st_mtime_ns for path in Path(folder).iterdir()} == written
    assert [path.name for path in place.iterdir()] == ["runs"]


def test_a_sweep_runs_every_combination(place, capsys):
    assert execute(["run", "-m", *SMALL, "agent=ucb1,moss", "env.arms=2,3"]) == 0
    folders = capsys.readouterr().out.split()
    assert len(set(folders)) == 4
    found = [json.loads((Path(f) / "run.json").read_text())["config"] for f in folders]
    assert {(c["agent"]["name"], c["env"]["arms"]) for c in found} == {
        ("ucb1", 2),
        ("ucb1", 3),
        ("moss", 2),
        ("moss", 3),
    }
    assert [path.name for path in place.iterdir()] == ["runs"]


def test_the_joblib_launcher_gives_the_same_bytes(place, capsys):
    choice = "agent=ucb1,thompson_beta"
    assert execute(["run", "-m", *SMALL, choice]) == 0
    here = {
        Path(f): (Path(f) / "results.parquet").read_bytes() for f in capsys.readouterr().out.split()
    }
    other = place / "other"
    other.mkdir()
    command = ["run", "-m", *SMALL, choice, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = process(sys.executable, "-m", "rlkit.cli", *command, cwd=other)
    assert (done.returncode, done.stderr) == (0, "")
    assert {Path(folder) for folder in done.stdout.split()} == set(here)
    for folder, content in here.items():
        assert (other / folder / "results.parquet").read_bytes() == content


def test_an_experiment_of_ones_own_is_found(place, capsys):
    folder = place / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "my_test.yaml").write_text(
        "# @package _global_\n# Mine.\n"
        "defaults:\n  - override /agent: moss\n  - _self_\nsteps: 12\n"
        "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: 1,2\n"
    )
    options = [option for option in SMALL if not option.startswith("steps")]
    assert execute(["run", "--config-dir", "mine", "experiment=my_test", *options]) == 0
    folders = [Path(folder) for folder in capsys.readouterr().out.split()]
    found = [json.loads((f / "run.json").read_text())["config"] for f in folders]
    assert [(c["experiment"], c["agent"]["name"], c["steps"], c["seed"]) for c in found] == [
        ("my_test", "moss", 12, 1),
        ("my_test", "moss", 12, 2),
    ]


@pytest.fixture
def runner(monkeypatch):
    """A runner that does what `runner.behave(config)` says, and remembers agents."""
    module = importlib.import_module("rlkit.experiments.runner")
    fake = SimpleNamespace(ran=[], RunError=module.RunError, behave=lambda config: None)

    def execute_fake(config):
        fake.ran.append(config.agent["name"])
        fake.behave(config)
        return Path("runs/somewhere")

    monkeypatch.setattr(module, "execute", execute_fake)
    monkeypatch.setattr(launch, "_final_regret", lambda folder: 0.0)
    fake.error = module.RunError
    return fake


def raising(error, agent="moss"):
    def behave(config):
        if config.agent["name"] == agent:
            raise error

    return behave


def test_a_failed_run_of_a_sweep_gives_1_and_the_others_still_run(place, runner, capsys):
    runner.behave = raising(runner.error("regret became nan at step 3"))
    assert execute(["run", "-m", "agent=ucb1,moss,uniform"]) == 1
    assert runner.ran == ["ucb1", "moss", "uniform"]
    assert capsys.readouterr().err == "rlkit: regret became nan at step 3 (agent=moss)\n"


def test_refused_input_found_in_a_run_gives_2(place, runner, capsys):
    runner.behave = raising(ValueError("results.parquet: not\nours"))
    assert execute(["run", "agent=moss"]) == 2
    assert capsys.readouterr().err == "rlkit: results.parquet: not ours\n"


def test_an_interrupt_stops_the_sweep_and_gives_75(place, runner, capsys):
    runner.behave = raising(KeyboardInterrupt())
    assert execute(["run", "-m", "agent=ucb1,moss,uniform"]) == 75
    assert runner.ran == ["ucb1", "moss"]
    assert capsys.readouterr().err == "rlkit: interrupted; the same command resumes (agent=moss)\n"


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_terminated_sweep_is_saved_and_gives_75(place, launcher):
    long = ["steps=400000", "replicas=64", "group=64", "tier=eager", "output.progress=none"]
    command = ["run", "-m", *long, "agent=ucb1,uniform,moss", f"hydra/launcher={launcher}"]
    command += ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        [sys.executable, "-m", "rlkit.cli", *command], env=environment, stderr=subprocess.PIPE
    )
    wanted = {"basic": 1, "joblib": 2}[launcher]
    deadline = time.monotonic() + 120
    while len(list(place.glob("runs/adhoc/*/status.json"))) < wanted:
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.2)
    running.terminate()
    _, err = running.communicate(timeout=60)
    assert running.returncode == 75, err
    states = [json.loads(p.read_text())["state"] for p in place.glob("runs/adhoc/*/status.json")]
    assert states == ["interrupted"] * wanted
    assert b"Traceback" not in err


def test_an_error_in_code_gives_1_with_its_traceback(place, runner, capsys):
    runner.behave = raising(ZeroDivisionError("oops"))
    assert execute(["run", "agent=moss"]) == 1
    assert "ZeroDivisionError: oops" in capsys.readouterr().err


def test_nothing_of_a_sweep_starts_when_one_job_is_refused(place, runner):
    assert execute(["run", "-m", "agent=ucb1,moss", "env.alpha=1,-1"]) == 2
    assert runner.ran == []


def test_hydra_flags_show_without_running(place, runner, capsys):
    assert execute(["run", "--cfg", "job", "env.arms=20"]) == 0
    assert "arms: 20" in capsys.readouterr().out
    assert execute(["run", "--help"]) == 0
    text = capsys.readouterr().out
    assert "ucb1" in text
    assert "informed_ts" in text
    # In a process of its own: Hydra sets up logging for it.
    command = ["run", "--info=defaults-tree", "agent=moss"]
    done = process(sys.executable, "-m", "rlkit.cli", *command, cwd=place)
    assert "agent: moss" in done.stdout
    assert runner.ran == []
    assert list(place.iterdir()) == []


def test_hydra_leaves_the_process_as_it_was(place, runner, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    before = list(sys.argv)
    assert execute(["run", "agent=moss"]) == 0
    assert sys.argv == before
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_figure_passes_its_options_and_its_exit_code_on(place, monkeypatch):
    calls = []

    def produce(name, quick, out, jobs):
        calls.append((name, quick, str(out), jobs))
        return 1 if name == "informed_ts" else 0

    monkeypatch.setitem(sys.modules, "rlkit.figures", SimpleNamespace(produce=produce))
    options = ["--quick", "--out", "there", "--jobs", "1"]
    assert execute(["figure", "informed_ts", *options]) == 1
    assert calls == [("informed_ts", True, "there", 1)]
    assert execute(["figure", "--all", "--jobs=2"]) == 1
    assert [call[0] for call in calls[1:]] == list(registry.figures())


@pytest.mark.parametrize("name", ["BernoulliBandit-v0", "rlkit/BernoulliBandit-v0"])
def test_check_passes_fields_on_and_fails_with_1(name, monkeypatch, capsys):
    calls = []

    def check(env_id, **fields):
        calls.append((env_id, fields))
        failures = {"regret": "regret is negative"} if len(calls) > 1 else {}
        return SimpleNamespace(failures=failures)

    monkeypatch.setitem(sys.modules, "rlkit.checker", SimpleNamespace(check=check))
    assert execute(["check", name, "arms=3", "alpha=2.5"]) == 0
    assert calls == [("BernoulliBandit-v0", {"arms": 3, "alpha": 2.5})]
    assert execute(["check", name]) == 1
    assert "regret is negative" in capsys.readouterr().out


def test_board_listens_on_this_machine_only(place, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "execv", lambda path, command: calls.append(command))
    (place / "runs" / "mine").mkdir(parents=True)
    assert execute(["board", "mine", "--port=7000"]) == 0
    (command,) = calls
    options = dict(zip(command[3::2], command[4::2], strict=True))
    assert options == {"--logdir": "runs/mine", "--port": "7000", "--host": "127.0.0.1"}


def test_doctor_finds_this_machine_deterministic(place, capsys):
    assert execute(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "bit for bit" in text
    assert "FAIL" not in text


def test_doctor_warns_of_the_other_rlkit(monkeypatch, capsys):
    owners = {"rlkit": ["rlkit", "rlkit-gym"]}
    monkeypatch.setattr(doctor.metadata, "packages_distributions", lambda: owners)
    passed, text = doctor.owner()
    assert not passed
    assert "pip uninstall rlkit" in text


def test_torch_gets_one_thread(place, runner):
    import torch

    seen = []
    runner.behave = lambda config: seen.append(torch.get_num_threads())
    assert execute(["run", "agent=moss"]) == 0
    assert seen == [1]


def test_a_reader_may_stop_early():
    command = f"{sys.executable} -m rlkit.cli list agents --json | head -n 1"
    done = process("bash", "-o", "pipefail", "-c", command)
    assert (done.stdout, done.stderr) == ("[\n", "")


def test_a_folder_that_cannot_be_written_is_one_line(place, capsys):
    (place / "runs").write_text("a file")
    assert execute(["run", *SMALL]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "runs" in err
