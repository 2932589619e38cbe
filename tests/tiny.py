"""The smallest config that still has every part, shared by the tests."""

from fpgan.networks.config import NetworkConfig
from fpgan.training.config import default

NETWORK = dict(resolution=8, fingerprint_bits=8, latent_size=4, style_size=8, channel_base=32, channel_max=8,
               mapping_layers=2)


def config(**fields):
    """A training config on 64 cats of 8x8 pixels, 24 steps of 32 images."""
    config = default()
    config.name = "tiny"
    config.data.update(dict(name="robohash_cats", count=64))
    config.network.update(NETWORK)
    config.batch_size, config.total_images = 32, 24 * 32
    config.every.update(dict(log=2, checkpoint=4, grid=100))
    for name, value in fields.items():
        config[name].update(value) if isinstance(value, dict) else config.update({name: value})
    return config


def network(**fields):
    """The architecture of the tiny config."""
    return NetworkConfig(**(NETWORK | fields))


def get_config():
    """For `fpgan train --config tests/tiny.py`."""
    return config(every=dict(log=1))
