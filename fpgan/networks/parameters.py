"""The parameters of the three networks: random ones, and what shape they have."""

import functools

import jax
import jax.numpy as jnp

from fpgan.networks.config import NetworkConfig
from fpgan.networks.decoder import Decoder
from fpgan.networks.discriminator import Discriminator
from fpgan.networks.generator import Generator

NETWORKS = ("generator", "decoder", "discriminator")


def init_params(config: NetworkConfig, key: jax.Array, networks: tuple[str, ...] = NETWORKS) -> dict:
    """Draws random parameters, N(0, 1) before the equalised learning rate's scaling; biases and noise strengths start at 0.

    Args:
      config: the architecture.
      key: PRNG key. A network's parameters depend on it alone, not on which networks are asked for.
      networks: which of "generator", "decoder" and "discriminator".

    Returns:
      {network} -> nested dict of float32 arrays.
    """
    images = jnp.zeros((1, config.resolution, config.resolution, config.channels))
    latents, bits = jnp.zeros((1, config.latent_size)), jnp.zeros((1, config.fingerprint_bits))
    labels = jnp.zeros((1, config.label_size)) if config.label_size else None
    keys = jax.random.split(key, 4)
    calls = {
        "generator": lambda: Generator(config).init(keys[0], latents, bits, keys[3:], labels),
        "decoder": lambda: Decoder(config).init(keys[1], images),
        "discriminator": lambda: Discriminator(config).init(keys[2], images, labels),
    }
    return {name: calls[name]()["params"] for name in networks}


def param_shapes(config: NetworkConfig, networks: tuple[str, ...] = NETWORKS) -> dict:
    """Returns the same nested dicts with a jax.ShapeDtypeStruct for every array; nothing is computed."""
    key = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32"))
    return jax.eval_shape(functools.partial(init_params, config, networks=networks), key)
