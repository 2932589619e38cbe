"""fpgan sweep: trains a config with fields varied, one at a time, and makes one table."""

import argparse

from fpgan.cli.terminal import positive

EXAMPLE = """\
example: how many bits fit, and what each loss term does

  fpgan sweep --config configs/robohash32.py --workdir runs/capacity --vary capacity
  fpgan sweep --config configs/robohash32.py --workdir runs/terms --vary ablations \\
      --set total_images=32000
  fpgan sweep --config configs/smoke.py --workdir runs/sweep \\
      --vary network.fingerprint_bits=8,16,32 objective.consistency=0,10

Each value is a run of its own, trained, exported and measured in WORKDIR/KEY=VALUE, after one of
the config as it is. Stopped anywhere, the same command goes on: with more values it runs those
alone. The rows are in WORKDIR/sweep.jsonl, the tables in WORKDIR/index.html and tables.md."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("--config", required=True, help="a config file, such as configs/smoke.py")
    parser.add_argument("--workdir", required=True, help="folder of the sweep")
    parser.add_argument("--vary", nargs="+", required=True, metavar="KEY=VALUE,VALUE",
                        help="fields and their values, or capacity (32 to 512 bits), fingerprints (10 to 100,000 in "
                             "training), or ablations (each loss term off, modulation in some resolutions only)")
    parser.add_argument("--images", type=positive, default=1000, help="to measure each model with (1000)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="fields to set in all runs")


def run(args: argparse.Namespace) -> int:
    """Sweeps, and prints the table."""
    import shlex
    import sys

    from fpgan.errors import missing_extra
    from fpgan.evaluation.paper.blocks import section_markdown

    try:
        from fpgan.training.sweep import PAGE, sweep
    except ModuleNotFoundError as error:
        raise missing_extra(error.name, "train") from None
    section = sweep(args.config, args.workdir, args.vary, args.set, images=args.images,
                    command=shlex.join(["fpgan", *sys.argv[1:]]), report=lambda line: print(line, flush=True))
    print(f"{section_markdown(section)}\nwritten to {args.workdir}/{PAGE}")
    return 0
