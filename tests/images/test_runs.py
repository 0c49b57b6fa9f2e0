"""Runs on tiny models, in files and from the command line: resumption, records, refusals."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rlkit.cli import execute
from rlkit.images.ddpo import Ddpo
from rlkit.images.find import Find
from rlkit.images.model import load_model
from rlkit.images.sampler import make_sampler
from rlkit.images.task import Task, checked_rewards, load_reward
from rlkit.images.training import Length, Trainer, make_agent
from rlkit.results import Results

ROOT = Path(__file__).parents[2]
LENGTH = Length(steps=6, record=1, save=2, look=4)
AGENTS = {"find": (Find(batch=4), 0.0), "ddpo": (Ddpo(batch=4, updates=2, rate=1e-3), 1.0)}


def bright(images, prompts):
    return images.mean((1, 2, 3))


def make_trainer(folders, name, out, reward=bright):
    agent, eta = AGENTS[name]
    model = load_model(folders["unet"])
    task = Task(model, make_sampler(model.noise, 3, eta), (), reward)
    return Trainer(task, agent, out)


def contents(folder):
    """Everything that a run leaves, but for events and checkpoints."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "tfevents" not in path.name and "checkpoints" not in path.parts
    }


@pytest.mark.parametrize("name", AGENTS)
def test_a_run_broken_off_goes_on_to_the_same_end(name, folders, tmp_path):
    make_trainer(folders, name, tmp_path / "whole").run(LENGTH)
    first = make_trainer(folders, name, tmp_path / "parts")

    # Fails in the sixth step, when the record of the fifth is written and no checkpoint of it is.
    def broken(images, prompts):
        written = len(list((tmp_path / "parts" / "images").iterdir()))
        return bright(images, prompts) if written < 6 else 1 / 0

    first.task.reward = broken
    with pytest.raises(ZeroDivisionError):
        first.run(LENGTH)
    second = make_trainer(folders, name, tmp_path / "parts")
    assert second.step == 4
    second.run(LENGTH)
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts")
    third = make_trainer(folders, name, tmp_path / "parts")
    assert third.step == 6 and third.run(LENGTH)["queries"] == 24  # nothing left to do
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts")


REWARD = """
import os, pathlib, signal

def bright(images, prompts):
    lines = pathlib.Path("parts/curves.jsonl")
    rows = lines.read_text().count("\\n") if lines.exists() else 0
    if rows > 4 and not pathlib.Path("killed").exists():
        pathlib.Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return images.mean((1, 2, 3))
"""


