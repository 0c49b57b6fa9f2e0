"""Bad input ends with exit code 2 and one line that says what is allowed; nothing is written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rlkit.cli import execute

ROOT = Path(__file__).parents[2]
ALLOWED = re.compile(
    r"[Aa]llowed|accepted: | needs |outside [\[(]| in [\[(].*[\])]|not of type |is required"
)

OVERRIDES = [
    # names
    "experiment=nope",
    "experiment=informed_tss",
    "experiment=../../../etc/passwd",
    "experiment=/etc/passwd",
    "experiment=null",
    "env=Bernoulli",
    "env=bernoullibandit-v0",
    "env=../agent/ucb1",
    "env=os:Foo",
    "agent=ucb",
    "agent=",
    "agent=[ucb1]",
    "agent.name=moss2",
    "env.name=os.system",
    "env.name=5",
    "env.name=null",
    # fields
    "env.armz=3",
    "agent.scal=1",
    "env.x.y=1",
    "+env.extra=1",
    "++agent.extra=1",
    "stepz=3",
    "+unknown=1",
    "env@other=BernoulliBandit-v0",
    "~env.arms",
    # types
    "env.arms=3.5",
    "env.arms=true",
    "env.arms='3'",
    "env.arms=[2,3]",
    "env.arms={a:1}",
    "env.alpha=abc",
    "env.alpha=null",
    "env.means=0.5",
    "env.means=[0.1,x]",
    "steps=1.5",
    "steps=1e3",
    "steps=true",
    "steps=abc",
    "steps=null",
    "steps=[1]",
    "replicas=2.0",
    "seed=0.5",
    "env=null",
    "output=runs",
    "quick=3",
    "panels=[1]",
    "+panels.a=3",
    # ranges and numbers
    "env.arms=1",
    "env.arms=-5",
    "env.alpha=0",
    "env.alpha=nan",
    "env.alpha=inf",
    "env.alpha=-inf",
    "env.alpha=1e-400",
    "env.alpha=-1E-9999",
    "env.alpha=1e400",
    "env.means=[0.1,nan]",
    "env.means=[0.1,2]",
    "agent.scale=-1",
    "steps=0",
    "steps=-1",
    "steps=nan",
    "steps=4294967295",
    "steps=99999999999999999999",
    "replicas=0",
    "replicas=-3",
    "seed=-1",
    "seed=4294967296",
    "first_replica=-1",
    "first_replica=4294967296",
    "group=0",
    "replicas=1000000000",
    "env.arms=1000000000",
    # tier and device
    "tier=fast",
    "tier=1",
    "tier=graph",
    "device=gpu",
    "device=cuda:x",
    "device=cuda:99",
    "device=0",
    # code and resolvers
    "+_target_=os.system",
    "+env._target_=os.system",
    "env={_target_:os.system}",
    "env.alpha={_target_:os.system}",
    "+agent._partial_=true",
    "+env._args_=[1]",
    "+quick.a={b:{_target_:os.system}}",
    "hydra.launcher._target_=os.system",
    "hydra.sweeper._target_=os.system",
    "+hydra.callbacks.x._target_=os.system",
    "seed=${oc.env:HOME}",
    "seed=${oc.decode:'1'}",
    "experiment=${oc.env:HOME}",
    "output.root=${oc.env:HOME}",
    "output.root=runs/${now:%Y}",
    "seed=${hydra:job.num}",
    "seed=${nothing}",
    "seed=${seed}",
    # paths
    "output.root=/tmp/elsewhere",
    "output.root=../elsewhere",
    "output.root=runs/../elsewhere",
    "output.root=runs_too",
    "output.root=''",
    "output.root=3",
    "hydra.run.dir=/tmp/elsewhere",
    "hydra.sweep.dir=../elsewhere",
    "hydra.sweep.subdir=../../elsewhere",
    # output
    "output.rot=runs",
    "output.progress=loud",
    "output.tensorboard=3",
    "output.checkpoint_seconds=0",
    "output.checkpoint_seconds=nan",
    # Hydra
    "hydra.job.chdir=true",
    "hydra.searchpath=[pkg://os]",
    "+hydra.job.env_set.LD_PRELOAD=x",
    "hydra.output_subdir=.hydra",
    "hydra/job_logging=default",
    "hydra/launcher=nope",
    "justtext",
    "=3",
    "env.arms=[1",
]
COMMANDS = [
    "run agent=ucb1,moss",
    "run --experimental-rerun=x.pickle",
    "run --config-name=other",
    "run --config-path=/etc",
    "run --config-dir=/nowhere",
    "run --cfg foo",
    "run --cfg",
    "run --multirunn",
    "run -x",
    "run -m agent=ucb1,nope",
    "run -m env=nope,BernoulliBandit-v0",
    "run -m experiment=informed_ts,nope",
    "run -m env.alpha=1,0",
    "run -m steps=10,-10",
    "run -m agent=ucb1,uniform agent.scale=1",
    "run -m steps=range(1,100000)",
    "run -m output.root=runs,/tmp/elsewhere",
    "run -m hydra.sweep.dir=/tmp/elsewhere",
    "run -m hydra/launcher=joblib agent=ucb1,nope",
    "run --cfg job env.armz=3",
    # finite MDPs
    "run env=RiverSwim-v0 agent=psrl env.horizon=0",
    "run env=RiverSwim-v0 agent=psrl env.horizon=null",
    "run env=RiverSwim-v0 agent=tsde",
    "run env=RiverSwim-v0 agent=c_psrl",
    "run env=RiverSwim-v0 agent=ucbvi agent.scale=-1",
    "run env=TwoState-v0 agent=tsde env.p=0",
    "run env=GridWorld-v0 agent=uniform env.layout='S.|.G.'",
    "run env=GridWorld-v0 agent=uniform env.layout='S?G'",
    "run env=GridWorld-v0 agent=uniform env.layout='SXG'",
    "run env=GridWorld-v0 agent=uniform env.layout='...'",
    "run env=Bifurcation-v0 agent=trace_control agent.rule=rbiss",
    "run env=Bifurcation-v0 agent=trace_control agent.lambda_=1.2",
    "run env=Bifurcation-v0 agent=trace_evaluation agent.behaviour_epsilon=0",
    "run env=DoubleOrQuit-v0 agent=distributional_vi agent.tau=0",
    "run env=DoubleOrQuit-v0 agent=distributional_vi agent.objective=cvar",
    "run env=DoubleOrQuit-v0 agent=distributional_vi agent.objective=utility agent.utility=cvar",
    "run env=RiverSwim-v0 agent=distributional_vi",
    # token MDPs
    "run env=TokenLock-v0 agent=dr_po env.demonstrations=0",
    "run env=TokenLock-v0 agent=dpo env.pairs=0",
    "run env=TokenTree-v0 agent=rloo agent.batch=6",
    "run env=RiverSwim-v0 agent=rloo",
    "list",
    "list foo",
    "list envs --foo",
    "describe",
    "describe nope",
    "describe ../../etc/passwd",
    "figure",
    "figure nope",
    "figure ../informed_ts",
    "figure --all informed_ts",
    "check",
    "check os:Foo",
    "check rlkit:os:Foo",
    "check CartPole-v9",
    "check CartPole-v1 nope",
    "check BernoulliBandit-v1",
    "check BernoulliBandit-v0 armz=3",
    "check BernoulliBandit-v0 arms=1",
    "check BernoulliBandit-v0 arms",
    "check BernoulliBandit-v0 name=LinearBandit-v0",
    "board",
    "board nope",
    "board ../..",
    "board --port=0",
    "board --port=http",
    "frobnicate",
    "--nope",
    # linear MDPs
    "run env=LinearMDP-v0 agent=lsvi_ucb env.dimension=0",
    "run env=LinearMDP-v0 agent=lsvi_ucb env.feature_concentration=0",
    "run env=LinearMDP-v0 agent=lsvi_ucb env.states=1000000",
    "run env=LinearMDP-v0 agent=lsvi_ucb agent.ridge=0",
    "run env=LinearMDP-v0 agent=lsvi_ucb agent.delta=1",
    "run env=LinearMDP-v0 agent=lsvi_phe agent.sigma=-1",
    "run env=LinearMDP-v0 agent=lsvi_phe agent.ensemble=0",
    "run env=Taxi-v0 agent=lsvi_phe agent.reward_max=20",
    "run env=LinearBandit-v0 agent=lsvi_ucb",
]
FILES = {
    "unknown_key": "stepz: 3",
    "unknown_field": "env: {armz: 3}",
    "wrong_type": "steps: 1.5",
    "code": "env: {_target_: os.system}",
    "quoted_code": 'env: {"_tar\\u0067et_": os.system}',
    "resolver": "seed: ${oc.env:HOME}",
    "multiline_resolver": 'output: {root: "${oc.env\\\n  :HOME}"}',
    "underflow": "env: {alpha: 1e-400}",
    "infinite": "env: {alpha: .inf}",
    "not_a_number": "env: {alpha: .nan}",
    "elsewhere": "output: {root: /tmp/elsewhere}",
    "callback": "hydra: {callbacks: {x: {_target_: os.system}}}",
    "launcher": "hydra: {launcher: {_target_: os.system}}",
    "environment": "hydra: {job: {env_set: {LD_PRELOAD: x}}}",
    "logging": "hydra: {job_logging: {handlers: {x: {(): os.system}}}}",
    "sweep": "hydra: {mode: MULTIRUN, sweeper: {params: {agent: 'ucb1,nope'}}}",
    "sweep_code": "hydra: {mode: MULTIRUN, sweeper: {params: {env._target_: 'a,b'}}}",
    "other_name": "experiment: ../../elsewhere",
    "syntax": "steps: [1",
    "listed": "- 1",
    "Upper Case": "steps: 3",
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def assert_refused(code, out, err, folder):
    assert code == 2, (code, out, err)
    assert err.count("\n") == 1, err
    assert ALLOWED.search(err), err
    assert "Traceback" not in out + err
    assert len(err) < 2000
    assert list(folder.rglob("*")) == []


@pytest.mark.parametrize("override", OVERRIDES)
def test_an_override_is_refused_in_one_line(override, place, capsys):
    code = execute(["run", override])
    assert_refused(code, *capsys.readouterr(), place)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_line_is_refused_in_one_line(command, place, capsys):
    code = execute(command.split())
    assert_refused(code, *capsys.readouterr(), place)


@pytest.mark.parametrize("name", FILES)
def test_an_experiment_file_is_refused_in_one_line(name, place, tmp_path, capsys):
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / f"{name}.yaml").write_text(f"# @package _global_\n{FILES[name]}\n")
    code = execute(["run", f"--config-dir={tmp_path / 'conf'}", f"experiment='{name}'"])
    assert_refused(code, *capsys.readouterr(), place)


def test_a_link_out_of_runs_is_refused(place, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    (place / "runs").mkdir()
    (place / "runs" / "link").symlink_to(tmp_path / "elsewhere")
    code = execute(["run", "output.root=runs/link"])
    assert code == 2
    assert "outside runs/" in capsys.readouterr().err
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_nearest_name_is_offered(place, capsys):
    for command, nearest in [
        ("run agent=mos", "'moss'"),
        ("run env.armz=3", "'arms'"),
        ("run stpes=3", "'steps'"),
        ("describe Bernouli-v0", "'BernoulliBandit-v0'"),
        ("run experiment=informedts", "'informed_ts'"),
    ]:
        assert execute(command.split()) == 2
        assert f"did you mean {nearest}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    ["run env.armz=3", "run -m hydra/launcher=joblib agent=ucb1,nope", "check os:Foo", "list foo"],
)
def test_a_separate_process_says_the_same(command, place):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "rlkit.cli", *command.split()],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert_refused(done.returncode, done.stdout, done.stderr, place)


def test_the_catalogue_of_bad_inputs_is_large():
    assert len(OVERRIDES) + len(COMMANDS) + len(FILES) >= 150
