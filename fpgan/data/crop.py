"""How an image of any size becomes a square of the training resolution: cropped, then resized."""

import numpy as np
from PIL import Image

from fpgan.errors import FpganError

CROPS = ("center", "none", "celeba128")
_CELEBA_CENTRE, _CELEBA_SIDE = (89, 121), 128  # x, y in the aligned 178 x 218 images


def crop_box(width, height, crop):
    """Finds the square window of an image that is kept.

    Args:
      width, height: size of the image in pixels.
      crop: "center": the largest central square; "none": all of it, which must be square; "celeba128": the
        128 x 128 window centred at x = 89, y = 121, for the aligned images of CelebA.

    Returns:
      (left, top, side) in pixels.

    Raises:
      FpganError: if the crop is unknown or does not fit this image; the text names no file.
    """
    if crop == "center":
        side = min(width, height)
        return (width - side) // 2, (height - side) // 2, side
    if crop == "none":
        if width != height:
            raise FpganError(f"{width} x {height} is not square, as crop=none expects; use crop=center")
        return 0, 0, width
    if crop == "celeba128":
        left, top = (c - _CELEBA_SIDE // 2 for c in _CELEBA_CENTRE)
        if width < left + _CELEBA_SIDE or height < top + _CELEBA_SIDE:
            raise FpganError(f"{width} x {height} is too small for crop=celeba128, which expects CelebA's"
                             " aligned images of 178 x 218; use crop=center")
        return left, top, _CELEBA_SIDE
    raise FpganError(f"there is no crop {crop!r}; expected one of: {', '.join(CROPS)}")


def crop_and_resize(image, resolution, crop):
    """Crops an image to a square and scales it with an antialiasing (Lanczos) filter.

    Args:
      image: uint8 [H, W, 3].
      resolution: side length of the result in pixels.
      crop: as in `crop_box`.

    Returns:
      uint8 [R, R, 3], and the side length of the window it was made from, in pixels.

    Raises:
      FpganError: as `crop_box`.
    """
    height, width = image.shape[:2]
    left, top, side = crop_box(width, height, crop)
    window = image[top:top + side, left:left + side]  # [side, side, 3]
    if side == resolution:
        return np.ascontiguousarray(window), side
    size = (resolution, resolution)
    return np.array(Image.fromarray(window).resize(size, Image.Resampling.LANCZOS)), side
