"""Folders of diffusers: what may be in them, and parts of models read from safetensors."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from rlkit import files
from rlkit.tuning.models import loading, optional
from rlkit.validation import check_choice

INDEX, SCHEDULER = "model_index.json", "scheduler_config.json"
library = partial(optional, extra="diffusion")


def check_weights(folder: Path) -> dict[str, Any]:
    """The configuration of a folder with weights.

    Raises:
        ValueError: no folder, no `config.json`, code of its own, or no safetensors.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; accepted: a local one, nothing is downloaded")
    config = files.read_json(folder / "config.json")
    if "auto_map" in config:
        raise ValueError(f"{folder}: config.json asks for code of its own; that is never run")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} has no *.safetensors; other formats, as *.bin, are not read")
    return config


def load_part(folder: Path, source: str, kind: str, device: str) -> Any:
    """A frozen model of class `kind` of the library `source`, in single precision.

    Raises:
        ValueError: as `check_weights`, or what the library cannot load; names the folder.
    """
    check_weights(folder)
    made = getattr(library(source), kind)
    typed = "dtype" if source == "transformers" else "torch_dtype"
    options = {"use_safetensors": True, "local_files_only": True, typed: torch.float32}
    with loading(folder, f"not loaded as {kind}"):
        model = made.from_pretrained(str(folder), **options)
    return model.to(device).eval()


def check_parts(folder: Path, index: dict[str, Any], accepted: dict[str, tuple[str, ...]]) -> None:
    """Accept an index whose parts are of known classes.

    Raises:
        ValueError: naming the part.
    """
    for name, kinds in accepted.items():
        entry = index.get(name)
        kind = entry[-1] if isinstance(entry, list) and entry else None
        check_choice(f"{folder / INDEX}: {name}", kind, kinds)
