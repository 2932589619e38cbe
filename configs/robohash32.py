from fpgan.training.config import default


def get_config():
    """Small networks, bits first; the fingerprint is read from 8-bit images."""
    config = default()
    config.name = "robohash32"
    config.data.update(dict(name="robohash_cats", resolution=32, count=50_000))
    config.network.update(dict(
        resolution=32, latent_size=32, style_size=256, channel_base=384, channel_max=64, decoder_features=512,
        mapping_layers=1, mapping_lr_multiplier=1.0, bit_coding="plus_minus_one", noise="none"))
    config.objective.update(dict(
        quantize=True, out_of_range=1.0, r1_gamma=1.0, path_length=0.0, coarse_consistency=2.0))
    config.curriculum.update(dict(bits_first=True, latent_images=40_000, ramp_images=100_000))
    config.optimizer.update(dict(decay_images=100_000))
    config.total_images = 500_000
    return config
