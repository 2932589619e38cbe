"""What a perturbation is: an operation on one 8-bit image, its strengths with their units, where it moves the picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fpgan.errors import FpganError


class Strength(NamedTuple):
    """One number behind the colon.

    Attributes:
      meaning: what it is, with its unit, such as "sigma in grey levels".
      least, most: its range, both ends allowed.
      whole: whether it has to be a whole number.
      choices: the only values allowed, if they are few.
    """

    meaning: str
    least: float
    most: float
    whole: bool = False
    choices: tuple[float, ...] = ()

    def expected(self) -> str:
        """Says which values are allowed."""
        if self.choices:
            return "one of " + ", ".join(f"{value:g}" for value in self.choices)
        return f"{'a whole number' if self.whole else 'a number'} from {self.least:g} to {self.most:g}"


class Placement(NamedTuple):
    """Where an operation puts the picture.

    Attributes:
      matrix: float64 [3, 3], a point of the image before -> its place after, both as (x, y, 1) in coordinates in which
        each image, of whatever size, reaches from -1 at the left and upper edge to 1 at the right and lower edge.
      size: height and width of the image after.
    """

    matrix: np.ndarray
    size: tuple[int, int]


@dataclass(frozen=True)
class Perturbation:
    """An operation on images, by name.

    Attributes:
      name: as it is spelt before the colon.
      meaning: one line for people: what it does and which library does it.
      example: a spelling with usual strengths, such as "jpeg:75".
      run: called as run(image, *strengths), random ones as run(image, *strengths, rng): uint8 [H, W, 3] -> [H', W', 3].
      strengths: the numbers that it takes.
      random: whether it draws anything.
      place: for what moves the picture, called as place(size, *strengths) or place(size, *strengths, rng) with the size
        (H, W) and an equal generator: its Placement. Without it every point stays where it is.
      encode: for codecs, called as encode(image, *strengths): the file that `run` decodes.
      suffix: ending of that file's name, such as ".jpg".
    """

    name: str
    meaning: str
    example: str
    run: Callable[..., np.ndarray]
    strengths: tuple[Strength, ...] = ()
    random: bool = False
    place: Callable[..., Placement] | None = None
    encode: Callable[..., bytes] | None = None
    suffix: str = ""

    def checked(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """Returns the strengths, whole ones as int.

        Raises:
          FpganError: one is missing, out of its range, or one too many; the message holds the range.
        """
        if len(values) != len(self.strengths):
            takes = " and ".join(strength.meaning for strength in self.strengths) or "no strength"
            raise FpganError(f"{self.name} takes {takes}, and was given {len(values)} numbers; write it like {self.example}")
        return tuple(self._checked(strength, value) for strength, value in zip(self.strengths, values, strict=True))

    def _checked(self, strength: Strength, value: float) -> float:
        allowed = value in strength.choices if strength.choices else (
            strength.least <= value <= strength.most and (not strength.whole or value == int(value)))
        if not allowed:
            raise FpganError(f"{self.name}: {strength.meaning} is {value:g}; expected {strength.expected()}")
        return int(value) if strength.whole or strength.choices else float(value)
