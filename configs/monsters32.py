r"""RoboHash monsters at 32x32 with 128 bits: another kind of picture beside the cats.

    fpgan train --config configs/monsters32.py --workdir runs/monsters32
    fpgan export --workdir runs/monsters32 --out models/monsters32

Begins with the networks of robohash32_immunised, so that the bits are read from the first step on, and only the pictures
have to be learned. Run for 32,688 of 48,000 images; what it reaches: not run here.
"""

from pathlib import Path

from fpgan.training.config import load


def get_config():
    """The objective of immunise32 with a lighter fingerprint, on other images."""
    config = load(Path(__file__).with_name("immunise32.py"))
    config.name = "monsters32"
    config.init_from = "robohash32_immunised"
    config.data.update(dict(name="robohash_monsters", count=50_000))
    config.objective.fingerprint = 1.5
    config.optimizer.decay_images = 20_000
    config.total_images = 48_000
    return config
