"""Where the picture goes: flips, turns, shifts, crops, rotation, perspective, each with the matrix that it applies.

Every operation that moves the picture has a twin, its `place`, which returns the matrix and the new size without touching
a pixel: a homography in coordinates that reach from -1 (left, upper edge) to 1 (right, lower edge) of each image, whatever
its size, so that "resized back" and "as it is" have one matrix. It maps a point before to its place after; its inverse says
where each pixel of the new image was taken from. What shows where the picture has left is said by each operation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from fpgan.perturbations.operation import Perturbation, Placement, Strength

Size = tuple[int, int]  # height, width
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
_BICUBIC = Image.Resampling.BICUBIC
_CORNERS = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], np.float64)


def warp(image: np.ndarray, matrix: np.ndarray, size: Size | None = None, fill: int = 0) -> np.ndarray:
    """Moves a picture by a homography, bicubic, by Pillow: as people's programs do.

    It shares nothing with `fpgan.networks.warping`, by which training and reading look pictures up: so tests can hold one
    against the other.

    Args:
      image: uint8 [H, W, 3].
      matrix: [3, 3], as in `operation.Placement`: a point before -> its place after.
      size: of the new image; that of the old one without it.
      fill: grey level where the picture has left.

    Returns:
      uint8 [*size, 3].
    """
    size = size or image.shape[:2]
    inverse = _pixels(image.shape[:2]) @ np.linalg.inv(matrix) @ np.linalg.inv(_pixels(size))  # pixel after -> pixel before
    coefficients = tuple((inverse / inverse[2, 2]).ravel()[:8])
    moved = Image.fromarray(image).transform(size[::-1], Image.Transform.PERSPECTIVE, coefficients, _BICUBIC,
                                             fillcolor=(fill,) * 3)
    return np.array(moved)


def corners(matrix: np.ndarray) -> np.ndarray:
    """Computes where the four corners go: [..., 3, 3] -> [..., 4, 2], upper left first, clockwise, as (x, y)."""
    points = np.concatenate([_CORNERS, np.ones((4, 1))], axis=1) @ np.swapaxes(matrix, -1, -2)  # [..., 4, 3]
    return points[..., :2] / points[..., 2:]


def homography_of(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Solves for the homography that takes four points to four points.

    Args:
      before, after: float [4, 2], no three of either on one line.

    Returns:
      float64 [3, 3] with a 1 in its last corner.
    """
    rows = []
    for (x, y), (u, v) in zip(before, after, strict=True):
        rows += [(x, y, 1, 0, 0, 0, -u * x, -u * y), (0, 0, 0, x, y, 1, -v * x, -v * y)]
    return np.append(np.linalg.solve(np.array(rows, np.float64), np.ravel(after)), 1).reshape(3, 3)


def fill_from(box: Box, size: Size) -> np.ndarray:
    """Computes the matrix by which a box, in pixels of an image of `size`, comes to fill the new image.

    A box that reaches beyond the image puts the whole picture into a larger one.
    """
    left, top, right, bottom = box
    height, width = size
    x, y = width / (right - left), height / (bottom - top)
    return np.array([[x, 0, x - 2 * left / (right - left) - 1], [0, y, y - 2 * top / (bottom - top) - 1], [0, 0, 1]])


def flip(image: np.ndarray) -> np.ndarray:
    """Mirrors left and right."""
    return np.ascontiguousarray(image[:, ::-1])


def place_flip(size: Size) -> Placement:
    """Returns where `flip` puts the picture."""
    return Placement(np.diag([-1.0, 1, 1]), size)


def flip_vertical(image: np.ndarray) -> np.ndarray:
    """Mirrors top and bottom."""
    return np.ascontiguousarray(image[::-1])


def place_flip_vertical(size: Size) -> Placement:
    """Returns where `flip_vertical` puts the picture."""
    return Placement(np.diag([1.0, -1, 1]), size)


def turn(image: np.ndarray, quarters: int) -> np.ndarray:
    """Turns by quarters, counter-clockwise; width and height change places when their number is odd."""
    return np.ascontiguousarray(np.rot90(image, quarters))


