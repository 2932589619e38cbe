r"""LSUN Bedroom at 128x128 with the paper's settings (Yu et al. 2022): first 30,000 images, centre crop, resized.

    fpgan data --config configs/lsun_bedroom128.py
    fpgan train --config configs/lsun_bedroom128.py --workdir runs/lsun_bedroom128

The paper used 2 V100 GPUs with 8 images each and reports a bit accuracy of 0.99 and an FID of 20.50.
Not run here: the data cannot be fetched without a network.
"""

from fpgan.training.config import default


def get_config():
    """The paper's defaults, on LSUN Bedroom."""
    config = default()
    config.name = "lsun_bedroom128"
    config.data.update(dict(name="tfds", tfds_name="lsun/bedroom", take=30_000))
    return config
