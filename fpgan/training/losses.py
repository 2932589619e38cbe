"""The objective, term by term: arrays in, one value per sample out.

Generator and decoder minimise, summed with their weights (Yu et al. 2022, equation 6),

    adversarial      softplus(-D(G(z, c)))
    latent           mean over the latent of (z - z_hat)^2
    fingerprint      mean over the bits of the sigmoid cross-entropy between logits and c
    consistency      mean over the pixels of (G(z, c) - G(z, c'))^2, c' another random fingerprint
    path length      (|J_s^T y| - running mean)^2, every few steps

and the discriminator softplus(D(fake)) + softplus(-D(real)) + gamma/2 |grad D(real)|^2.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fpgan.networks.resampling import blur


def generator_adversarial(fake_scores: jax.Array) -> jax.Array:
    """Computes the non-saturating loss of the generator: softplus(-D(G(z, c))). [N] -> [N]."""
    return jax.nn.softplus(-fake_scores)


def discriminator_adversarial(real_scores: jax.Array, fake_scores: jax.Array) -> jax.Array:
    """Computes the logistic loss of the discriminator: softplus(D(fake)) + softplus(-D(real)). [N], [N] -> [N]."""
    return jax.nn.softplus(fake_scores) + jax.nn.softplus(-real_scores)


def latent_reconstruction(latents: jax.Array, estimates: jax.Array) -> jax.Array:
    """Computes the mean squared error of the decoder's latent estimate. [N, latent_size] twice -> [N]."""
    return jnp.mean(jnp.square(latents - estimates), axis=-1)


def fingerprint_cross_entropy(logits: jax.Array, bits: jax.Array) -> jax.Array:
    """Computes the sigmoid cross-entropy, mean over the bits; chance is log 2 = 0.693.

    Args:
      logits: [N, n].
      bits: [N, n], values 0 or 1.

    Returns:
      [N] in nats per bit.
    """
    return jnp.mean(jax.nn.softplus(logits) - bits * logits, axis=-1)


def consistency(images: jax.Array, other_images: jax.Array, visibility: float = 0.0) -> jax.Array:
    """Computes the mean squared difference of two images of one latent under two fingerprints.

    A difference is seen in flat areas and hidden by texture: with `visibility` p, pixels weigh (1 + s / 0.1)^-p, s the
    standard deviation of the images' mean in a 5x5 neighbourhood, over their mean weight.

    Args:
      images, other_images: [N, H, W, C] in [-1, 1].
      visibility: p, 0 or more; 0 is the plain mean.

    Returns:
      [N].
    """
    squared = jnp.square(images - other_images)
    if visibility:
        mean = jax.lax.stop_gradient(images + other_images) / 2
        variance = jnp.mean(blur(jnp.square(mean)) - jnp.square(blur(mean)), axis=-1, keepdims=True)  # [N, H, W, 1]
        weight = (1 + jnp.sqrt(jax.nn.relu(variance)) / 0.1) ** -visibility
        squared = squared * weight / jnp.mean(weight, axis=(1, 2), keepdims=True)
    return jnp.mean(squared, axis=(1, 2, 3))


def coarse_consistency(images: jax.Array, other_images: jax.Array, cell: int = 4) -> jax.Array:
    """Computes the consistency of the local means over cells of pixels: what a fingerprint must not change is shape and
    colour.

    Args:
      images, other_images: [N, H, W, C].
      cell: side of a cell in pixels; divides H and W.

    Returns:
      [N].
    """
    n, height, width, channels = images.shape
    cells = (images - other_images).reshape(n, height // cell, cell, width // cell, cell, channels)
    return jnp.mean(jnp.square(jnp.mean(cells, axis=(2, 4))), axis=(1, 2, 3))


def out_of_range(images: jax.Array) -> jax.Array:
    """Computes the soft penalty on pixels outside [-1, 1]: mean of max(|x| - 1, 0)^2. [N, H, W, C] -> [N]."""
    return jnp.mean(jnp.square(jax.nn.relu(jnp.abs(images) - 1)), axis=(1, 2, 3))


def path_lengths(style_gradients: jax.Array) -> jax.Array:
    """Computes the length of J_s^T y, y white noise over the pixels / resolution (Karras et al. 2020, section 3.2).

    Args:
      style_gradients: [N, num_layers, style_size], gradient of sum(images * y) to the styles.

    Returns:
      [N]: sqrt of the mean over the layers of the squared norm.
    """
    return jnp.sqrt(jnp.mean(jnp.sum(jnp.square(style_gradients), axis=2), axis=1))


def path_length_penalty(lengths: jax.Array, running_mean: jax.Array, decay: float = 0.01,
                        mean: Callable[[jax.Array], jax.Array] = jnp.mean):
    """Computes the squared deviation of the path lengths from their running mean, which is updated first.

    Args:
      lengths: [N].
      running_mean: scalar, the running mean before this step.
      decay: the share of the new mean in the running mean.
      mean: how to average over the samples; over all devices where they share a batch.

    Returns:
      The penalty [N], through which the gradient reaches the new mean as well, and the new running mean.
    """
    new_mean = running_mean + decay * (mean(lengths) - running_mean)
    return jnp.square(lengths - new_mean), new_mean


def r1(image_gradients: jax.Array) -> jax.Array:
    """Computes the squared norm of the gradient of D at real images (Mescheder et al. 2018). [N, H, W, C] -> [N]."""
    return jnp.sum(jnp.square(image_gradients), axis=(1, 2, 3))
