"""Perturbations that move pixels; each is a function of one 8-bit image, uint8 [R, R, 3] -> uint8 [R, R, 3]."""

from __future__ import annotations

import numpy as np
from PIL import Image

_BICUBIC = Image.Resampling.BICUBIC


def resize75(image: np.ndarray) -> np.ndarray:
    """Shrinks to 75% of the side and enlarges to the old size, both bicubic; shrinking is antialiased."""
    side = image.shape[0]
    small = Image.fromarray(image).resize((round(0.75 * side),) * 2, _BICUBIC)
    return np.array(small.resize((side, side), _BICUBIC))
