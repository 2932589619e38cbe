r"""LSUN Cat at 256x256 with the paper's settings (Yu et al. 2022): first 50,000 images, centre crop, resized.

    fpgan data --config configs/lsun_cat256.py
    fpgan train --config configs/lsun_cat256.py --workdir runs/lsun_cat256

The paper used 2 V100 GPUs with 8 images each and reports a bit accuracy of 0.99 and an FID of 33.94.
Not run here: the data cannot be fetched without a network.
"""

from fpgan.training.config import default


def get_config():
    """The paper's defaults, on LSUN Cat, at twice the resolution."""
    config = default()
    config.name = "lsun_cat256"
    config.data.update(dict(name="tfds", tfds_name="lsun/cat", take=50_000, resident=False))
    config.network.resolution = 256
    return config
