"""Images beside the model's: real ones, a twin's, and those of the same generator with its fingerprint turned off."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from fpgan.data.sources import data_settings, open_other, open_source
from fpgan.errors import FpganError
from fpgan.evaluation.paper.study import Study

if TYPE_CHECKING:
    from fpgan.model.model import Model

SILENT_STRENGTH = 1e-6  # of the fingerprint, where 0 is not a strength


def real_images(study: Study, count: int, skip: int = 0) -> tuple[np.ndarray, str]:
    """Reads real images in a random order, always the same one.

    Args:
      study: its plan says which.
      count: how many.
      skip: how many of the order are passed over, for images that no other call has read.

    Returns:
      uint8 [count, R, R, 3], and their name.

    Raises:
      FpganError: there are none, or too few.
    """
    source = open_real(study)
    if len(source) < skip + count:
        raise FpganError(f"{source.name} has {len(source)} images, but {skip + count} are needed; lower --images")
    return source.read(study.rng(500).permutation(len(source))[skip:skip + count]), source.name


def open_real(study: Study):
    """Opens the plan's real images at the model's resolution."""
    plan = study.plan
    return open_source(data_settings(plan.data) | plan.data_options, study.model.resolution)


def other_images(study: Study, name: str, count: int) -> np.ndarray:
    """Reads up to `count` images of a further source, by its short name: uint8 [N, R, R, 3]."""
    source = open_other(name, study.model.resolution, study.plan.data_options.get("data_dir", "data"))
    chosen = np.sort(study.rng(700).choice(len(source), min(count, len(source)), replace=False))
    return source.read(chosen)


def silent(model: Model):
    """Returns the same generator with its fingerprint input turned down to nothing, and a name for it.

    It is the strictest twin there is: it differs by nothing but the fingerprint. But no image like its own was seen in
    training.

    Raises:
      FpganError: the model's fingerprints are not coded as -1 and 1, so that nothing lies between two of them.
    """
    from fpgan.model.model import Model

    if not hasattr(model, "config"):
        raise FpganError("this model has no networks whose fingerprint could be turned off; give --twin")
    if model.config.bit_coding != "plus_minus_one":
        raise FpganError("this model's bits are coded as 0 and 1, so its fingerprint cannot be turned off; give --twin")
    config = dataclasses.replace(model.config, fingerprint_strength=SILENT_STRENGTH)
    info = copy.deepcopy(model.info) | {"name": f"{model.name}, fingerprint off"}
    return Model(config, model.params, info, model.hash)


def twin_images(study: Study, count: int, stream: int) -> tuple[np.ndarray, str]:
    """Generates images without a fingerprint: by the twin if one is given, otherwise by the same generator with it off.

    Returns:
      uint8 [count, R, R, 3], and what made them.

    Raises:
      FpganError: there is no twin, and the fingerprint cannot be turned off.
    """
    bits, seeds = study.bits(count, stream), study.latents(count, stream)
    if study.twin is not None:
        bits = study.rng(stream).integers(0, 2, (count, study.twin.n_bits), np.uint8)
        return study.generate(bits, seeds, study.twin), f"the twin ({study.twin.name})"
    return study.generate(bits, seeds, silent(study.model)), "the same generator, its fingerprint off"
