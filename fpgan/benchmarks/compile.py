"""Programs compiled for TPU slices that are not there: what the TPU's own compiler says of them, before anybody pays.

The package libtpu holds the compiler, and JAX describes a slice to it by name (`jax.experimental.topologies`). Each phase
of a training step is mapped over the slice as a run maps it (fpgan.distributed.devices); `generate` and `decode` are
programs of one chip. What the compiler says goes to a cache on disk, two files a program, under the hash of the program
itself: a run that was stopped goes on where it stood, and a result is never that of other code.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import json
import os
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from fpgan.benchmarks.cost_model import CHIPS, Device, bound
from fpgan.benchmarks.program_text import collectives, estimated_cycles, memory_traffic
from fpgan.distributed.devices import pmap
from fpgan.errors import FpganError, missing_extra, reason
from fpgan.io.cache import folder_of
from fpgan.io.files import write_file
from fpgan.io.inputs import read_json
from fpgan.model.programs import decode_program, generate_program
from fpgan.networks.config import NetworkConfig

if TYPE_CHECKING:
    import ml_collections

    from fpgan.benchmarks.timing import Settings

_VERSIONS = ("jax", "jaxlib", "libtpu")
_ONLY_COMPILES = {  # no metadata server is asked or missed, and no device is held against other processes
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4"}
_LARGEST = 4096  # images per chip; no search goes beyond
_SHOWN = 5  # kinds of operations in the table


class Slice(NamedTuple):
    """A slice of chips that is described, not there.

    Attributes:
      name: such as "v5e:2x4".
      devices: its chips, for JAX to compile for.
      chip: their peak numbers.
    """

    name: str
    devices: Sequence
    chip: Device


class Candidate(NamedTuple):
    """A program that can be compiled for a slice.

    Attributes:
      name: of the phase, or "generate", "decode".
      interval: steps between its turns; 0 if it is no part of a step with all terms at work.
      lower: number of images per chip -> the lowered program.
    """

    name: str
    interval: int
    lower: Callable


def describe_slice(name: str) -> Slice:
    """Describes a TPU slice to JAX.

    Args:
      name: generation and shape, such as "v5e:2x4" or "v5p:2x2x1".

    Raises:
      FpganError: libtpu is not installed, or there is no such slice, or its chip's numbers are not known here.
    """
    try:
        importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        raise missing_extra("libtpu", "tpu-compile") from None
    for variable, value in _ONLY_COMPILES.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except Exception as error:  # whatever the plugin raises: it is about the name
        raise FpganError(f"no TPU slice {name!r} ({str(error).splitlines()[0]}); expected one such as v5e:2x4, v5e:8x8, "
                         "v5p:2x2x1") from error
    kind = devices[0].device_kind
    if kind not in CHIPS:
        raise FpganError(f"the peak numbers of {kind} are not known; expected a slice of v5e or v5p chips, such as v5e:2x4")
    return Slice(name, devices, CHIPS[kind])


def candidates(config: ml_collections.ConfigDict, slice_: Slice) -> list[Candidate]:
    """Lists the programs of a training config: the phases of a step, then generate and decode.

    Args:
      config: the training config.
      slice_: what they are to be compiled for.
    """
    from fpgan.training.config import architecture
    from fpgan.training.step import phases

    network = architecture(config)
    listed = phases(config, 1, config.data.resident)
    found = [Candidate(phase.name, phase.interval if phase.image_terms is not False else 0,
                       lambda batch, name=phase.name: _lower_phase(config, network, slice_, name, batch))
             for phase in listed]
    one_chip = SingleDeviceSharding(slice_.devices[0])
    found.append(Candidate("generate", 0, lambda batch: _lower_generate(network, one_chip, batch)))
    found.append(Candidate("decode", 0, lambda batch: _lower_decode(network, one_chip, batch)))
    return sorted(found, key=lambda c: c.name == "bits")  # it is a part of "generator", and so comes last


def _lower_phase(config, network: NetworkConfig, slice_: Slice, name: str, batch: int):
    """Lowers a phase for a slice, `batch` images on each chip; with a resident data set, that is an input."""
    from fpgan.training.config import check_batch
    from fpgan.training.state import init_state
    from fpgan.training.step import phases

    config, count = config.copy_and_resolve_references(), len(slice_.devices)
    config.batch_size = batch * count
    check_batch(config, count)
    stored = (config.data.take or config.data.count) if config.data.resident else 0
    phase = next(p for p in phases(config, batch, bool(stored)) if p.name == name)
    side = network.resolution
    state = jax.eval_shape(lambda: init_state(config))
    images = jax.ShapeDtypeStruct((stored or batch, side, side, network.channels), np.uint8)
    if network.label_size:
        images = images, jax.ShapeDtypeStruct((stored or batch,), np.int32)
    inputs = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), (state, images))
    return pmap(phase.run, devices=slice_.devices).lower(*inputs)


def _params(network: NetworkConfig, name: str, where) -> dict:
    """The shapes of a network's parameters, on one chip."""
    from fpgan.networks.parameters import init_params

    shapes = jax.eval_shape(lambda: init_params(network, jax.random.key(0, impl="threefry2x32"), (name,)))[name]
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes)


