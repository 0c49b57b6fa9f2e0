"""Images side by side in one picture."""

import io
import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

LEAST = 32  # smaller images are enlarged to at least this many pixels a side
GAP = 2  # white pixels between images


def grid(images: Tensor) -> NDArray[np.uint8]:
    """A picture `[H, W, 3]` of images `[B, 3, h, w]` in [0, 1], row by row, about as wide as high.

    Small images are enlarged by whole factors.
    """
    count = images.shape[0]
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    factor = math.ceil(LEAST / min(images.shape[2:]))
    large = images.detach().cpu().float().repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    height, width = large.shape[2] + GAP, large.shape[3] + GAP
    picture = torch.ones(3, rows * height - GAP, columns * width - GAP)
    for number, image in enumerate(large):
        top, left = number // columns * height, number % columns * width
        picture[:, top : top + height - GAP, left : left + width - GAP] = image
    pixels: NDArray[np.uint8] = (picture * 255).round().to(torch.uint8).movedim(0, -1).numpy()
    return pixels


def encoded(picture: NDArray[np.uint8]) -> bytes:
    """A picture `[H, W, 3]` as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()