def place_turn(size: Size, quarters: int) -> Placement:
    """Returns where `turn` puts the picture."""
    quarter = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    return Placement(np.linalg.matrix_power(quarter, quarters), size[::-1] if quarters % 2 else size)


def shift(image: np.ndarray, right: int, down: int) -> np.ndarray:
    """Moves the picture by whole pixels; its outermost pixels are repeated where it has left."""
    height, width = image.shape[:2]
    rows, columns = np.clip(np.arange(height) - down, 0, height - 1), np.clip(np.arange(width) - right, 0, width - 1)
    return image[rows[:, None], columns]


def place_shift(size: Size, right: int, down: int) -> Placement:
    """Returns where `shift` puts the picture."""
    height, width = size
    return Placement(fill_from((-right, -down, width - right, height - down), size), size)


def scale(image: np.ndarray, fraction: float) -> np.ndarray:
    """Resizes to a fraction of the side, bicubic, and leaves it so."""
    height, width = scaled_size(image.shape[:2], fraction)
    return np.array(Image.fromarray(image).resize((width, height), _BICUBIC))


def place_scale(size: Size, fraction: float) -> Placement:
    """Returns where `scale` puts the picture: each point where it was, in another size."""
    return Placement(np.eye(3), scaled_size(size, fraction))


def aspect(image: np.ndarray, ratio: float) -> np.ndarray:
    """Stretches the width against the height by `ratio`, bicubic, at about the old area, and leaves it so."""
    height, width = _stretched(image.shape[:2], ratio)
    return np.array(Image.fromarray(image).resize((width, height), _BICUBIC))


def place_aspect(size: Size, ratio: float) -> Placement:
    """Returns where `aspect` puts the picture: each point where it was, in another size."""
    return Placement(np.eye(3), _stretched(size, ratio))


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """Rotates about the centre, counter-clockwise, bicubic, in a frame of the old size; black shows in the corners."""
    return np.array(Image.fromarray(image).rotate(degrees, _BICUBIC, fillcolor=(0, 0, 0)))


def place_rotate(size: Size, degrees: float) -> Placement:
    """Returns where `rotate` puts the picture."""
    height, width = size
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return Placement(np.array([[cos, sin * height / width, 0], [-sin * width / height, cos, 0], [0, 0, 1]]), size)


def perspective(image: np.ndarray, distortion: float, rng: np.random.Generator) -> np.ndarray:
    """Draws each corner up to `distortion` of half a side inwards, in x and in y, bicubic; black shows around."""
    return warp(image, place_perspective(image.shape[:2], distortion, rng).matrix)


def place_perspective(size: Size, distortion: float, rng: np.random.Generator) -> Placement:
    """Returns where `perspective` puts the picture: always a quadrangle that no line of sight turns over."""
    while True:
        drawn = _CORNERS * (1 - distortion * rng.random((4, 2)))
        sides = np.roll(drawn, -1, axis=0) - drawn
        after = np.roll(sides, -1, axis=0)
        if (sides[:, 0] * after[:, 1] - sides[:, 1] * after[:, 0] > 0.1).all():  # convex, and far from a triangle
            return Placement(homography_of(_CORNERS, drawn), size)


def centre_box(size: Size, fraction: float) -> Box:
    """Returns the box around the centre with a fraction of both sides, in whole pixels."""
    (height, width), (high, wide) = size, scaled_size(size, fraction)
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def random_box(size: Size, fraction: float, rng: np.random.Generator) -> Box:
    """Draws the place of a box with a fraction of both sides, in whole pixels."""
    (height, width), (high, wide) = size, scaled_size(size, fraction)
    left, top = int(rng.integers(0, width - wide + 1)), int(rng.integers(0, height - high + 1))
    return left, top, left + wide, top + high


def scaled_size(size: Size, fraction: float) -> Size:
    """Returns both sides times a fraction, in whole pixels, at least 1."""
    return max(1, round(fraction * size[0])), max(1, round(fraction * size[1]))