def _lower_generate(network: NetworkConfig, where, batch: int):
    """Lowers `generate` for one chip."""
    bits = jax.ShapeDtypeStruct((batch, network.fingerprint_bits), np.float32, sharding=where)
    seeds = jax.ShapeDtypeStruct((batch,), np.uint32, sharding=where)
    return generate_program(network, tuple(where.device_set)).lower(_params(network, "generator", where), bits, seeds)


def _lower_decode(network: NetworkConfig, where, batch: int):
    """Lowers `decode` of 8-bit images for one chip."""
    shape = (batch, network.resolution, network.resolution, network.channels)
    images = jax.ShapeDtypeStruct(shape, np.uint8, sharding=where)
    return decode_program(network, tuple(where.device_set)).lower(_params(network, "decoder", where), images)


def compile_cached(candidate: Candidate, slice_: Slice, batch: int, cache: Path) -> dict:
    """Compiles a program, or reads from the cache what the compiler said of it before.

    Args:
      candidate: the program.
      slice_: the slice.
      batch: images per chip.
      cache: folder of the results: a JSON file a program and, gzipped, the text that the compiler made of it.

    Returns:
      program, interval, topology, batch, versions, and whether it fits into a chip's memory. If it does: compile_seconds;
      flops, bytes and optimal_seconds (None where the compiler cannot tell); memory (bytes: arguments, outputs, aliased,
      temporaries, code, peak); and from the text: collectives (kind -> count, bytes), traffic (memory_traffic) and cycles
      (estimated_cycles), each of one call on one chip. If it does not: refusal, the compiler's line.
    """
    started = time.perf_counter()
    lowered = candidate.lower(batch)
    versions = {name: importlib.metadata.version(name) for name in _VERSIONS}
    digest = hashlib.sha256("\n".join((json.dumps(versions), slice_.name, lowered.as_text())).encode()).hexdigest()[:16]
    stem = f"{slice_.name.replace(':', '-')}-{candidate.name}-{batch}-{digest}"
    path, text_path = cache / f"{stem}.json", cache / f"{stem}.txt.gz"
    if not path.is_file():
        result = {"program": candidate.name, "topology": slice_.name, "batch": batch, "versions": versions}
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            result |= {"fits": False, "refusal": str(error).splitlines()[0]}
        else:
            result |= {"fits": True, "compile_seconds": time.perf_counter() - started, **_described(compiled)}
            write_file(text_path, gzip.compress(compiled.as_text().encode(), mtime=0))
        write_file(path, (json.dumps(result, indent=2) + "\n").encode())  # last: it says that all is there
    again = f"; remove it to compile {candidate.name} again"
    result = read_json(path, again) | {"interval": candidate.interval}
    try:
        text = gzip.decompress(text_path.read_bytes()).decode() if result["fits"] else ""
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise FpganError(f"{path}, or the text beside it, is damaged ({reason(error)}){again}") from error
    if result["fits"]:
        result |= {"collectives": collectives(text), "traffic": memory_traffic(text), "cycles": estimated_cycles(text)}
    return result


