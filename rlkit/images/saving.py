"""A trained model as an ordinary folder of `diffusers`."""

import shutil
from pathlib import Path

from torch import Tensor

from rlkit import files
from rlkit.images.folders import INDEX, SCHEDULER
from rlkit.images.model import ImageModel
from rlkit.tuning.models import replacing_folder, trained

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
    module = trained(model.module, model.adapter, parameters)
    with replacing_folder(folder) as fresh:
        if (model.folder / INDEX).is_file():
            module.save_pretrained(fresh / "unet", safe_serialization=True)
            copy_around(model.folder, fresh)
        else:
            module.save_pretrained(fresh, safe_serialization=True)
            beside = model.folder / SCHEDULER
            inside = model.folder / "scheduler" / SCHEDULER
            shutil.copyfile(beside if beside.is_file() else inside, fresh / SCHEDULER)


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
