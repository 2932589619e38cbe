r"""RoboHash cats at 64x64 with 128 bits, alive after what ordinary use does to an image.

    fpgan train --config configs/robohash64.py --workdir runs/robohash64
    fpgan export --workdir runs/robohash64 --out models/robohash64

Small networks, two CPU cores: bits first, then the latents and the perturbations grow, then the image terms come in while
the weight of the fingerprint falls. Not finished: an earlier form of it (latent=1, 64 numbers, hold_accuracy 0.8) ran for
124,688 of 500,000 images and is the robohash64 in the package; of this form no more than its beginning was run
(docs/training.md).
"""

from pathlib import Path

from fpgan.training.config import load

PERTURBATIONS = ("shift:1.5@0.5 scale:0.03@0.5 rotate:2.5@0.4 window:0.6-1@0.35 erase:0.02-0.15@0.1 "
                 "brightness:0.65-1.35@0.2 contrast:0.65-1.35@0.2 saturation:0-1.4@0.2 "
                 "blur:0.3-2@0.25 resize:0.4-1@0.25 noise:0-16@0.3 jpeg:28-98@0.55")


def get_config():
    """The recipe of robohash32 at twice the resolution, trained against perturbations."""
    config = load(Path(__file__).with_name("robohash32.py"))
    config.name = "robohash64"
    config.network.update(dict(resolution=64, latent_size=32, channel_base=768, decoder_linear_levels=3))
    config.objective.update(dict(fingerprint=1.5, latent=8.0, perturbations=PERTURBATIONS, perturbed_share=0.85,
                                 visibility=0.5, instance_noise=0.05))
    config.curriculum.update(dict(start_accuracy=0.93, hold_accuracy=0.74, latent_images=10_000, ramp_images=16_000,
                                  fingerprint_factor=3.0))
    config.optimizer.decay_images = 100_000
    config.total_images = 500_000
    config.every.update(dict(log=50, checkpoint=250, grid=500, evaluate=1_000))
    config.evaluation.images = 500
    config.keep.every = 0
    return config
