"""What docs/language_models.md tells the reader to type works on a tiny model."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "language_models.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^rlkit (.*)$", PAGE, re.MULTILINE)
(CODE,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(tmp_path, folder, reward_folder, pairs):
    (tmp_path / "MODEL").symlink_to(folder)
    (tmp_path / "SCORER").symlink_to(reward_folder)
    pairs.rename(tmp_path / "pairs.jsonl")
    return tmp_path


def execute(arguments, place):
    done = subprocess.run(
        [sys.executable, *arguments], cwd=place, capture_output=True, text=True, timeout=400,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run_on_a_tiny_model(command, place):
    # Few steps, and responses that fit a small context, whatever the page says.
    words = re.sub(r"--steps \d+ ?", "", command).split()
    start = "import sys; from rlkit.cli import main; sys.exit(main())"
    execute(["-c", start, *words, "--steps", "2", "--horizon", "8", "batch=4"], place)
    out = place / words[words.index("--out") + 1]
    assert list((out / "model").glob("*.safetensors"))


def test_the_example_runs_on_a_tiny_model(place):
    script = place / "example.py"
    script.write_text(CODE.replace("steps=200", "steps=2").replace("horizon=32", "horizon=8"))
    execute([str(script)], place)
    assert list((place / "runs" / "brief" / "model").glob("*.safetensors"))
