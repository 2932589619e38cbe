"""A folded generator as ONNX, by jax2onnx, and checked with onnxruntime before anybody gets it."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from fpgan.errors import FpganError, missing_extra
from fpgan.networks.folding import FoldedConfig, folded_generator

OPSET = 21
TOLERANCE = 1 / 255  # half a grey level, of images in [-1, 1]


def export_onnx(config: FoldedConfig, weights: Mapping[str, np.ndarray]) -> bytes:
    """Exports the generator with its weights, for any batch size, in float32.

    Args:
      config: the architecture.
      weights: what `fold` returns.

    Returns:
      The content of an ONNX file: inputs `latents` float32 [B, latent_size] and, with random noise, `noise` float32
      [B, noise_size]; output `images` float32 [B, R, R, channels] in [-1, 1], not clipped.

    Raises:
      FpganError: a package is missing, or onnxruntime computes other images than JAX.
    """
    config = dataclasses.replace(config, compute_dtype="float32")
    sizes = {"latents": config.latent_size} | ({"noise": config.noise_size} if config.noise_size else {})
    constants = {name: jax.numpy.asarray(array) for name, array in weights.items()}

    def generate(*inputs):
        return folded_generator(config, constants, *inputs, plain=True)

    with _quiet("jax2onnx", "onnx_ir"):
        try:
            import onnx
            from jax2onnx import to_onnx
        except ImportError as error:
            raise missing_extra(error.name or "jax2onnx", "release") from error
        model = to_onnx(generate, [("B", size) for size in sizes.values()], model_name="generator", opset=OPSET,
                        input_names=list(sizes), output_names=["images"])
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    _check(content, config, constants, sizes)
    return content


def _check(content: bytes, config: FoldedConfig, weights: Mapping[str, jax.Array], sizes: Mapping[str, int]) -> None:
    """Raises FpganError if onnxruntime computes other images than JAX, at one of two batch sizes."""
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_extra("onnxruntime", "release") from error
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    for count in (1, 3):
        inputs = {name: random.standard_normal((count, size)).astype(np.float32) for name, size in sizes.items()}
        found, = session.run(["images"], inputs)
        expected = np.asarray(folded_generator(config, weights, *inputs.values()))
        difference = np.abs(found - expected).max() if found.shape == expected.shape else np.inf
        if not difference < TOLERANCE:
            raise FpganError(f"the ONNX file gives other images than JAX (they differ by {difference:.3g}); leave it out "
                             "(--formats stablehlo) and report this, with the versions of jax2onnx and onnxruntime")


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Keeps warnings of packages about their own optional parts from the terminal. Errors still show."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
