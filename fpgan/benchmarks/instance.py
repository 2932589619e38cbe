"""How fast a released instance makes images, beside the fingerprinted generator that it was folded from."""

from __future__ import annotations

import statistics

import jax
import jax.numpy as jnp
import numpy as np

from fpgan.benchmarks.throughput import AGREEMENT, generator_inputs, relative_difference
from fpgan.benchmarks.timing import Settings, compile_program, time_interleaved
from fpgan.errors import FpganError
from fpgan.model.instance import instance_program
from fpgan.model.programs import generate_fn
from fpgan.networks.config import NetworkConfig
from fpgan.networks.folding import FoldedConfig, fold


def bench_instance(network: NetworkConfig, params: dict, settings: Settings) -> dict:
    """Times the folded and the fingerprinted generator in turns, with the same fingerprint and the same seeds.

    Args:
      network: the architecture; of a conditional one the instance is that of class 0.
      params: the generator's parameters.
      settings: batch sizes, repeats and seed.

    Returns:
      {"rows", "parameters": {"folded", "fingerprinted"}}; a row for each batch size: batch, and of both generators
      images_per_second (the median over the turns) and flops_per_image; ratio, how many times as fast the folded one is (the
      median over the turns, with ratio_least and ratio_most); relative_difference of the images, RMS.

    Raises:
      FpganError: the two make other images.
    """
    label = 0 if network.label_size else None
    bits, _ = generator_inputs(network, 1, settings.seed)  # [1, n]
    weights = fold(network, params, np.asarray(bits[0]), label)
    folded = instance_program(FoldedConfig.of(network))
    programs = {}
    for batch in settings.batches:
        seeds = jnp.arange(batch, dtype=jnp.uint32)
        labels = () if label is None else (jnp.zeros(batch, jnp.int32),)
        programs[batch, "folded"] = compile_program(folded, weights, seeds)
        programs[batch, "fingerprinted"] = compile_program(generate_fn(network), params, jnp.repeat(bits, batch, 0), seeds,
                                                           *labels)
    differences = {batch: relative_difference(programs[batch, "fingerprinted"].call(), programs[batch, "folded"].call())
                   for batch in settings.batches}
    if not max(differences.values()) <= AGREEMENT[network.compute_dtype]:
        raise FpganError(f"folded and fingerprinted generator differ by {max(differences.values()):.1e} of the output, more "
                         "than by rounding; one of them is wrong")
    seconds = time_interleaved({name: program.call for name, program in programs.items()}, settings.repeats)
    sizes = {"folded": weights, "fingerprinted": params}
    return {"rows": [_row(batch, programs, seconds, differences[batch]) for batch in settings.batches],
            "parameters": {name: sum(np.size(leaf) for leaf in jax.tree.leaves(tree)) for name, tree in sizes.items()}}


def lines(result: dict) -> list[str]:
    """Lays out what `bench_instance` returned as lines of at most 100 columns."""
    found = [f"{'batch':>6}{'folded images/s':>17}{'fingerprinted':>15}{'ratio':>8}{'(least-most)':>15}{'MFLOP/image':>13}"
             f"{'fingerprinted':>15}"]
    for row in result["rows"]:
        own, other = row["folded"], row["fingerprinted"]
        spread = f"({row['ratio_least']:.2f}-{row['ratio_most']:.2f})"
        found.append(f"{row['batch']:>6}{own['images_per_second']:>17.4g}{other['images_per_second']:>15.4g}"
                     f"{row['ratio']:>8.2f}{spread:>15}{own['flops_per_image'] / 1e6:>13.4g}"
                     f"{other['flops_per_image'] / 1e6:>15.4g}")
    parameters, most = result["parameters"], max(row["relative_difference"] for row in result["rows"])
    return [*found, f"{parameters['folded']:,} parameters instead of {parameters['fingerprinted']:,}; the images agree to "
            f"{most:.0e}"]


def _row(batch: int, programs: dict, seconds: dict, difference: float) -> dict:
    ratios = [slow / fast for slow, fast in zip(seconds[batch, "fingerprinted"], seconds[batch, "folded"], strict=True)]
    both = {kind: {"images_per_second": batch / statistics.median(seconds[batch, kind]),
                   "flops_per_image": programs[batch, kind].flops / batch,
                   "compile_seconds": programs[batch, kind].compile_seconds} for kind in ("folded", "fingerprinted")}
    return {"batch": batch, **both, "ratio": statistics.median(ratios), "ratio_least": min(ratios),
            "ratio_most": max(ratios), "relative_difference": difference}