def test_a_killed_command_resumes_to_the_same_record(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "rewards", raising=False)
    (tmp_path / "rewards.py").write_text(REWARD)
    words = ["diffusion", "train", "--agent", "ddpo", "--model", str(folders["pipeline"]),
             "--reward", "rewards:bright", "--steps", "6", "--denoising", "3", "--record", "1",
             "--save", "2", "--look", "4", "batch=4", "updates=2", "--out"]  # fmt: skip
    start = "import sys; from rlkit.cli import main; sys.exit(main())"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    killed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", start, *words, "parts"], env=environment,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert not (tmp_path / "parts" / "results.parquet").exists()
    assert execute([*words, "parts"]) == execute([*words, "whole"]) == 0
    assert "resumed after step 4" in capsys.readouterr().out
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_records_are_a_table_a_board_and_pictures(folders, tmp_path):
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make_trainer(folders, "find", tmp_path)
    trainer.run(LENGTH)
    rows = [json.loads(line) for line in (tmp_path / "curves.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(7))
    table = Results.load(tmp_path / "results.parquet", trainer.key)
    assert table.step.tolist() == list(range(1, 7))
    for name, values in table.metrics.items():
        assert values[:, 0].tolist() == [row[name] for row in rows[1:]]
    board = EventAccumulator(str(tmp_path), {"scalars": 0, "images": 0})
    board.Reload()
    assert [event.step for event in board.Scalars("diag/reward")] == list(range(7))
    shown = board.Images("images")
    assert [event.step for event in shown] == list(range(7))
    picture = (tmp_path / "images" / "step_000000000006.png").read_bytes()
    assert shown[-1].encoded_image_string == picture
    values, images = trainer.measured(4)
    with Image.open(tmp_path / "images" / "step_000000000006.png") as opened:
        pixels = np.asarray(opened) / 255
    assert (shown[-1].height, shown[-1].width) == pixels.shape[:2] == (66, 66)
    for number, (top, left) in enumerate(((0, 0), (0, 34), (34, 0), (34, 34))):
        block = pixels[top : top + 32 : 4, left : left + 32 : 4]
        np.testing.assert_allclose(block, images[number].movedim(0, -1), atol=0.6 / 255)
    assert values["reward"] == pytest.approx(float(images.mean()), abs=1e-6)


def test_what_ddpo_writes_loads_in_diffusers(diffusers, folders, tmp_path):
    for name in ("pipeline", "text"):
        model = load_model(folders[name])
        prompts = ("a", "b") if name == "text" else ()
        task = Task(model, make_sampler(model.noise, 3, 1.0), prompts, bright)
        trainer = Trainer(task, AGENTS["ddpo"][0], tmp_path / name)
        trainer.run(Length(steps=1, look=2))
        made = diffusers.StableDiffusionPipeline if prompts else diffusers.DDPMPipeline
        loaded = made.from_pretrained(str(tmp_path / name / "model"), local_files_only=True)
        learned = AGENTS["ddpo"][0].weights(trainer.state)
        for key, leaf in loaded.unet.named_parameters():
            assert torch.equal(leaf, learned[key])
        assert not list((tmp_path / name / "model").rglob("*.bin"))


def test_a_folder_of_another_run_is_refused(folders, tmp_path):
    make_trainer(folders, "find", tmp_path).run(Length(steps=1, look=2))
    with pytest.raises(ValueError, match="holds a run with other settings"):
        make_trainer(folders, "ddpo", tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1.0, float("nan")], 'reward of image 1 is nan, prompt "b"'),
        ([float("-inf"), 0.0], 'reward of image 0 is -inf, prompt "a"'),
        ([1.0], r"shape \[1\]; accepted: \[2\]"),
        (torch.zeros(2, 1), r"shape \[2, 1\]; accepted: \[2\]"),
        (0.5, r"shape \[\]; accepted: \[2\]"),
        ("high", "the reward is str; accepted: numbers"),
        (None, "the reward is NoneType; accepted: numbers"),
    ],
)
def test_rewards_of_another_shape_or_not_finite_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        checked_rewards(given, ["a", "b"])


@pytest.mark.parametrize("given", [[1, 2], np.array([1.0, 2.0]), torch.tensor([1.0, 2.0])])
def test_rewards_may_be_lists_arrays_or_tensors(given):
    assert checked_rewards(given, ["", ""]).tolist() == [1.0, 2.0]


def test_a_bad_reward_stops_a_run_with_its_message(folders, tmp_path):
    trainer = make_trainer(folders, "ddpo", tmp_path, lambda x, p: [float("nan")] * len(p))
    with pytest.raises(ValueError, match="reward of image 0 is nan"):
        trainer.advance()
    scribbled = make_trainer(folders, "find", tmp_path / "b", lambda x, p: x.zero_().sum((1, 2, 3)))
    images, _ = scribbled.task.scores(torch.ones(2, 3, 8, 8), torch.zeros(2).long())
    assert float(images.min()) == 1  # a reward works on its own copy


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("fnd", {}, "did you mean 'find'"),
        ("ddpo", {"epsilo": 1}, "did you mean 'epsilon'"),
        ("find", {"epsilon": 0}, r"epsilon = 0 outside \(0, 1\)"),
        ("ddpo", {"epsilon": 1.0}, r"epsilon = 1.0 outside \(0, 1\)"),
        ("find", {"floor": 0.0}, r"floor = 0.0 outside \(0, inf\)"),
        ("find", {"floor": float("nan")}, "floor = nan"),
        ("find", {"batch": 0}, "batch = 0"),
        ("find", {"history": 0}, "history = 0"),
        ("find", {"baseline": "none"}, "baseline = 'none' unknown"),
        ("find", {"regulariser": "l1"}, "regulariser = 'l1' unknown"),
        ("ddpo", {"batch": 1}, "batch = 1"),
        ("ddpo", {"fewest": 40}, r"fewest = 40 outside \[2, 32\]"),
        ("ddpo", {"beta": -1}, "beta = -1"),
    ],
)
def test_agents_and_fields_that_do_not_fit_are_refused(name, values, message):
    with pytest.raises(ValueError, match=message):
        make_agent(name, values)


