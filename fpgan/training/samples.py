"""Sample grids during training: what the moving average of the generator makes of a fixed set of inputs."""

from pathlib import Path

import numpy as np

from fpgan.distributed import devices
from fpgan.io.files import write_file
from fpgan.io.images import encode_png, grid
from fpgan.model.model import from_params
from fpgan.networks.config import NetworkConfig

ROWS = COLUMNS = 8


def write_grids(workdir: Path, network: NetworkConfig, state, source, seed: int) -> dict:
    """Writes grids/STEP-random.png, -one_latent.png, -one_fingerprint.png and, at step 0, grids/reals.png.

    Args:
      workdir: the run's directory.
      network: the architecture.
      state: an unreplicated TrainState.
      source: the training images.
      seed: of the inputs, so that the grids of a run can be compared.

    Returns:
      name -> uint8 picture, as written; nothing in processes but the main one.
    """
    if not devices.is_main():
        return {}
    rng = np.random.default_rng(seed)
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
