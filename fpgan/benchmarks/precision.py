"""What a TPU's default precision does to results: emulated on any device, for what is sensitive to it.

A TPU multiplies float32 matrices, and convolves, in one pass of its bfloat16 unit: both operands are rounded to 8 bits of
mantissa, products and sums are float32 (jax.lax.Precision.DEFAULT). Here a function is traced, and evaluated with exactly
these operands rounded; a product that asks for more (Precision.HIGH or HIGHEST) is left alone, as a TPU leaves it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from fpgan.distributed.devices import pmap, replicate, unreplicate
from fpgan.errors import FpganError
from fpgan.io.images import to_uint8
from fpgan.model.programs import decode_fn, generate_fn
from fpgan.networks.levels import to_float

if TYPE_CHECKING:
    import ml_collections

    from fpgan.benchmarks.timing import Settings
    from fpgan.model.model import Model

_PRODUCTS = ("dot_general", "conv_general_dilated")
_OTHER = " (other samples)"
_INNER = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}  # primitive -> its program


def bench_precision(model: Model, config: ml_collections.ConfigDict | None, settings: Settings) -> dict:
    """Compares what a model and a training step compute on a TPU with float32: `fpgan bench precision`.

    Args:
      model: a fpgan.model.Model; the first steps of training start from its parameters.
      config: the training config of the phases; None leaves them out.
      settings: bench.Settings: the largest batch size is the number of images generated and decoded, device_batch that of
        a phase; programs, where given, says which are looked at.

    Returns:
      "generate", "decode" and each phase -> what rounding does to it: "by_default", and "always", as if no product had
      asked for more than the default precision. See the functions below.

    Raises:
      FpganError: the model is not computed in float32, or does not suit the config.
    """
    if model.config.compute_dtype != "float32":
        raise FpganError(f"the model computes in {model.config.compute_dtype}; expected float32, whose products TPUs round")
    compared = {"generate": lambda rounds: _generating(model, settings, rounds),
                "decode": lambda rounds: _decoding(model, settings, rounds)}
    if config is not None:
        compared |= _phases(model, config, settings)
    chosen = settings.programs or compared
    if unknown := [name for name in chosen if name not in compared]:
        raise FpganError(f"there is no program {unknown[0]!r} to compare; expected some of {', '.join(compared)}")
    return {name: {"by_default": compared[name](by_default), "always": compared[name](always)} for name in chosen}


def _inputs(model, settings) -> tuple[np.ndarray, np.ndarray]:
    """Fingerprints, float32 [N, n], and seeds, uint32 [N]."""
    count = max(settings.batches)
    bits = np.random.default_rng(settings.seed).integers(0, 2, (count, model.config.fingerprint_bits))
    return bits.astype(np.float32), np.arange(count, dtype=np.uint32)


def _generating(model, settings, rounds) -> dict:
    """Returns what rounding does to 8-bit images: the part of values that change, the most levels, their RMS; bits read."""
    inputs, plain = (model.params["generator"], *_inputs(model, settings)), generate_fn(model.config)
    images = [np.asarray(jax.jit(function)(*inputs)) for function in (plain, as_on_tpu(plain, rounds))]
    exact, rounded = (to_uint8(x) for x in images)
    levels = np.abs(exact.astype(int) - rounded)
    read = [np.asarray(model.decode(x)) > 0 for x in (exact, rounded)]
    return {"changed": float(np.mean(levels > 0)), "most_levels": int(levels.max()),
            "rms_levels": 127.5 * float(np.sqrt(np.mean((images[0] - images[1]) ** 2))),
            "bits_read_otherwise": float(np.mean(read[0] != read[1]))}


def _decoding(model, settings, rounds) -> dict:
    """Returns what rounding does to the logits of 8-bit images: RMS relative to theirs, the largest change, bits."""
    bits, seeds = _inputs(model, settings)
    images = to_float(to_uint8(np.asarray(jax.jit(generate_fn(model.config))(model.params["generator"], bits, seeds))))
    exact, rounded = (np.asarray(jax.jit(f)(model.params["decoder"], images))
                      for f in (decode_fn(model.config), as_on_tpu(decode_fn(model.config), rounds)))
    return {"relative": _relative(exact, rounded), "largest": float(np.abs(exact - rounded).max()),
            "median_logit": float(np.median(np.abs(exact))), "bits_changed": float(np.mean((exact > 0) != (rounded > 0)))}


def _phases(model, config, settings) -> dict:
    """Returns, by phase: a function that says what rounding does to its gradients, network -> relative RMS.

    Beside it, network + _OTHER -> how far off the exact gradients of the next step's samples are: the noise that
    training lives with anyway.
    """
    from fpgan.training.state import init_state, state_from_params
    from fpgan.training.step import phases

    config = config.copy_and_resolve_references()
    config.batch_size, config.curriculum.bits_first = settings.device_batch, False
    network = model.config
    state = state_from_params(config, {**init_state(config).params, **model.params})
    side = network.resolution
    images = np.asarray(model.generate(*_inputs(model, settings)))
    images = np.resize(images, (2, settings.device_batch, side, side, network.channels))  # a batch for each of two steps

    def gradients(program, step):
        """A first step's gradients, up to a factor: the moments of Adam after it."""
        devices = jax.local_devices()[:1]
        after, _ = program(replicate(state.replace(step=jnp.int32(step)), devices), images[step - 1][None])
        moments = unreplicate(after.optimizer)
        return {name: np.concatenate([x.ravel() for x in jax.tree.leaves(moments[name].mu)]) for name in moments}

    def compare(run, rounds):
        plain, emulated = (pmap(function, devices=jax.local_devices()[:1]) for function in (run, as_on_tpu(run, rounds)))
        exact, rounded, other = gradients(plain, 1), gradients(emulated, 1), gradients(plain, 2)
        found = {}
        for name in (name for name in exact if np.any(exact[name])):
            found[name], found[name + _OTHER] = (_relative(exact[name], x[name]) for x in (rounded, other))
        return found

    return {phase.name: lambda rounds, run=phase.run: compare(run, rounds)
            for phase in phases(config, settings.device_batch, resident=False)}


