"""Benchmarks: images/s by batch size, compile time apart, achieved FLOP/s against what the device can do.

Everything that is compared is timed in one run, in turns (A B C A B C ...), so that whatever else the machine
does hits all alike; a time is the median over the turns, each waited for to its end. FLOPs are those of XLA's
cost analysis of the compiled program. The peak is that of a large matrix product, on the same device in the same
turns, in the precision of the convolutions.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from fpgan.benchmarks.throughput import bench_decode, bench_generate, bench_search, bench_train_step, random_params
from fpgan.benchmarks.timing import Settings
from fpgan.errors import FpganError
from fpgan.io.files import write_file
from fpgan.io.provenance import provenance
from fpgan.model.model import from_params
from fpgan.networks.config import NetworkConfig

if TYPE_CHECKING:
    import ml_collections

    from fpgan.model.model import Model

_WITH_PARAMS = {"generate", "decode", "instance", "pipeline", "precision"}
# The tasks whose modules lay out their results.
_OWN_LINES = {"instance", "pipeline", "scaling", "compile", "precision", "attribute", "registry", "startup",
              "layers"}


def bench(tasks: Sequence[str], network: NetworkConfig, settings: Settings, *, params: dict | None = None,
          training: ml_collections.ConfigDict | None = None, predicted: ml_collections.ConfigDict | None = None,
          model: Model | None = None, out: str | os.PathLike | None = None, command: str = "",
          report: Callable[[str], None] = lambda line: None) -> dict:
    """Runs benchmarks and writes their results: `fpgan bench`.

    Args:
      tasks: some of TASKS.
      network: the architecture, for "generate", "decode", "instance" and "pipeline".
      settings: what to time.
      params: {"generator", "decoder"} -> parameters; random without them, which takes as long.
      model: a Model, of which "decode" also times the searches for the picture in an image.
      training: the training config (fpgan.training.config), for "train-step", "scaling" and "compile".
      predicted: the training config of the predictions of "scaling"; `training` without it.
      out: a JSON file, written whole or not at all; none without it.
      command: recorded in the result.
      report: is given lines of progress, by what takes long.

    Returns:
      A nested dict of plain values: a part for each task, network, settings, provenance.

    Raises:
      FpganError: unknown tasks or senseless settings, or the two formulations of the convolution disagree.
    """
    _check(tasks, settings, training)
    results = {"network": network.to_dict(), "settings": asdict(settings)}
    if params is None and set(tasks) & _WITH_PARAMS:
        params = random_params(network, settings.seed)
    subject = _Subject(network, settings, params, training, predicted, model, report)
    results |= {task: _RUNS[task](subject) for task in tasks}
    results["provenance"] = provenance(command)
    if out is not None:
        write_file(out, (json.dumps(results, indent=2) + "\n").encode())
    return results


class _Subject(NamedTuple):
    """What is timed; see `bench` for the fields."""

    network: NetworkConfig
    settings: Settings
    params: dict | None
    training: ml_collections.ConfigDict | None
    predicted: ml_collections.ConfigDict | None
    model: Model | None
    report: Callable[[str], None]

    @property
    def as_model(self) -> Model:
        """The parameters as a model."""
        return from_params(self.network, self.params, {})


def _module(name: str) -> ModuleType:
    """Imports a module of this room, which brings what the other tasks do without."""
    return importlib.import_module(f"fpgan.benchmarks.{name}")


def _decode(subject: _Subject) -> dict:
    result = bench_decode(subject.network, subject.params["decoder"], subject.settings)
    if subject.model is not None and subject.settings.search:
        result["searches"] = bench_search(subject.model, subject.settings)
    return result


def _pipeline(subject: _Subject) -> dict:
    s = subject.settings
    return _module("pipeline").bench_pipeline(subject.as_model, s.batches, s.images, s.repeats, s.seed, s.devices)


def _attribute(subject: _Subject) -> dict:
    s = subject.settings
    return _module("attribute").bench_attribution(s.registry_sizes, s.batches, s.repeats, s.seed)


def _registry(subject: _Subject) -> dict:
    s = subject.settings
    return _module("registry").bench_registry(s.registry_sizes, s.repeats, s.seed)


_RUNS = {
    "generate": lambda subject: bench_generate(subject.network, subject.params["generator"], subject.settings),
    "decode": _decode,
    "instance": lambda subject: _module("instance").bench_instance(subject.network, subject.params["generator"],
                                                                   subject.settings),
    "pipeline": _pipeline,
    "train-step": lambda subject: bench_train_step(subject.training, subject.settings),
    "scaling": lambda subject: _module("scaling").bench_scaling(subject.training, subject.settings, subject.predicted),
    "compile": lambda subject: _module("compile").bench_compile(subject.training, subject.settings, subject.report),
    "precision": lambda subject: _module("precision").bench_precision(subject.as_model, subject.training, subject.settings),
    "attribute": _attribute,
    "registry": _registry,
    "layers": lambda subject: _module("layers").bench_layers(subject.network, subject.settings),
    "startup": lambda subject: _module("startup").bench_startup(subject.settings.model, subject.settings.repeats),
}
TASKS = tuple(_RUNS)


def _check(tasks: Sequence[str], settings: Settings, training) -> None:
    """Refuses senseless wishes before anything is timed."""
    unknown = [task for task in tasks if task not in TASKS]
    if unknown or not tasks:
        raise FpganError(f"there is no benchmark {', '.join(unknown)!r}; expected some of {', '.join(TASKS)}")
    if not settings.batches or min(*settings.batches, settings.repeats, settings.images) < 1:
        raise FpganError("batch sizes, images and repeats have to be whole numbers of at least 1")
    if min(settings.devices, default=1) < 1:
        raise FpganError(f"devices are {settings.devices}; expected whole numbers of at least 1")
    if min(settings.grouped_batch, settings.fingerprints) < 0:
        raise FpganError(f"grouped_batch is {settings.grouped_batch} and fingerprints {settings.fingerprints}; "
                         "expected at least 0, which leaves a measurement out")
    if not 0 <= settings.seed < 2**32:
        raise FpganError(f"the seed is {settings.seed}; expected a whole number from 0 to {2**32 - 1}")
    if {"train-step", "scaling", "compile"} & set(tasks) and training is None:
        raise FpganError("a training step needs a training config; give --config configs/robohash64.py")


def table(results: dict) -> str:
    """Lays out what `bench` returned as lines of at most 100 columns."""
    device = results["provenance"]["device"]
    devices = f"{device['count']} device{'s' * (device['count'] > 1)}"
    jax_version = results["provenance"]["versions"]["jax"]
    lines = [f"{device['name']} ({device['platform']}, {devices}), jax {jax_version}"]
    for task in TASKS:
        if task in results:
            part = results[task]
            if task in _OWN_LINES:
                network = part.get("network", results["network"] if task in _WITH_PARAMS | {"layers"} else None)
                title = [f"{task}: {_architecture(network)}"] if network else []
                lines += ["", *title, *_module(task).lines(part)]
                continue
            lines += ["", f"{task}: {_architecture(part.get('network', results['network']))}",
                      f"{'batch':>6}{'compile s':>11}{'images/s':>10}{'(slowest-fastest)':>19}"
                      f"{'GFLOP/image':>13}{'GFLOP/s':>10}{'of matmul':>11}"]
            lines += [_row_line(row) for row in part["rows"]]
            lines += _footnotes(part)
    return "\n".join(lines)


def _architecture(network: dict) -> str:
    return (f"{network['resolution']}x{network['resolution']}, {network['fingerprint_bits']} bits, channels "
            f"min({network['channel_base']} / 2^(k-1), {network['channel_max']}), {network['compute_dtype']}")


def _row_line(row: dict) -> str:
    spread = f"({row['slowest']:.4g}-{row['fastest']:.4g})" if "slowest" in row else ""
    return (f"{row['batch']:>6}{row['compile_seconds']:>11.1f}{row['images_per_second']:>10.4g}{spread:>19}"
            f"{row['flops_per_image'] / 1e9:>13.3g}{row['flops_per_second'] / 1e9:>10.4g}"
            f"{row['of_peak']:>10.0%}")


def _footnotes(part: dict) -> list[str]:
    rates = [f"{kind} {rate / 1e9:.4g} GFLOP/s" for kind, rate in part["peak"]["by_dtype"].items()]
    lines = [f"matmul peak, measured in the same turns: {', '.join(rates)}"]
    if "searches" in part:
        lines += ["", f"{'search':>6}{'batch':>7}{'poses':>7}{'own images/s':>14}{'other images/s':>16}"]
        lines += [f"{row['search']:>6}{row['batch']:>7}{row['poses']:>7}{row['own_per_second']:>14.4g}"
                  f"{row['other_per_second']:>16.4g}" for row in part["searches"]]
    if "grouped" in part:
        grouped = part["grouped"]
        lines.append(f"grouped convolutions, batch {grouped['batch']}: {grouped['images_per_second']:.4g} "
                     f"images/s; the shared kernel is {grouped['speedup']:.2f} times as fast")
        lines.append(f"  (outputs agree to {grouped['relative_difference']:.0e})")
    if "traces" in part:
        traces = part["traces"]
        lines.append(f"traced {traces['traces']} time{'s' * (traces['traces'] > 1)} over "
                     f"{traces['fingerprints']:,} distinct fingerprints, "
                     f"{traces['images_per_second']:.4g} images/s")
    for name, phase in part["rows"][-1].get("phases", {}).items():
        lines.append(f"  {name:<14} every {phase['interval']:>2}: {phase['seconds'] * 1e3:8.1f} ms, "
                     f"{phase['flops_per_second'] / 1e9:.4g} GFLOP/s (batch {part['rows'][-1]['batch']})")
    return lines
