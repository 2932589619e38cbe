"""Poses of a picture in an image: those that a search tries, and how a pose is told to people.

A pose is a homography [3, 3], a point of the picture -> its place in the image, in coordinates from -1 to 1 over each
(networks/alignment.py). It says what was done to the picture; to look each of its points up at that place undoes it.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np

from fpgan.networks.alignment import CORNERS, TURNS, project

_NEAR, _FARTHEST = 2, 6  # pixels of a shift in the grids
_OFF = (1.5, 0.03)  # pixels, and share of the size, by which an aligner may be wrong
_DEGREES = (-15, -12, -9, -6, -3, 3, 6, 9, 12, 15)
_SHOWN = (0.9, 0.8, 0.7, 0.6)  # sides of the picture on a page / sides of the page
_STEPS = 5  # places on a page, along each axis
_LEAST_SHARE = 0.5  # of a side that a crop leaves
_SAME_SIZE = 0.015  # what an aligner may be off by in telling the size
_STRAIGHT = 0.08  # of half a side: what bends less is told as if it were a similarity


def turns() -> np.ndarray:
    """Returns the seven turns of a square other than none, mirrored ones among them: float32 [7, 3, 3]."""
    return TURNS[1:]


@functools.cache
def grids(resolution: int) -> tuple[np.ndarray, ...]:
    """Computes the poses that a full search tries beside those of a fast one, the more likely ones first.

    Each part is tried after the one before. Upright and mirrored: first shifts by 1 or 2 whole pixels and the plain turns;
    then crops about the centre, each side in whole pixels down to half; then farther shifts, turns up to 15 degrees, and
    pages, with the picture at a few sizes and places.

    Args:
      resolution: R, height and width of the model's images in pixels.

    Returns:
      Arrays float32 [K, 3, 3].
    """
    pixel, steps = 2 / resolution, range(-_FARTHEST, _FARTHEST + 1)
    shifts = [(x, y) for x, y in itertools.product(steps, steps) if (x, y) != (0, 0)]
    near, far = ([placed(1, 1, x * pixel, y * pixel) for x, y in shifts if (max(abs(x), abs(y)) <= _NEAR) == is_near]
                 for is_near in (True, False))
    crops = []
    for side in range(math.ceil(_LEAST_SHARE * resolution), resolution):
        left = (resolution - side) // 2  # as a crop in whole pixels has it
        crops.append(placed(resolution / side, resolution / side, *2 * [(resolution - 2 * left) / side - 1]))
    far += [placed(1, 1, 0, 0, degrees) for degrees in _DEGREES]
    for share in _SHOWN:
        places = np.linspace(share - 1, 1 - share, _STEPS)
        far += [placed(share, share, x, y) for x, y in itertools.product(places, places)]
    mirrored = [np.concatenate([part, part @ TURNS[4]]).astype(np.float32) for part in map(np.stack, (near, crops, far))]
    return np.concatenate([TURNS[1:], mirrored[0]]), *mirrored[1:]


def around(centres: np.ndarray, resolution: int) -> np.ndarray:
    """Computes poses near others, moved by up to 1.5 pixels and 3% of the size: [M, 3, 3] -> float32 [M, 26, 3, 3]."""
    step = 2 * _OFF[0] / resolution
    offsets, scales = (-step, 0, step), (1 - _OFF[1], 1, 1 + _OFF[1])
    changes = [placed(size, size, x, y) for size, x, y in itertools.product(scales, offsets, offsets)
               if (size, x, y) != (1, 0, 0)]
    return (centres[:, None] @ np.stack(changes)).astype(np.float32)


def placed(width: float, height: float, x: float, y: float, degrees: float = 0.0) -> np.ndarray:
    """Builds the pose of a picture of some size at some place.

    Args:
      width, height: of the picture / of the image; above 1 it is cropped.
      x, y: where its centre lies, from -1 to 1 over the image.
      degrees: how far it is turned about its centre, counter-clockwise as seen.

    Returns:
      float64 [3, 3].
    """
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[width * cosine, height * sine, x], [-width * sine, height * cosine, y], [0, 0, 1]])


def distances(poses: np.ndarray) -> np.ndarray:
    """Computes how far the farthest corner lies from its own place: [..., 3, 3] -> [...], in halves of the image's side."""
    return np.linalg.norm(project(poses, CORNERS.astype(poses.dtype)) - CORNERS, axis=-1).max(axis=-1)


def sizes(poses: np.ndarray) -> np.ndarray:
    """Computes the side of a square as large as the picture, [..., 3, 3] -> [...], in sides of the image."""
    x, y = np.moveaxis(project(poses, CORNERS.astype(poses.dtype)), -1, 0)  # [..., 4]
    areas = (x * np.roll(y, -1, axis=-1) - y * np.roll(x, -1, axis=-1)).sum(axis=-1) / 2
    return np.sqrt(np.abs(areas)) / 2


def describe(pose: np.ndarray, resolution: int) -> str:
    """Says in words what was done to a picture, such as "flipped, cropped to 92%, turned 3 degrees".

    Args:
      pose: [3, 3].
      resolution: R, of the image in pixels, for shifts.

    Returns:
      The words; empty for what is below a third of a pixel.
    """
    pose = np.asarray(pose, np.float64)
    if distances(pose) * resolution / 2 < 1 / 3:
        return ""
    places = project(pose, CORNERS.astype(np.float64))
    right = (places[1] - places[0] + places[2] - places[3]) / 4  # half of the picture's width, as it lies
    down = (places[3] - places[0] + places[2] - places[1]) / 4
    words, mirrored = [], right[0] * down[1] - right[1] * down[0] < 0
    if mirrored:
        words.append("flipped")
        right = -right
    width, height = np.linalg.norm(right), np.linalg.norm(down)
    degrees, centre = math.degrees(math.atan2(-right[1], right[0])), places.mean(axis=0)
    flat = centre + CORNERS[:, :1] * (-right if mirrored else right) + CORNERS[:, 1:] * down  # without perspective, or shear
    is_bent = np.abs(flat - places).max() > _STRAIGHT * max(width, height)
    words += _sizes(width, height, is_bent)
    if abs(degrees) >= 1.5:
        words.append(f"turned {abs(degrees):.0f} degrees{'' if degrees > 0 or abs(degrees) > 179.5 else ' clockwise'}")
    return ", ".join(words + (["seen at an angle"] if is_bent else _shift(centre * resolution / 2, width, height)))


def _sizes(width: float, height: float, is_bent: bool) -> list[str]:
    """Says how large a picture is against its image."""
    words, size = [], math.sqrt(width * height)
    if size > 1 + _SAME_SIZE:
        words.append(f"cropped to {100 / size:.0f}%")
    elif size < 1 - _SAME_SIZE:
        words.append(f"shown at {100 * size:.0f}%")
    if abs(math.log(width / height)) > 0.03 and not is_bent:
        words.append(f"stretched by {width / height:.2f}")
    return words


def _shift(pixels: np.ndarray, width: float, height: float) -> list[str]:
    """Says how far a picture was moved to the right and down; off the centre of a crop or a page from a pixel on."""
    whole = abs(width - 1) < 0.005 and abs(height - 1) < 0.005
    if np.abs(pixels).max() < (0.25 if whole else 1.0):
        return []
    across, down = (f"{round(float(value), 1) + 0:g}" for value in pixels)
    return [f"{'shifted' if whole else 'off centre'} by ({across}, {down}) pixels"]
