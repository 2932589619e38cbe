"""The training config: every field with its default, which is the paper's setting, and how to read one."""

import ml_collections


def default() -> ml_collections.ConfigDict:
    """The paper's setting at 128 x 128; the files in configs/ state what differs."""
    return ml_collections.ConfigDict(dict(
        name="fpgan",
        seed=0,
        data=dict(name="folder", resolution=128, data_dir="data", path="", count=0, take=0, tfds_name="", split="train",
                  crop="center", resident=True, workers=0),
        network=dict(
            resolution=128, channels=3, fingerprint_bits=128, latent_size=512, style_size=512,
            channel_base=8192, channel_max=512, decoder_channel_base=0, decoder_channel_max=0,
            discriminator_channel_base=0, discriminator_channel_max=0,
            mapping_layers=8, mapping_lr_multiplier=0.01, bit_coding="zero_one", modulated_min=0, modulated_max=0,
            noise="random", minibatch_stddev_group=4, minibatch_stddev_order="contiguous", label_size=0,
            compute_dtype="float32"),
        objective=dict(
            adversarial=1.0, latent=1.0, fingerprint=2.0, consistency=2.0, coarse_consistency=0.0, out_of_range=0.0,
            quantize=False,
            path_length=2.0, path_length_interval=4, path_length_decay=0.01, path_length_batch_shrink=2,
            r1_gamma=100.0, r1_interval=16),
        curriculum=dict(bits_first=False, start_accuracy=0.9, hold_accuracy=0.0, ramp_images=50_000, ramp_minimum=0.01,
                        accuracy_images=2_000),
        optimizer=dict(generator_learning_rate=0.002, decoder_learning_rate=0.002, discriminator_learning_rate=0.002,
                       beta1=0.0, beta2=0.99, epsilon=1e-8, decay_images=0),
        batch_size=16,
        total_images=25_000_000,
        ema_half_life_images=10_000.0,
    ))
