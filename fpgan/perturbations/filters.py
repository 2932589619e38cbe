"""Perturbations that filter; each is a function of one 8-bit image, uint8 [R, R, 3] -> uint8 [R, R, 3]."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter


def blur05(image: np.ndarray) -> np.ndarray:
    """Blurs slightly: Pillow's Gaussian of standard deviation 0.5 pixels."""
    return np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.5)))
