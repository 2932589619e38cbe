"""What training is watched by: bit accuracy, consistency and Frechet distance of the moving averages.

They are the model that export would give now with `export.strength` 1 and no fitted readout.

The inputs are the same at every measurement of a run and of all runs with its seed, and no part of training. Nothing here
changes the state: a run with it gives the same bits as one without.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from fpgan.distributed import devices
from fpgan.errors import FpganError
from fpgan.evaluation.distances import frechet_distance, moments
from fpgan.evaluation.features import open_extractor
from fpgan.evaluation.metrics import bit_accuracy, psnr
from fpgan.io.files import write_file
from fpgan.io.images import encode_png, grid
from fpgan.model.model import Model, from_params
from fpgan.training.config import architecture
from fpgan.training.state import TrainState, averaged_params

if TYPE_CHECKING:
    import ml_collections

    from fpgan.data.sources import ImageSource

_BATCH = 50  # images per call of the two compiled programs, and in memory
_PAIRS = 200  # images that are made again with a second fingerprint
ROWS = COLUMNS = 8


def open_monitor(config: ml_collections.ConfigDict, source: ImageSource) -> Callable[[TrainState], dict[str, float]]:
    """Returns what measures a replicated state: a Monitor in the main process of a run that is measured, else nothing.

    Args:
      config: the training config; `every.evaluate` is 0 where nothing is to be measured.
      source: the training images.

    Raises:
      FpganError: as Monitor.
    """
    return Monitor(config, source) if config.every.evaluate and devices.is_main() else lambda state: {}


class Monitor:
    """Measures the moving averages, always by the same inputs.

    Fingerprints and latents are drawn from a stream of their own: 128 bits of it occur nowhere in training.
    """

    def __init__(self, config, source):
        """Checks the settings and draws the inputs; the real images are read when they are first needed.

        Args:
          config: the training config; `evaluation` says what is measured.
          source: the training images.

        Raises:
          FpganError: fewer than two real images, or features that cannot be had.
        """
        if len(source) < 2:
            raise FpganError(f"every.evaluate is set, but {source.name} has {len(source)} images; expected 2 or more")
        self._config, self._source = config, source
        self._network = network = architecture(config)
        count = config.evaluation.images
        rng = np.random.default_rng([config.seed, 2])
        self._bits, self._others = rng.integers(0, 2, (2, count, network.fingerprint_bits), np.uint8)
        self._seeds = rng.integers(0, 2**32, count, np.uint32)
        self._extractor = open_extractor(config.evaluation.features, network.resolution)
        self._chosen = np.sort(rng.choice(len(source), min(count, len(source)), replace=False))

    @functools.cached_property
    def _reals(self):
        """The moments of the features of real images."""
        features = [self._extractor.extract(self._source.read(self._chosen[part])) for part in _parts(len(self._chosen))]
        return moments(np.concatenate(features))

    def __call__(self, replicated: TrainState) -> dict[str, float]:
        """Measures a state that lies on the devices.

        Returns:
          eval_accuracy, the mean bit accuracy on 8-bit images in [0, 1]; eval_psnr, between two fingerprints at one latent,
          the mean in dB; eval_frechet_FEATURES; eval_seconds, what this took.
        """
        began = time.perf_counter()
        params = devices.unreplicate(averaged_params(self._config, replicated))
        model = from_params(self._network, jax.device_put(params), {"name": "in training"})
        return self._measure(model) | {"eval_seconds": time.perf_counter() - began}

    def _measure(self, model: Model) -> dict[str, float]:
        right, similar, features = [], [], []
        for part in _parts(len(self._seeds)):
            images = model.generate(self._bits[part], self._seeds[part], batch_size=_BATCH)
            right.append(bit_accuracy(model.decode(images, batch_size=_BATCH), self._bits[part]))
            features.append(self._extractor.extract(images))
            if part.start < _PAIRS:
                again = model.generate(self._others[part], self._seeds[part], batch_size=_BATCH)
                similar.append(psnr(images, again))
        distance = frechet_distance(moments(np.concatenate(features)), self._reals)
        name = re.sub(r"\W", "_", self._extractor.name)
        return {"eval_accuracy": float(np.concatenate(right).mean()), "eval_psnr": float(np.concatenate(similar).mean()),
                f"eval_frechet_{name}": distance}


def _parts(count: int) -> list[slice]:
    return [slice(start, start + _BATCH) for start in range(0, count, _BATCH)]


def write_grids(workdir: Path, config: ml_collections.ConfigDict, source: ImageSource, state: TrainState) -> dict:
    """Writes grids/STEP-random.png, -one_latent.png, -one_fingerprint.png and, at step 0, grids/reals.png.

    Args:
      workdir: the run's directory.
      config: the training config; its seed is that of the inputs, so that the grids of a run can be compared.
      source: the training images.
      state: an unreplicated TrainState.

    Returns:
      name -> uint8 picture, as written; nothing in processes but the main one.
    """
    if not devices.is_main():
        return {}
    rng, network = np.random.default_rng(config.seed), architecture(config)
    model = from_params(network, state.ema, {"name": "in training"})
    count = ROWS * COLUMNS
    prints = rng.integers(0, 2, (count, network.fingerprint_bits), np.uint8)
    seeds = rng.integers(0, 2**32, count, np.uint32)
    one_print, one_seed = np.repeat(prints[:ROWS], COLUMNS, axis=0), np.repeat(seeds[:ROWS], COLUMNS)
    step = f"{int(state.step):07d}"
    pictures = {
        f"{step}-random": model.generate(prints, seeds),
        f"{step}-one_latent": model.generate(prints, one_seed),  # a row: one latent, eight fingerprints
        f"{step}-one_fingerprint": model.generate(one_print, seeds),  # a row: one fingerprint, eight latents
    }
    if int(state.step) == 0:
        pictures["reals"] = np.stack([source[i] for i in rng.integers(0, len(source), count)])
    scale = max(1, 64 // network.resolution)
    pictures = {name: grid(p.reshape(ROWS, COLUMNS, *p.shape[1:]), scale=scale) for name, p in pictures.items()}
    for name, picture in pictures.items():
        write_file(workdir / "grids" / f"{name}.png", encode_png(picture))
    return pictures