def test_samplers_that_do_not_fit_are_refused(folders):
    noise = load_model(folders["unet"]).noise
    for arguments, message in (
        ({"steps": 0}, r"sampling steps = 0 outside \[1, 1000\]"),
        ({"steps": 1001}, r"sampling steps = 1001 outside \[1, 1000\]"),
        ({"eta": 1.5}, "eta = 1.5"),
        ({"floor": 0.0}, "floor = 0.0"),
        ({"spacing": "even"}, "spacing = 'even' unknown"),
    ):
        with pytest.raises(ValueError, match=message):
            make_sampler(noise, **{"steps": 10, "eta": 1.0, **arguments})
    frozen = make_sampler(noise, 10, 0.0)
    with pytest.raises(ValueError, match="eta = 0 has no density"):
        frozen.log_density(*[torch.ones(1, 2)] * 3)


def test_agents_refuse_samplers_that_they_cannot_learn_with(folders, tmp_path):
    model = load_model(folders["unet"])
    noisy, still = (Task(model, make_sampler(model.noise, 5, eta), (), bright) for eta in (1, 0))
    with pytest.raises(ValueError, match=r"initial noise has no influence; accepted: eta = 0"):
        Trainer(noisy, Find(), tmp_path / "a")
    Trainer(noisy, Find(allow_uncontrollable=True), tmp_path / "a")
    with pytest.raises(ValueError, match=r"eta = 0: steps have no density; accepted by ddpo"):
        Trainer(still, Ddpo(), tmp_path / "b")
    # The last of 3 leading steps lies at 666 of 1000, where a little of the noise is left.
    leading = make_sampler(model.noise, 3, 0.5, "leading")
    assert float(leading.now[0]) > 0.01
    Trainer(Task(model, leading, (), bright), Find(), tmp_path / "c")


def test_prompts_must_be_given_where_a_model_takes_them_and_only_there(folders):
    plain, text = load_model(folders["unet"]), load_model(folders["text"])
    for model, prompts, message in (
        (plain, ("a",), "1 prompts for a model without; accepted: none"),
        (text, (), "no prompts for a model that takes them"),
        (text, ("a", " "), "prompt 1 is empty"),
        (text, ("a", "b", "a"), 'prompt 2 "a" occurs twice'),
    ):
        with pytest.raises(ValueError, match=message):
            Task(model, make_sampler(model.noise, 3, 0.0), prompts, bright)
    with pytest.raises(ValueError, match=r"guidance = 2.0; accepted without prompts: 1"):
        Task(plain, make_sampler(plain.noise, 3, 0.0), (), bright, guidance=2.0)
    with pytest.raises(ValueError, match="guidance = 0.5"):
        Task(text, make_sampler(text.noise, 3, 0.0), ("a",), bright, guidance=0.5)


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_folders_that_are_no_models_are_refused(folders, tmp_path):
    def copied(name, change):
        place = tmp_path / f"{name}{len(list(tmp_path.iterdir()))}"
        shutil.copytree(folders[name], place)
        change(place)
        return place

    def pickled(place):
        (place / "unet" / "diffusion_pytorch_model.safetensors").rename(
            place / "unet" / "diffusion_pytorch_model.bin"
        )

    cases = [
        (tmp_path / "nowhere", "is no folder; accepted: a local one, nothing is downloaded"),
        (Path("google/ddpm-cifar10-32"), "is no folder; accepted: a local one"),
        (copied("pipeline", pickled), r"has no \*.safetensors; other formats, as \*.bin"),
        (
            copied("unet", lambda p: (p / "scheduler_config.json").unlink()),
            "scheduler_config.json: No such file",
        ),
        (
            copied("pipeline", lambda p: rewrite(p / "model_index.json", _class_name="MyPipe")),
            "_class_name = 'MyPipe' unknown",
        ),
        (
            copied("pipeline", lambda p: rewrite(p / "model_index.json", unet=["mine", "Net"])),
            "unet = 'Net' unknown",
        ),
        (
            copied("unet", lambda p: rewrite(p / "config.json", auto_map={"a": "b"})),
            "asks for code of its own; that is never run",
        ),
        (copied("unet", lambda p: rewrite(p / "config.json", _class_name="Other")), "neither"),
        (copied("unet", lambda p: rewrite(p / "config.json", sample_size=None)), "no sample_size"),
        (
            copied("unet", lambda p: rewrite(p / "config.json", block_out_channels=[8, 24])),
            "not loaded as UNet2DModel",
        ),
        (
            copied("unet", lambda p: rewrite(p / "scheduler_config.json", thresholding=True)),
            "thresholding = true; accepted: false",
        ),
        (
            copied("unet", lambda p: rewrite(p / "scheduler_config.json", beta_schedule="odd")),
            "scheduler: odd is not implemented",
        ),
        (
            copied("unet", lambda p: (
                p / "diffusion_pytorch_model.safetensors").write_bytes(b"junk")),
            "not loaded as UNet2DModel",
        ),
        (
            copied("text", lambda p: shutil.rmtree(p / "tokenizer")),
            "tokenizer not loaded",
        ),
    ]  # fmt: skip
    for folder, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            load_model(folder)
        assert "\n" not in str(caught.value)


