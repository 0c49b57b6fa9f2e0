"""A trained model as an ordinary folder of `diffusers`."""

import copy
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlkit import files
from rlkit.images.folders import INDEX, SCHEDULER
from rlkit.images.model import ImageModel

COPIED = ("scheduler", "text_encoder", "tokenizer", "vae")


def save_model(model: ImageModel, parameters: dict[str, Tensor], folder: Path) -> None:
    """Write a trained model in the layout of the folder that it was read from.

    The folder appears whole or not at all; one that exists is replaced. Adapters are merged; a
    safety checker is not copied.

    Args:
        model: keeps the reference's weights.
        parameters: what was learned, `[1, ...]` by name.
        folder: to be written.
    """
    fresh = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    try:
        if (model.folder / INDEX).is_file():
            trained(model, parameters).save_pretrained(fresh / "unet", safe_serialization=True)
            copy_around(model.folder, fresh)
        else:
            trained(model, parameters).save_pretrained(fresh, safe_serialization=True)
            beside = model.folder / SCHEDULER
            inside = model.folder / "scheduler" / SCHEDULER
            shutil.copyfile(beside if beside.is_file() else inside, fresh / SCHEDULER)
        for path in fresh.rglob("*"):
            if path.is_file():
                files.sync_file(path)
        if folder.exists():
            shutil.rmtree(folder)
        fresh.replace(folder)
        files.sync_folder(folder.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def trained(model: ImageModel, parameters: dict[str, Tensor]) -> Any:
    """A copy of the U-Net with learned weights `[1, ...]` in place of its own."""
    whole: Any = copy.deepcopy(model.module if model.adapter is None else model.adapter)
    module: Any = whole if model.adapter is None else whole.get_base_model()
    own = dict(module.named_parameters())
    with torch.no_grad():
        for name, leaf in parameters.items():
            own[name].copy_(leaf[0])
    return module if model.adapter is None else whole.merge_and_unload()


def copy_around(source: Path, fresh: Path) -> None:
    """Copy the parts of a pipeline around its U-Net, and its index without other parts."""
    index = files.read_json(source / INDEX)
    kept = {name for name in COPIED if (source / name).is_dir()}
    for name in sorted(kept):
        shutil.copytree(source / name, fresh / name, ignore=shutil.ignore_patterns("*.bin", "*.py"))
    for name, entry in index.items():
        if isinstance(entry, list) and name not in {*kept, "unet"}:
            index[name] = [None, None]
    files.write_json(fresh / INDEX, index)
