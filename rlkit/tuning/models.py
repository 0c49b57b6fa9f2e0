"""Models of optional libraries: imported late, loaded with one-line errors, written whole."""

import copy
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from rlkit import files


def optional(name: str, extra: str) -> Any:
    """The module of a library that the extra `extra` installs.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise ValueError(f"{name} is not installed; pip install 'rlkit-gym[{extra}]'") from None


@contextmanager
def loading(folder: Path, failure: str) -> Iterator[None]:
    """Tell what a library raises in the block in one line.

    Args:
        folder: that is loaded.
        failure: what the line says before the library's reason.

    Raises:
        ValueError: naming the folder.
    """
    try:
        yield
    except (OSError, KeyError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder}: {failure}: {reason:.300}") from None


def learned(module: nn.Module) -> dict[str, Tensor]:
    """Copies `[1, ...]` of the parameters that require a gradient."""
    named = module.named_parameters()
    return {name: leaf.detach().clone()[None] for name, leaf in named if leaf.requires_grad}


def trained(module: nn.Module, adapter: Any, parameters: dict[str, Tensor]) -> Any:
    """A copy of a module with what was learned in place of its own; adapters are merged.

    Args:
        module: keeps the reference's weights.
        adapter: what wraps it where adapters are trained, else None.
        parameters: `[1, ...]` by name.
    """
    whole: Any = copy.deepcopy(module if adapter is None else adapter)
    copied: Any = whole if adapter is None else whole.get_base_model()
    own = dict(copied.named_parameters())
    with torch.no_grad():
        for name, leaf in parameters.items():
            own[name].copy_(leaf[0])
    return copied if adapter is None else whole.merge_and_unload()


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill; it takes the place of `folder`, whole, when the block succeeds."""
    fresh = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    former = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    try:
        yield fresh
        for path in fresh.rglob("*"):
            if path.is_file():
                files.sync_file(path)
        if folder.exists():
            folder.replace(former)
        try:
            fresh.replace(folder)
        except OSError:
            if former.exists():
                former.replace(folder)
            raise
        files.sync_folder(folder.parent)
    finally:
        for left in (fresh, former):
            shutil.rmtree(left, ignore_errors=True)