def _described(compiled) -> dict:
    """What the compiler says of a compiled program, as plain values."""
    analysis, memory = compiled.cost_analysis(), compiled.memory_analysis()
    optimal = float(analysis.get("optimal_seconds", -1.0))
    return {
        "flops": float(analysis["flops"]), "bytes": float(analysis["bytes accessed"]),
        "optimal_seconds": optimal if optimal > 0 else None,  # negative where it holds calls that the compiler cannot judge
        "memory": {"arguments": memory.argument_size_in_bytes, "outputs": memory.output_size_in_bytes,
                   "aliased": memory.alias_size_in_bytes, "temporaries": memory.temp_size_in_bytes,
                   "code": memory.generated_code_size_in_bytes, "peak": memory.peak_memory_in_bytes},
    }


def bench_compile(config: ml_collections.ConfigDict, settings: Settings,
                  report: Callable[[str], None] = lambda line: None) -> dict:
    """Compiles a config's programs for a slice, one after the other, and says what that bounds: `fpgan bench compile`.

    Args:
      config: the training config.
      settings: bench.Settings: topology, programs, device_batch, largest_batch, cache.
      report: is given a line of progress before each program.

    Returns:
      rows (compile_cached, with "bound": cost_model.bound, and "largest_batch" if that is wished for), "step" (the phases
      together, by interval; None if one is missing or does not fit), and what they were compiled for.

    Raises:
      FpganError: no such slice or program, libtpu is missing, a batch that does not split, or no cache folder.
    """
    slice_ = describe_slice(settings.topology)
    listed, cache = candidates(config, slice_), folder_of("compile", settings.cache)
    names = [candidate.name for candidate in listed]
    if unknown := [name for name in settings.programs if name not in names]:
        raise FpganError(f"there is no program {unknown[0]!r} in this config; expected some of {', '.join(names)}")
    rows, count, unit = [], len(slice_.devices), config.network.minibatch_stddev_group

    def compiled(candidate, batch):
        report(f"{candidate.name}, {batch} images per chip, for {slice_.name}: compiling, or from {cache}")
        return compile_cached(candidate, slice_, batch, cache)

    for candidate in (one for one in listed if not settings.programs or one.name in settings.programs):
        row = compiled(candidate, settings.device_batch)
        if row["fits"]:
            row["bound"] = bound(slice_.chip, count if candidate.interval else 1, row) | {"chips": count}
        if settings.largest_batch:
            row["largest_batch"] = largest_batch(lambda batch, c=candidate: compiled(c, batch)["fits"], unit)
        rows.append(row)
    wanted = {candidate.name for candidate in listed if candidate.interval}
    return {"rows": rows, "step": _step(rows, wanted, settings.device_batch * count, slice_.chip), "topology": slice_.name,
            "chips": count, "chip": slice_.chip.name, "memory": slice_.chip.memory, "source": slice_.chip.source,
            "device_batch": settings.device_batch, "network": config.network.to_dict(), "config": config.name}


def _step(rows: Sequence[dict], wanted: set[str], images: int, chip: Device) -> dict | None:
    """A step with all its phases, by interval: what the roofline and the compiler's cycles bound it to."""
    phases = [row for row in rows if row["program"] in wanted and row["fits"]]
    if {row["program"] for row in phases} != wanted:
        return None
    flops = sum(row["flops"] / row["interval"] for row in phases)
    bounded, expected = (sum(row["bound"][key] / row["interval"] for row in phases)
                         for key in ("seconds", "expected_seconds"))
    return {"flops": flops, "seconds": bounded, "images_per_second": images / bounded, "mfu": flops / chip.flops / bounded,
            "expected_seconds": expected, "expected_images_per_second": images / expected,
            "expected_mfu": flops / chip.flops / expected}


