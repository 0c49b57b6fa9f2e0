"""What docs/image_diffusion.md tells the reader to type works on tiny models."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rlkit.cli import execute

pytest.importorskip("diffusers")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "image_diffusion.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^rlkit (.*)$", PAGE, re.MULTILINE)
REWARD, CODE = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(tmp_path, folders):
    (tmp_path / "UNET").symlink_to(folders["unet"])
    (tmp_path / "TEXT").symlink_to(folders["text"])
    (tmp_path / "rewards.py").write_text(REWARD)
    (tmp_path / "prompts.txt").write_text("a red cat\n\ntwo dogs\n")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run_on_a_tiny_model(command, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "rewards", raising=False)
    # Few steps, and few images, whatever the page says.
    words = shlex.split(re.sub(r"--steps \d+ ?|\bbatch=\d+", "", command))
    few = ["--steps", "2", "--denoising", "3", "--look", "4", "batch=4"]
    assert execute([*words, *few]) == 0
    out = place / words[words.index("--out") + 1]
    assert (out / "results.parquet").is_file()
    assert (out / "noise.safetensors").is_file() or (out / "model").is_dir()


def test_the_example_runs_on_a_tiny_model(place):
    script = place / "example.py"
    script.write_text(CODE.replace("steps=100", "steps=2").replace("noise, 20", "noise, 3"))
    done = subprocess.run(
        [sys.executable, str(script)], cwd=place, capture_output=True, text=True, timeout=400,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert (place / "runs" / "bright" / "noise.safetensors").is_file()
