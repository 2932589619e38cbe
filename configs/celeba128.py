r"""CelebA at 128x128 with the paper's settings (Yu et al. 2022): first 30,000 images, 128-pixel crop around x=89, y=121.

    fpgan data --config configs/celeba128.py
    fpgan train --config configs/celeba128.py --workdir runs/celeba128

The paper used 2 V100 GPUs with 8 images each and reports a bit accuracy of 0.99 and an FID of 11.50.
Not run here: the data cannot be fetched without a network.
"""

from fpgan.training.config import default


def get_config():
    """The paper's defaults, on CelebA."""
    config = default()
    config.name = "celeba128"
    config.data.update(dict(name="tfds", tfds_name="celeb_a", crop="celeba128", take=30_000))
    return config
