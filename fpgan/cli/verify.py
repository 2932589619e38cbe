"""`fpgan verify`: whether a sample set is what was asked for."""

from __future__ import annotations

import argparse
import sys

from fpgan.cli.options import add_model_argument
from fpgan.cli.terminal import not_negative, positive, progress_line

EXAMPLE = """\
example: check a set, and read the fingerprints in 100 of its images

  fpgan verify samples --decode 100

  images       2000 listed of 2000
  shards          1 finished of 1
  hashes       2000 right
  decoded       100, of which 100 match (92 or more of 128 bits)
  problems        0

Every manifest is compared with settings.json line by line, every image with the hash in its
line, and the users and fingerprints with those that were asked for. Files that are not of the
set are named. --decode draws images at random and needs the model that made the set.

fpgan generate makes a damaged shard again once its manifest is removed, such as
samples/manifest/00003-of-00010.jsonl.

exit code: 0 if all is right; 1 if something is wrong (the first 10 problems are named); 2 for a
wrong command.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `fpgan verify`."""
    parser.add_argument("folder", metavar="DIR", help="what fpgan generate wrote")
    parser.add_argument("--decode", metavar="N", type=not_negative, default=0,
                        help="read the fingerprints in N images, drawn at random (default 0)")
    add_model_argument(parser, "the model that made the set, for --decode")
    parser.add_argument("--fpr", "--false-positive-rate", metavar="RATE", type=float, default=1e-6,
                        help="of an image with another fingerprint, that it counts as matching (default 1e-6)")
    parser.add_argument("--seed", metavar="S", type=not_negative, help="of the drawing (default: another one each time)")
    parser.add_argument("--threads", metavar="N", type=positive, help="threads that read and hash (default: CPU cores)")


def run(args: argparse.Namespace) -> int:
    """Runs `fpgan verify`; returns the exit code that its help states."""
    from fpgan.errors import printable
    from fpgan.generation.verify import verify_set

    model = None
    if args.decode:
        import fpgan
        model = fpgan.load(args.model)
    report = verify_set(args.folder, model, decode=args.decode, seed=args.seed, workers=args.threads,
                        false_positive_rate=args.fpr, progress=progress_line("verify"))
    settings, problems = report.settings, report.problems
    print(f"images   {report.listed:>8} listed of {settings.total}\n"
          f"shards   {report.shards:>8} finished of {settings.shards}\n"
          f"hashes   {report.right:>8} right")
    if args.decode:
        print(f"decoded  {report.decoded:>8}, of which {report.matched} match "
              f"({report.needed} or more of {settings.bits} bits)")
    print(f"problems {problems.count:>8}")
    if problems.system:
        print(f"and {len(problems.system)} files that operating systems leave, which are no problem: "
              f"{printable(', '.join(problems.system[:3]))}{', ...' if len(problems.system) > 3 else ''}")
    for problem in problems.shown:
        print(f"fpgan verify: {printable(problem)}", file=sys.stderr)
    if problems.count > len(problems.shown):
        print(f"fpgan verify: and {problems.count - len(problems.shown)} more", file=sys.stderr)
    return int(problems.count > 0)
