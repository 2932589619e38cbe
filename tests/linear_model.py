"""A model whose bits are patterns that are added to a flat picture: moved images lose them and right poses bring them back.

It is as quick as a matrix product, and has all that a search needs.
"""

import jax
import numpy as np

from fpgan.model.reading import read
from fpgan.networks.alignment import look_up

_looked_up = jax.jit(look_up, static_argnums=2)


class LinearModel:
    """Has the attributes of fpgan.model.Model that reading uses.

    Args:
      resolution: R.
      n_bits: at most 3 R^2.
      places: what `locate` answers, [3, 3]; no aligner without it.
    """

    hash, name = "00112233aabbccdd", "linear"

    def __init__(self, resolution=8, n_bits=64, places=None, info=None):
        self.resolution, self.n_bits, self.info = resolution, n_bits, info or {}
        self.aligner = None if places is None else ("network", "params")
        self.places, self.decoded = places, 0
        noise = np.random.default_rng(0).normal(size=(3 * resolution**2, n_bits))
        self.patterns = np.linalg.qr(noise)[0].astype(np.float32)  # orthonormal columns

    def generate(self, fingerprints, seeds, *, batch_size=16):
        signs = 2.0 * np.asarray(fingerprints) - 1
        texture = np.stack([np.random.default_rng(int(seed)).normal(0, 3, self.patterns.shape[0]) for seed in seeds])
        levels = 128 + 30 * signs @ self.patterns.T + texture
        return np.clip(np.rint(levels), 0, 255).astype(np.uint8).reshape(len(signs), self.resolution, self.resolution, 3)

    def decode(self, images, *, poses=None, batch_size=64, exact=False):
        self.decoded += len(images)
        images = np.asarray(images, np.float32) - 128
        if poses is not None:
            images = np.asarray(_looked_up(images, np.asarray(poses, np.float32), self.resolution))
        return images.reshape(len(images), self.patterns.shape[0]) @ self.patterns

    def locate(self, images, *, batch_size=64, exact=False):
        return np.tile(np.asarray(self.places, np.float32), (len(images), 1, 1))

    def read(self, images, search=None, *, wholes=None, batch_size=64, exact=False):
        return read(self, images, search, batch_size, wholes, exact)

