"""fpgan bench: measures speed."""

from __future__ import annotations

import argparse

from fpgan.cli.terminal import not_negative, positive

EXAMPLE = """\
example: a small random model, a large one, a model of your own, a training step

  fpgan bench
  fpgan bench generate --resolution 128 --channel-base 8192 --channel-max 512 \\
      --compute-dtype bfloat16
  fpgan bench generate decode --model robohash32 --batch-sizes 1,64 --out bench.json
  fpgan bench decode --model robohash32 --search --batch-sizes 16
  fpgan bench train-step --config configs/robohash64.py --batch-sizes 16,64
  fpgan bench pipeline --model robohash32 --batch-sizes 16 --devices 1,2,4,8
  fpgan bench train-step --config configs/robohash32.py --batch-sizes 16 --trace traces/step
  fpgan bench startup --repeats 5
  fpgan bench scaling --config configs/robohash32.py --batch-sizes 32 --predict configs/celeba128.py
  fpgan bench instance --model robohash32 --batch-sizes 1,16,64
  fpgan bench layers --batch-sizes 16 --torch ~/torch/bin/python
  fpgan bench compile network.compute_dtype=bfloat16 --config configs/celeba128.py \\
      --topology v5e:2x4
  fpgan bench precision --model robohash32 --batch-sizes 64 --config configs/robohash32.py
  fpgan bench attribute --registry-size 10000,1000000,100000000 --batch-sizes 1,64

Images/s are medians over turns in which all that is compared takes part; compile time stands
apart. FLOPs are those of XLA's cost analysis, the peak is that of a large matrix product.
`generate` is also timed with a kernel per sample (grouped convolutions), and shows that new
fingerprints do not compile again. `pipeline` makes whole sample sets beside generation and
encoding alone. `scaling` times the largest batch on 1, 2, 4 ... devices (virtual ones on a
CPU), and predicts a step on pods; docs/scaling.md states the model. `compile` asks the TPU's own
compiler (pip install 'fpgan[tpu-compile]') what a config's programs take on a slice that is not
there; that takes minutes a program, and goes on where it was stopped. `precision` rounds the
operands of products as a TPU does, for a model and for the phases of --config. --search times
reading images that may have been moved: own ones as they are, and noise, for which all poses
are tried. `attribute` compares images with all of so many registered users, beside faiss's flat
binary index where that is installed (pip install 'fpgan[peers]'). `instance` times a released
instance beside the fingerprinted generator that it was folded from; `registry` an SQLite
registry of so many users, in a temporary folder, from issuing to verifying its log. `layers` times
single layers, beside the same in plain PyTorch, which another environment may have. `startup` is
the CPU time of `fpgan attribute one.png`, cold and warm, beside `import jax`. docs/benchmarks.md
says how to read a trace.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("tasks", nargs="*", metavar="TASK",
                        help="generate, decode, instance, pipeline, train-step, scaling, compile, precision, attribute, "
                             "registry, layers, startup; the first two without any. KEY=VALUE beside them sets a field of "
                             "--config")
    parser.add_argument("--batch-sizes", default="1,8,16,64", metavar="SIZES", help="batch sizes (1,8,16,64)")
    parser.add_argument("--repeats", type=positive, default=5, help="turns, of which the median counts (5)")
    parser.add_argument("--model", help="take architecture and parameters of a model; random ones without")
    parser.add_argument("--resolution", type=positive, default=64, help="of a random model (64)")
    parser.add_argument("--channel-base", type=positive, default=4096,
                        help="of a random model: min(BASE / 2^(k-1), MAX) channels at 2^k pixels (4096)")
    parser.add_argument("--channel-max", type=positive, default=256, help="see --channel-base (256)")
    parser.add_argument("--bits", type=positive, default=128, help="of a random model (128)")
    parser.add_argument("--compute-dtype", default="float32", help="of a random model: float32, bfloat16")
    parser.add_argument("--grouped-batch", type=not_negative, default=16, metavar="SIZE",
                        help="batch size of the comparison with grouped convolutions; 0: none (16)")
    parser.add_argument("--fingerprints", type=not_negative, default=1000, metavar="N",
                        help="distinct ones to count traces over; 0: none (1000)")
    parser.add_argument("--images", type=positive, default=1024, help="made in each turn of pipeline (1024)")
    parser.add_argument("--search", action="store_true",
                        help="decode: also time the searches none, fast and full of --model, as in fpgan attribute")
    parser.add_argument("--config", help="config file for train-step, scaling, compile and precision")
    parser.add_argument("--devices", metavar="COUNTS",
                        help="numbers of devices for scaling (1,2,4,8; empty: predictions alone) and pipeline (all that "
                             "there are)")
    parser.add_argument("--predict", metavar="CONFIG", help="config of scaling's predictions (that of --config)")
    parser.add_argument("--device-batch", type=positive, default=8, metavar="SIZE",
                        help="images per device in predictions, compile, precision (8)")
    parser.add_argument("--utilization", type=float, default=0.3, metavar="PART",
                        help="of the peak FLOP/s, assumed in the predictions (0.3)")
    parser.add_argument("--registry-size", default="10000,100000,1000000,10000000", metavar="SIZES",
                        help="numbers of users for attribute and registry (10000 to 10000000)")
    parser.add_argument("--topology", default="v5e:2x4", metavar="SLICE", help="TPU slice that compile is for (v5e:2x4)")
    parser.add_argument("--programs", metavar="NAMES",
                        help="what compile and precision look at, such as generator,generate (everything)")
    parser.add_argument("--largest-batch", action="store_true", help="let compile find the largest batch that a chip holds")
    parser.add_argument("--cache", default="", metavar="DIR",
                        help="folder of what compile's compiler said (compile in fpgan's cache: ~/.cache/fpgan/compile)")
    parser.add_argument("--torch", default="", metavar="PYTHON",
                        help="interpreter of an environment with torch and numpy, for layers (none)")
    parser.add_argument("--seed", type=not_negative, default=0, help="of parameters and inputs (0)")
    parser.add_argument("--trace", metavar="DIR",
                        help="write a trace of all that is run for jax.profiler's viewers, and sum it up by operation")
    parser.add_argument("--out", metavar="FILE", help="write everything as JSON, with versions and command")


def run(args: argparse.Namespace) -> int:
    """Times, prints the table, and says where the file is."""
    import contextlib
    import shlex
    import sys

    from fpgan.benchmarks.bench import bench, table
    from fpgan.benchmarks.timing import Settings
    from fpgan.benchmarks.trace import summary
    from fpgan.distributed.profiler import tracing
    from fpgan.errors import FpganError
    from fpgan.model import DEFAULT_MODEL
    from fpgan.model.model import load

    devices = args.devices if args.devices is not None else "1,2,4,8" if "scaling" in args.tasks else ""
    devices = _sizes(devices, "--devices") if devices else ()
    overrides = [task for task in args.tasks if "=" in task]
    args.tasks = [task for task in args.tasks if "=" not in task]
    if overrides and args.config is None:
        raise FpganError(f"{overrides[0]!r} sets a field of a config, and there is none; give --config FILE")
    if "compile" in args.tasks:
        _no_accelerator()
    if {"scaling", "pipeline"} & set(args.tasks):
        _virtual_devices(max(devices, default=1))
    model = load(args.model) if args.model else None
    settings = Settings(_sizes(args.batch_sizes, "--batch-sizes"), args.repeats, args.grouped_batch, args.fingerprints,
                        args.seed, devices, args.device_batch, args.utilization, args.images,
                        _sizes(args.registry_size, "--registry-size"), args.topology,
                        tuple(filter(None, (args.programs or "").split(","))), args.largest_batch, args.cache,
                        args.model or DEFAULT_MODEL, args.search, args.torch)
    if args.search and model is None:
        raise FpganError("--search is of a model; give --model")
    with tracing(args.trace) if args.trace else contextlib.nullcontext():
        results = bench(args.tasks or ["generate", "decode"], model.config if model else _network(args), settings,
                        params=model.params if model else None, training=_training(args.config, overrides),
                        predicted=_training(args.predict), model=model, out=args.out,
                        command=shlex.join(["fpgan", *sys.argv[1:]]),
                        report=lambda line: print(line, file=sys.stderr, flush=True))
    print(table(results))
    if args.trace:
        print("\n" + "\n".join(summary(args.trace)))
    if args.out:
        print(f"\nwritten to {args.out}")
    return 0


def _sizes(text: str, option: str) -> tuple[int, ...]:
    from fpgan.errors import FpganError
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise FpganError(f"{option} is {text!r}; expected whole numbers, such as 1,8,16,64") from None


def _virtual_devices(count: int) -> None:
    """Lets a CPU count as several devices; to be called before JAX touches it."""
    import os

    import jax
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", count)


def _no_accelerator() -> None:
    """Lets JAX look for no device but the CPU, since it would look for TPUs where libtpu is installed."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def _network(args):
    from fpgan.networks.config import NetworkConfig
    return NetworkConfig(resolution=args.resolution, channel_base=args.channel_base,
                         channel_max=args.channel_max, fingerprint_bits=args.bits,
                         compute_dtype=args.compute_dtype)


def _training(path: str | None, overrides=()):
    if path is None:
        return None
    from fpgan.training.config import load
    return load(path, overrides)