def crop(image: np.ndarray, *drawn: Any, box: Callable[..., Box], back: bool) -> np.ndarray:
    """Cuts out a box.

    Args:
      image: uint8 [H, W, 3].
      drawn: handed on to `box`: the fraction, and the generator if it is a random one.
      box: `centre_box` or `random_box`.
      back: resize to the old size, bicubic; otherwise the smaller image is left as it is.
    """
    left, top, right, bottom = box(image.shape[:2], *drawn)
    part = image[top:bottom, left:right]
    if not back:
        return part.copy()
    height, width = image.shape[:2]
    return np.array(Image.fromarray(part).resize((width, height), _BICUBIC))


def place_crop(size: Size, *drawn: Any, box: Callable[..., Box], back: bool) -> Placement:
    """Returns where `crop` puts the picture."""
    left, top, right, bottom = place = box(size, *drawn)
    return Placement(fill_from(place, size), size if back else (bottom - top, right - left))


def window(image: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Keeps a box at a random place, its outermost pixels repeated around: what a crop shows that was put back in place."""
    left, top, right, bottom = random_box(image.shape[:2], fraction, rng)
    height, width = image.shape[:2]
    rows, columns = np.clip(np.arange(height), top, bottom - 1), np.clip(np.arange(width), left, right - 1)
    return image[rows[:, None], columns]


def _stretched(size: Size, ratio: float) -> Size:
    return max(1, round(size[0] / math.sqrt(ratio))), max(1, round(size[1] * math.sqrt(ratio)))


def _pixels(size: Size) -> np.ndarray:
    """The matrix from coordinates in [-1, 1] to pixels, whose centres lie at halves."""
    height, width = size
    return np.array([[width / 2, 0, width / 2], [0, height / 2, height / 2], [0, 0, 1]])


def _crop(name: str, box: Callable[..., Box], back: bool) -> Perturbation:
    where = "around the centre" if box is centre_box else "at a random place"
    options = {"box": box, "back": back}
    return Perturbation(name, f"cropped {where}, {'resized back' if back else 'left smaller'}", f"{name}:0.9",
                        functools.partial(crop, **options), (_SIDE,), random=box is random_box,
                        place=functools.partial(place_crop, **options))


_SIDE = Strength("side kept / old side", 0.05, 1)
_PIXELS = [Strength(f"pixels {way}", -1024, 1024, whole=True) for way in ("to the right", "down")]
GEOMETRY = (
    Perturbation("flip", "mirrored left and right", "flip", flip, place=place_flip),
    Perturbation("flip_vertical", "mirrored top and bottom", "flip_vertical", flip_vertical, place=place_flip_vertical),
    Perturbation("turn", "turned by quarters", "turn:1", turn,
                 (Strength("quarter turns counter-clockwise", 1, 3, choices=(1, 2, 3)),), place=place_turn),
    Perturbation("shift", "moved, its edges repeated", "shift:3,-2", shift, tuple(_PIXELS), place=place_shift),
    _crop("crop", centre_box, back=True),
    _crop("crop_as_is", centre_box, back=False),
    _crop("random_crop", random_box, back=True),
    _crop("random_crop_as_is", random_box, back=False),
    Perturbation("window", "only a box at a random place kept, in its place, its edges repeated", "window:0.8", window,
                 (_SIDE,), random=True),
    Perturbation("scale", "resized, bicubic, and left so", "scale:0.5", scale, (Strength("new side / old side", 0.05, 8),),
                 place=place_scale),
    Perturbation("aspect", "stretched, and left so", "aspect:1.25", aspect,
                 (Strength("width against height, 1: as it is", 0.25, 4),), place=place_aspect),
    Perturbation("rotate", "rotated in its frame, black corners", "rotate:6", rotate,
                 (Strength("degrees counter-clockwise", -180, 180),), place=place_rotate),
    Perturbation("perspective", "corners drawn inwards at random, black around", "perspective:0.3", perspective,
                 (Strength("part of half a side, at most", 0, 0.9),), random=True, place=place_perspective),
)
