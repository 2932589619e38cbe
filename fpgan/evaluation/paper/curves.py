"""Perturbations over the range of their strength: what a report draws curves of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Curve(NamedTuple):
    """An operation whose strength is varied.

    Attributes:
      title: of its chart.
      x_label: what the strength is, with its unit.
      spec: how it is spelt, {} for the strength.
      strengths: from mild to strong, or on both sides of what changes nothing, in order.
      neutral: the strength at which nothing changes; None if there is none.
      log: whether strengths are spaced by their ratios.
    """

    title: str
    x_label: str
    spec: str
    strengths: Sequence[float]
    neutral: float | None = None
    log: bool = False

    def specs(self) -> list[tuple[float, str]]:
        """Returns the strengths with their perturbations; what changes nothing is being saved as PNG."""
        around = sorted({*self.strengths, *(() if self.neutral is None else (self.neutral,))})
        return [(x, "png" if x == self.neutral else self.spec.format(f"{x:.7g}")) for x in around]


_QUALITIES = (98, 95, 90, 85, 80, 70, 60, 50, 40, 30, 20, 10)
_FACTORS = (0.25, 0.5, 0.7, 0.85, 1.15, 1.3, 1.5, 2)
CURVES = (
    Curve("JPEG, colour halved (4:2:0)", "quality", "jpeg:{}", _QUALITIES),
    Curve("JPEG, full colour (4:4:4)", "quality", "jpeg444:{}", _QUALITIES),
    Curve("WebP", "quality", "webp:{}", (95, 90, 80, 70, 60, 50, 30, 10)),
    Curve("AVIF", "quality", "avif:{}", (95, 90, 80, 70, 60, 50, 30, 10)),
    Curve("Crop, resized back", "side kept", "crop:{}", (0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5), 1),
    Curve("Crop at a random place, resized back", "side kept", "random_crop:{}", (0.98, 0.95, 0.9, 0.8, 0.7, 0.5), 1),
    Curve("Resize and back", "side on the way", "resize:{}", (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.25), 1),
    Curve("Rotation", "degrees", "rotate:{}", (0.5, 1, 2, 3, 5, 10, 20, 45), 0),
    Curve("Perspective", "corners moved, part of half a side", "perspective:{}", (0.02, 0.05, 0.1, 0.2, 0.3), 0),
    Curve("Shift to the right", "pixels", "shift:{},0", (1, 2, 3, 4, 6, 8), 0),
    Curve("Gaussian blur", "sigma in pixels", "blur:{}", (0.3, 0.5, 0.8, 1, 1.25, 1.5, 2, 3), 0),
    Curve("Median filter", "side in pixels", "median:{}", (3, 5, 7), 1),
    Curve("Gaussian noise", "sigma in grey levels", "noise:{}", (2, 4, 6, 8, 12, 16, 24, 32), 0),
    Curve("Sharpening", "factor", "sharpen:{}", (1.5, 2, 3, 5), 1),
    Curve("Brightness", "factor", "brightness:{}", _FACTORS, 1),
    Curve("Contrast", "factor", "contrast:{}", _FACTORS, 1),
    Curve("Saturation", "factor", "saturation:{}", (0, 0.25, 0.5, 0.75, 1.5, 2), 1),
    Curve("Gamma", "exponent", "gamma:{}", (0.5, 0.7, 0.85, 1.15, 1.3, 1.5, 2), 1),
    Curve("Hue", "part of a turn", "hue:{}", (0.02, 0.05, 0.1, 0.2, 0.3, 0.5), 0),
    Curve("Erasing", "share of the area", "erase:{}", (0.02, 0.05, 0.1, 0.2, 0.3, 0.5), 0),
    Curve("Text over it", "height of the letters", "overlay:{}", (0.05, 0.1, 0.15, 0.2, 0.3), 0),
    Curve("Even levels", "levels of each channel", "quantise:{}", (128, 64, 32, 16, 8, 4), 256, log=True),
    Curve("Palette", "colours", "colours:{}", (256, 128, 64, 32, 16, 8), log=True),
    Curve("Screenshot, shown at 1.5", "quality of its JPEG", "screenshot:1.5,{}", (95, 90, 85, 75, 60)),
)
SINGLES = ("png", "gif", "flip", "turn:1", "grey", "invert", "crop_as_is:0.9", "border:0.1", "page:0.6", "phone:2",
           "caption:0.1", "combine:2", "combine:3")


def specs() -> list[str]:
    """Returns all that the curves and the singles try, each once."""
    return list(dict.fromkeys([*SINGLES, *(spec for curve in CURVES for _, spec in curve.specs())]))
