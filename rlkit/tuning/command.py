"""Options and steps of the commands that train a model. Imports neither torch nor a library."""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from rlkit import files
from rlkit.launch import OK
from rlkit.validation import check_choice

Fields = Annotated[list[str] | None, typer.Argument(help="field=value of the agent")]
Out = Annotated[str, typer.Option("--out", help="Folder of the run.")]
Steps = Annotated[int, typer.Option("--steps", help="Steps in all.")]
Lora = Annotated[int, typer.Option("--lora", help="Rank of adapters; 0: all weights.")]
Record = Annotated[int, typer.Option("--record", help="Steps between records.")]
Save = Annotated[int, typer.Option("--save", help="Steps between checkpoints.")]
Seed = Annotated[int, typer.Option("--seed", help="Of every draw.")]
Device = Annotated[str, typer.Option("--device", help="cpu or cuda.")]


def check_out(out: str) -> None:
    """Accept a folder that is new or is one.

    Raises:
        ValueError: a file.
    """
    if Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"--out {out!r} is a file; allowed: a folder")


def check_device(device: str) -> None:
    """Accept a device of this machine.

    Raises:
        ValueError: another one.
    """
    cuda = import_module("torch").cuda.is_available()
    check_choice("--device", device, ("cpu", "cuda") if cuda else ("cpu",))


def weights(folder: Path, pattern: str = "*.safetensors") -> list[dict[str, Any]]:
    """What identifies the weights in a folder: sizes and hashes of its files."""
    return [files.fingerprint(path) for path in sorted(folder.glob(pattern))]


def complete(trainer: Any, length: Any, name: str, result: str) -> int:
    """Run a `Tuning` to the end, with progress on standard error; returns the exit code.

    Prints the last record and then `result`; `name` stands before the bar.
    """
    if trainer.step:
        print(f"resumed after step {trainer.step}")
    progress = import_module("rlkit.experiments.progress")
    with progress.reporter("auto", name, length.steps, 1) as shown:
        last = trainer.run(length, shown.update)
    for key, value in sorted(last.items()):
        print(f"{key:16} {value:.4g}")
    print(result)
    return OK