def test_latents_are_not_clipped_where_the_scheduler_says_nothing(folders):
    assert load_model(folders["text"]).noise.clip == float("inf")
    assert load_model(folders["unet"]).noise.clip == 1
    assert load_model(folders["unet"], clip="off").noise.clip == float("inf")
    assert load_model(folders["text"], clip="on").noise.clip == 1


def test_rewards_are_found_by_their_place(tmp_path, monkeypatch):
    (tmp_path / "scores_of_mine.py").write_text("def one(images, prompts):\n    return [1.0]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load_reward("scores_of_mine:one")(None, None) == [1.0]
    for place, message in (
        ("scores_of_mine", "accepted: module:function"),
        ("scores of:mine", "accepted: module:function"),
        ("nowhere_at_all:one", "No module named 'nowhere_at_all'"),
        ("scores_of_mine:two", "has no function two"),
    ):
        with pytest.raises(ValueError, match=message):
            load_reward(place)


def test_the_command_trains_resumes_and_refuses(folders, tmp_path, capsys, monkeypatch):
    (tmp_path / "rewards_here.py").write_text(
        "def bright(images, prompts):\n    return images.mean((1, 2, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    base = {"--model": str(folders["unet"]), "--agent": "find", "--reward": "rewards_here:bright",
            "--out": "run", "--denoising": "3", "--look": "2", "--record": "2"}  # fmt: skip

    def run(changes, *more):
        options = [word for pair in (base | changes).items() for word in pair]
        return execute(["diffusion", "train", *options, "batch=2", *more])

    assert run({"--steps": "2"}) == 0 and run({"--steps": "4"}) == 0
    said = capsys.readouterr().out
    assert "resumed after step 2" in said and "train_reward" in said
    (tmp_path / "empty.txt").write_text("\n")
    for changes, message in (
        ({"--model": "nowhere"}, "is no folder"),
        ({"--agent": "fnd"}, "did you mean 'find'"),
        ({"--reward": "bright"}, "accepted: module:function"),
        ({"--denoising": "0"}, "sampling steps = 0 outside [1, 1000]"),
        ({"--denoising": "1001"}, "sampling steps = 1001 outside [1, 1000]"),
        ({"--steps": "0"}, "steps = 0 outside [1, inf)"),
        ({"--floor": "0"}, "floor = 0.0 outside (0, inf)"),
        ({"--eta": "1"}, "initial noise has no influence"),
        ({"--eta": "0", "--agent": "ddpo"}, "eta = 0: steps have no density"),
        ({"--prompt": "a"}, "1 prompts for a model without"),
        ({"--model": str(folders["text"])}, "no prompts for a model that takes them"),
        ({"--prompts": "empty.txt"}, "0 prompts"),
        ({"--prompts": "missing.txt"}, "missing.txt: No such file"),
        ({"--prompts": "empty.txt", "--prompt": "a"}, "both given"),
        ({"--device": "tpu"}, "--device = 'tpu' unknown"),
        ({"--clip": "maybe"}, "clip = 'maybe' unknown"),
        ({"--lora": "2"}, "find trains no weights"),
        ({"--out": "empty.txt"}, "is a file"),
        ({"--seed": "-1"}, "seed = -1"),
    ):
        assert run({"--out": "new", "--steps": "1"} | changes) == 2, message
        error = capsys.readouterr().err
        assert message in error and len(error.strip().splitlines()) == 1
    assert run({"--out": "new"}, "epsilon=1.5") == 2
    assert "epsilon = 1.5 outside (0, 1)" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["diffusers", "peft"])
def test_the_command_without_the_extra_says_what_is_missing(
    missing, folders, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, missing, None)
    words = ["diffusion", "train", "--model", str(folders["unet"]), "--agent", "ddpo"]
    more = ["--reward", "math:fsum", "--out", str(tmp_path / "run"), "--lora", "2"]
    assert execute([*words, *more]) == 2
    assert "pip install 'rlkit-gym[diffusion]'" in capsys.readouterr().err
