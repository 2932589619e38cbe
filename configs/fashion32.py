r"""Fashion-MNIST at 32x32 with 128 bits, grey photos as RGB: a second kind of picture for the model that ships.

    fpgan data --config configs/fashion32.py
    fpgan train --config configs/fashion32.py --workdir runs/fashion32
    fpgan export --workdir runs/fashion32 --out models/fashion32

Begins with the networks of robohash32_immunised, so that the bits are read from the first step on, and only the pictures
have to be learned.

The images are those of Debian's package dataset-fashion-mnist (its folder /usr/share/datasets/fashion-mnist, linked here as
`fashion`), or any copy of the four files of Xiao et al. 2017.
"""

from pathlib import Path

from fpgan.training.config import load


def get_config():
    """The objective of immunise32 with a lighter fingerprint, on other images."""
    config = load(Path(__file__).with_name("immunise32.py"))
    config.name = "fashion32"
    config.init_from = "robohash32_immunised"
    config.data.update(dict(name="folder", path="fashion/train-images-idx3-ubyte.gz"))
    config.objective.fingerprint = 1.5
    config.optimizer.decay_images = 20_000
    config.total_images = 48_000
    return config
