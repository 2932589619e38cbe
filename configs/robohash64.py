r"""RoboHash cats at 64x64 with 128 bits: the default, for one GPU.

    fpgan train --config configs/robohash64.py --workdir runs/robohash64
    fpgan export --workdir runs/robohash64 --out models/robohash64

Channels min(4096 / 2^(k-1), 256), bfloat16 convolutions, the whole data set on the device.
Not run here: there was no GPU. configs/robohash32.py is the same recipe on a CPU.
"""

from pathlib import Path

from fpgan.training.config import load


def get_config():
    """The recipe of robohash32 with four to eleven times the channels."""
    config = load(Path(__file__).with_name("robohash32.py"))
    config.name = "robohash64"
    config.data.update(dict(resolution=64, count=100_000))
    config.network.update(dict(resolution=64, latent_size=128, style_size=512, channel_base=4096, channel_max=256,
                               compute_dtype="bfloat16"))
    config.objective.r1_gamma = 4.0
    config.curriculum.update(dict(latent_images=50_000, ramp_images=100_000))
    config.optimizer.decay_images = 700_000
    config.batch_size = 64
    config.total_images = 3_500_000
    config.every.update(dict(log=100, checkpoint=2_000, grid=2_000, evaluate=2_000))
    config.keep.every = 0
    return config
