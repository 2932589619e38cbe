"""A folded generator as StableHLO, by jax.export: one file for CPUs, NVIDIA GPUs and TPUs, and for any batch size."""

import contextlib
from collections.abc import Iterator

import jax
from jax import export

from fpgan.errors import missing_extra
from fpgan.networks.folding import FoldedConfig, folded_generator

PLATFORMS = ("cpu", "cuda", "tpu")


def export_stablehlo(config: FoldedConfig) -> bytes:
    """Exports the generator as a function of weights and latents, so that the program is the same for all instances.

    Args:
      config: the architecture.

    Returns:
      What `jax.export.deserialize` takes. Its `call` has the arguments weights (a dict of arrays, by the names in
      `config.shapes`), latents float32 [b, latent_size] and, with random noise, noise float32 [b, noise_size]; it returns
      images float32 [b, R, R, channels] in [-1, 1], not clipped. Paths and line numbers of this machine are not in it.

    Raises:
      FpganError: flatbuffers is not installed.
    """
    try:
        import flatbuffers  # noqa: F401 (jax.export writes with it)
    except ImportError as error:
        raise missing_extra("flatbuffers", "release") from error
    batch, = export.symbolic_shape("b")
    weights = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in config.shapes.items()}
    inputs = [jax.ShapeDtypeStruct((batch, size), "float32") for size in (config.latent_size, config.noise_size) if size]

    def generate(weights, *inputs):
        return folded_generator(config, weights, *inputs)

    with _no_locations():
        return bytes(export.export(jax.jit(generate), platforms=PLATFORMS)(weights, *inputs).serialize())


@contextlib.contextmanager
def _no_locations() -> Iterator[None]:
    before = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)
