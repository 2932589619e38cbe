r"""RoboHash cats at 64x64 with 128 bits: the default, for one GPU.

    fpgan train --config configs/robohash64.py --workdir runs/robohash64
    fpgan export --workdir runs/robohash64 --out models/robohash64

Channels min(4096 / 2^(k-1), 256), bfloat16 convolutions, the whole data set on the device.
Not run here: there was no GPU. configs/robohash32.py is the same recipe on a CPU.
"""

from fpgan.training.config import default


def get_config():
    """The recipe of robohash32 with ten times the channels."""
    config = default()
    config.name = "robohash64"
    config.data.update(dict(name="robohash_cats", resolution=64, count=100_000))
    config.network.update(dict(
        resolution=64, latent_size=128, style_size=512, channel_base=4096, channel_max=256, decoder_features=512,
        decoder_linear=True, mapping_layers=1, mapping_lr_multiplier=1.0, bit_coding="plus_minus_one", noise="learned",
        compute_dtype="bfloat16"))
    config.objective.update(dict(
        fingerprint=5.0, consistency=100.0, coarse_consistency=40.0, quantize=True, out_of_range=1.0,
        discriminator_noise=0.02, r1_gamma=4.0, path_length=0.0))
    config.curriculum.update(dict(bits_first=True, start_accuracy=0.98, hold_accuracy=0.97, latent_images=50_000,
                                  ramp_images=100_000))
    config.optimizer.update(dict(decay_images=700_000))
    config.batch_size = 64
    config.total_images = 3_500_000
    config.every.update(dict(log=100, checkpoint=2_000, grid=2_000))
    return config
