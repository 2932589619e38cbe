"""A model without networks: its images carry the bits in their pixels, so that decoding is exact and quick."""

import threading
import time

import numpy as np

RESOLUTION, N_BITS = 16, 64


class FakeModel:
    """Has the attributes of fpgan.model.Model that generation and decoding use.

    Blue depends on the place of an image in its batch, as rounding may on a real device: a set that is cut into
    other batches after a restart has other bytes.
    """

    resolution, n_bits, hash, name = RESOLUTION, N_BITS, "00112233aabbccdd", "fake"

    def __init__(self, info=None, delay=0.0):
        self.info = info or {}
        self.delay = delay
        self.generated, self.lock = 0, threading.Lock()
        self.decode_batches = []

    def generate(self, fingerprints, seeds, *, batch_size=16, devices=None, exact=False):
        bits, seeds = np.asarray(fingerprints), np.asarray(seeds)
        assert len(bits) == len(seeds) and seeds.dtype == np.uint32
        with self.lock:
            self.generated += len(seeds)
        time.sleep(self.delay)
        images = np.zeros((len(seeds), RESOLUTION, RESOLUTION, 3), np.uint8)
        images[..., 0].reshape(len(seeds), -1)[:, :N_BITS] = 40 + 160 * bits
        images[..., 1] = (seeds % 251)[:, None, None]
        images[..., 2] = (np.arange(len(seeds)) % batch_size)[:, None, None]
        return images

    def decode(self, images, *, batch_size=64, devices=None, exact=False):
        assert images.shape[1:] == (RESOLUTION, RESOLUTION, 3) and images.dtype == np.uint8
        self.decode_batches.append((len(images), batch_size))
        red = images[..., 0].reshape(len(images), -1)[:, :N_BITS].astype(np.float32)
        return (red - 120) / 10