def largest_batch(fits: Callable[[int], bool], unit: int, most: int = _LARGEST) -> int:
    """Finds the largest batch that fits: doubled until one does not, then by bisection.

    Args:
      fits: number of images -> whether they fit; if so, fewer do as well.
      unit: the batch has to be a multiple of it.
      most: larger ones are not tried.

    Returns:
      The largest multiple of `unit` that fits and is at most `most`; 0 if none does.
    """
    low, high = 0, unit
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, (most // unit + 1) * unit)
    while high - low > unit:
        middle = (low + high) // (2 * unit) * unit
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def lines(part: dict) -> list[str]:
    """Lays out what `bench_compile` returned, without a heading."""
    fitting = [row for row in part["rows"] if row["fits"]]
    text = [f"{part['config']}, compiled for {part['topology']} ({part['chips']} x {part['chip']}), not run: "
            f"{part['device_batch']} images per chip; per call and chip:",
            f"{'program':<14}{'compile s':>10}{'GFLOP':>8}{'MB used':>9}{'from HBM':>9}{'unpadded':>9}{'temporary':>10}"
            f"{'peak MB':>8}{'of HBM':>7}  collectives MB", *(_compiler_line(row, part["memory"]) for row in fitting)]
    text += [f"{row['program']:<14} does not fit: {row['refusal']}" for row in part["rows"] if not row["fits"]]
    text += ["", f"{'':<50}{'roofline':<26}by the compiler",
             f"{'program':<14}{'FLOP/B':>7}{'compute':>9}{'memory':>8}{'reduce':>8}{'ms':>8}{'images/s':>12}{'MFU':>5}"
             f"{'optimal':>9}{'cycles':>8}{'images/s':>11}{'MFU':>5}", *(_bound_line(row, part) for row in fitting)]
    if part["step"]:
        text.append(_step_line(part["step"]))
    text += [f"{row['program']}: a chip holds {row['largest_batch']} images, and no more" for row in part["rows"]
             if "largest_batch" in row]
    return text + ["cycles, by operation:", *(_cycles_line(row) for row in fitting), *textwrap.wrap(
        part["source"], 100, initial_indent="  ", subsequent_indent="    ")]


def _compiler_line(row: dict, memory: float) -> str:
    m, traffic = row["memory"], row["traffic"]
    between = ", ".join(f"{kind} {entry['bytes'] / 1e6:.1f}" for kind, entry in row["collectives"].items()) or "none"
    return (f"{row['program']:<14}{row['compile_seconds']:>10.0f}{row['flops'] / 1e9:>8.4g}{row['bytes'] / 1e6:>9,.0f}"
            f"{traffic['bytes'] / 1e6:>9,.0f}{traffic['unpadded'] / 1e6:>9,.0f}{m['temporaries'] / 1e6:>10,.0f}"
            f"{m['peak'] / 1e6:>8,.0f}{m['peak'] / memory:>7.1%}  {between}")


def _bound_line(row: dict, part: dict) -> str:
    b, images = row["bound"], part["device_batch"] * part["chips"]
    return (f"{row['program']:<14}{b['intensity']:>7.0f}{_ms(b['compute_seconds']):>9}{_ms(b['memory_seconds']):>8}"
            f"{_ms(b['all_reduce_seconds']):>8}{_ms(b['seconds']):>8}{images / b['seconds']:>12,.0f}{b['mfu']:>5.0%}"
            f"{_ms(row['optimal_seconds']):>9}{_ms(b['expected_seconds']):>8}{images / b['expected_seconds']:>11,.0f}"
            f"{b['expected_mfu']:>5.0%}")


def _step_line(step: dict) -> str:
    return (f"{'a step':<14}{'':>32}{_ms(step['seconds']):>8}{step['images_per_second']:>12,.0f}{step['mfu']:>5.0%}{'':>9}"
            f"{_ms(step['expected_seconds']):>8}{step['expected_images_per_second']:>11,.0f}{step['expected_mfu']:>5.0%}")


def _ms(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds * 1e3:.3g}"


def _cycles_line(row: dict) -> str:
    """Where the cycles go, whatever the network and the resolution: by the last two parts of the operations' names."""
    total, kinds = sum(row["cycles"].values()), {}
    for name, cycles in row["cycles"].items():
        kind = "/".join(part for part in name.split("/")[-2:] if not part.startswith("jit("))
        kinds[kind] = kinds.get(kind, 0) + cycles
    most = sorted(kinds.items(), key=lambda item: -item[1])[:_SHOWN]
    return f"  {row['program']:<14}" + ", ".join(f"{kind} {cycles / max(1, total):.0%}" for kind, cycles in most)
