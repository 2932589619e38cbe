r"""A check of the whole training path in a few minutes on two CPU cores: 16 bits in RoboHash cats of 32x32 pixels.

    fpgan train --config configs/smoke.py --workdir runs/smoke
    fpgan export --workdir runs/smoke --out runs/smoke/model
    fpgan evaluate --model runs/smoke/model --images 1000

Took 3 minutes and 12 seconds, compiling included, and ended with a bit accuracy of 0.967 on 8-bit PNG images. The images are
no good yet after so few steps; the bits are.
"""

from fpgan.training.config import default


def get_config():
    """Tiny networks, bits first, a short curriculum."""
    config = default()
    config.name = "smoke"
    config.data.update(dict(name="robohash_cats", count=5_000))
    config.network.update(dict(
        resolution=32, fingerprint_bits=16, latent_size=16, style_size=64, channel_base=256, channel_max=32,
        decoder_features=128,
        mapping_layers=1, mapping_lr_multiplier=1.0, bit_coding="plus_minus_one", noise="learned"))
    config.objective.update(dict(quantize=True, out_of_range=1.0, r1_gamma=1.0, path_length=0.0))
    config.curriculum.update(dict(bits_first=True, start_accuracy=0.9, hold_accuracy=0.85, latent_images=4_000,
                                  ramp_images=8_000, accuracy_images=500))
    config.total_images = 24_000
    config.every.update(dict(log=50, checkpoint=250, grid=500))
    return config
