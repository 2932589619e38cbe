"""What happens to an image between model and analyst, by name: "jpeg:75", "crop:0.9+jpeg:80".

    from fpgan.perturbations import apply, homography
    saved = apply("crop:0.9+jpeg:80", images, seed=0)      # uint8 [N, H, W, 3], on real 8-bit images, by Pillow
    matrix = homography("crop:0.9+jpeg:80", (64, 64))      # where each point of the picture went

`fpgan perturb --help` prints all operations with units and ranges, `fpgan perturb` shows what they do.
Nothing is imported before it is used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fpgan.perturbations.geometry import corners, warp
    from fpgan.perturbations.operation import Perturbation, Strength
    from fpgan.perturbations.registry import PERTURBATIONS, apply, expand, homography, parse, shared_steps, spell, table
    from fpgan.perturbations.suites import SUITES, suite

_HOMES = {
    **dict.fromkeys(("Perturbation", "Strength"), "operation"),
    **dict.fromkeys(("PERTURBATIONS", "apply", "expand", "homography", "parse", "shared_steps", "spell", "table"),
                    "registry"),
    **dict.fromkeys(("corners", "warp"), "geometry"),
    **dict.fromkeys(("SUITES", "suite"), "suites"),
}
__all__ = ["PERTURBATIONS", "SUITES", "Perturbation", "Strength", "apply", "corners", "expand", "homography", "parse",
           "shared_steps", "spell", "suite", "table", "warp"]


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module 'fpgan.perturbations' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fpgan.perturbations.{_HOMES[name]}"), name)


def __dir__():
    return sorted(__all__)