def _relative(exact: np.ndarray, rounded: np.ndarray) -> float:
    """The root mean square of the difference over that of the exact values."""
    exact = exact.astype(np.float64)
    return float(np.sqrt(np.mean((rounded - exact) ** 2) / np.mean(exact**2)))


def lines(part: dict) -> list[str]:
    """Lays out what `bench_precision` returned, without a heading."""
    text = ["operands of float32 products rounded to bfloat16, as on a TPU: of all (all rounded), and of those that do not",
            "ask for more (as set)"]
    for name, result in part.items():
        for label, key in (("all rounded", "always"), ("as set", "by_default")):
            text += [f"{name:<14}{label:<13}{words}" for words in _words(result[key])]
    return text


def _words(result: dict) -> list[str]:
    if "rms_levels" in result:
        return [f"{result['changed']:.2%} of the values change, {result['rms_levels']:.2f} grey levels RMS, at most "
                f"{result['most_levels']}; {result['bits_read_otherwise']:.3%} of the bits"]
    if "median_logit" in result:
        return [f"logits {result['relative']:.2%} off RMS, {result['largest']:.2f} at most beside a median of "
                f"{result['median_logit']:.1f}; {result['bits_changed']:.3%} of the bits"]
    networks = [name for name in result if f"{name}{_OTHER}" in result]
    return [f"gradient of the {name} {result[name]:.1%} off RMS; with other samples {result[name + _OTHER]:.0%}"
            for name in networks]


def by_default(scope: str, asked: bool) -> bool:
    """Says that a TPU rounds the operands of a product unless more precision was asked for, wherever it stands."""
    return not asked


def always(scope: str, asked: bool) -> bool:
    """Says that all operands are rounded, as if nobody had asked for more precision anywhere."""
    return True


def as_on_tpu(function: Callable, rounds: Callable[[str, bool], bool] = by_default) -> Callable:
    """Returns a function as a TPU computes it.

    Args:
      function: of arrays, to arrays (nested); it may hold gradients, but is not to be differentiated afterwards.
      rounds: says whether the operands of a float32 product are rounded; is given the product's scope, such as
        "transpose(jvp(Decoder))/linear/dot_general", and whether more than the default precision was asked for there.

    Raises:
      NotImplementedError: a product stands inside control flow, which is not looked into.
    """
    def emulated(*args):
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        results = _evaluate(closed, jax.tree.leaves(args), rounds, "")
        return jax.tree.unflatten(jax.tree.structure(shape), results)
    return emulated


def _evaluate(closed, inputs: list, rounds: Callable[[str, bool], bool], scope: str) -> list:
    """Evaluates a traced program, with operands of its float32 products rounded."""
    values = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    values |= zip(closed.jaxpr.invars, inputs, strict=True)

    def read(atom):
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in closed.jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        name, here = equation.primitive.name, "/".join(filter(None, (scope, str(equation.source_info.name_stack))))
        if name == "cond" and equation.params["branches_platforms"]:  # lax.platform_dependent
            outputs = _evaluate(_branch_of_tpus(equation.params), operands[1:], rounds, here)
        elif name in _INNER:
            outputs = _evaluate(equation.params[_INNER[name]], operands, rounds, here)
        else:
            if name in _PRODUCTS:
                asked = any(p not in (None, lax.Precision.DEFAULT) for p in jax.tree.leaves(equation.params["precision"]))
                if equation.invars[0].aval.dtype == jnp.float32 and rounds(f"{here}/{name}", asked):
                    operands = [lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7) for x in operands]
            elif any(product in str(equation.params) for product in _PRODUCTS):
                raise NotImplementedError(f"a product inside {name}, at {here}")
            outputs = equation.primitive.bind(*operands, **equation.params)
            outputs = outputs if equation.primitive.multiple_results else [outputs]
        values |= zip(equation.outvars, outputs, strict=True)
    return [read(atom) for atom in closed.jaxpr.outvars]


def _branch_of_tpus(params: dict):
    """Picks what a TPU runs of formulations for several platforms."""
    platforms = zip(params["branches"], params["branches_platforms"], strict=True)
    return next(branch for branch, names in platforms if names is None or "tpu" in names)
