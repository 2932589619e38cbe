"""Being saved: what happens to an image between the model and the analyst when nobody means harm.

Each is a function of one 8-bit image, uint8 [R, R, 3] -> uint8 [R, R, 3], with its strength in its name.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from fpgan.io.images import encode_png, read_image
from fpgan.perturbations.filters import blur05
from fpgan.perturbations.geometry import resize75


def png(image: np.ndarray) -> np.ndarray:
    """Encodes as PNG and decodes again, by the functions that `generate` and `decode` use."""
    return read_image(encode_png(image))[0]


def jpeg75(image: np.ndarray) -> np.ndarray:
    """Encodes as JPEG of quality 75 with colour at half resolution (4:2:0), Pillow's default, and decodes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=75)
    return read_image(buffer.getvalue())[0]


PERTURBATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "png": png,
    "jpeg:75": jpeg75,
    "resize:0.75": resize75,
    "blur:0.5": blur05,
}


def perturb_all(images: np.ndarray, name: str) -> np.ndarray:
    """Applies one of PERTURBATIONS to each image: uint8 [N, R, R, 3] -> uint8 [N, R, R, 3]."""
    return np.stack([PERTURBATIONS[name](image) for image in images])
