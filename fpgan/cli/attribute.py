"""`fpgan attribute`: who made these images, with a false-positive rate."""

from __future__ import annotations

import argparse
import contextlib
import sys

from fpgan.cli.decode import add_reading_arguments, decode_into_folder
from fpgan.cli.options import share_of
from fpgan.cli.terminal import finish, print_verdicts, verdict_table, warner

EXAMPLE = """\
example: whose images are these?

  fpgan attribute found/ --registry registry.csv --out verdicts.csv

prints a table, and writes the same with the bits read, the decoder's confidence and its
evenness to verdicts.csv:

  file                    matches   log10 p  verdict
  found/a.png          128 of 128     -37.1  user alice
  found/b.png           76 of 128       0.0  not ours

log10 p bounds the probability that an image which no registered user's instance made would
match any of them so well: the exact binomial tail times the number of users. An image is
attributed when that is at most --fpr. Verdicts below that are told apart by how even the
logits are in size, where the model has a calibrated threshold; those have no p-value.

Very many images go into a folder of parts, by any number of processes, as fpgan decode --help
shows; then counts are printed instead of the table.

Instead of a registry, a provider's key and the ids to try: --key-file key.hex --users users.txt

exit code: 0, whatever the verdicts; 1 if no image could be read, or with --strict if any could
not; 2 for a wrong command.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `fpgan attribute`."""
    parser.add_argument("images", metavar="IMAGES", nargs="+",
                        help="files, folders, patterns or array_record files")
    parser.add_argument("--registry", metavar="CSV", help="the registry: a CSV file with user,fingerprint")
    parser.add_argument("--key-file", metavar="FILE",
                        help="a provider's secret key (hexadecimal digits or raw bytes) instead")
    parser.add_argument("--user", metavar="ID", action="append", default=[],
                        help="compare with this user only; may be repeated")
    parser.add_argument("--users", metavar="FILE", help="compare with these users only: ids, one per line")
    parser.add_argument("--fpr", "--false-positive-rate", metavar="RATE", type=float, default=1e-6,
                        help="tolerated rate of false attributions per image, over all users (default 1e-6)")
    parser.add_argument("--out", metavar="FILE_OR_DIR",
                        help="also write CSV, JSON lines or Parquet, by ending or --format; into a folder (one that "
                             "exists, or a name without an ending) go parts, instead of the table")
    parser.add_argument("--format", choices=("csv", "jsonl", "parquet"),
                        help="format of --out; without --out, print CSV or JSON lines instead of the table")
    add_reading_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs `fpgan attribute`; returns the exit code that its help states."""
    import fpgan
    from fpgan.attribution.csv_store import read_users
    from fpgan.attribution.verdict import explain
    from fpgan.cli.options import open_registry
    from fpgan.decoding.decode import attribute_rows, decode_files
    from fpgan.decoding.rows import row_file, write_rows
    from fpgan.decoding.shards import Question, is_folder

    model = fpgan.load(args.model)
    named = args.user + (read_users(args.users) if args.users else [])
    registry = open_registry(model.n_bits, args.registry, args.key_file, named)
    sure = model.info.get("evenness_threshold")
    meaning = explain(registry, args.fpr, sure)
    if is_folder(args.out):
        counts = decode_into_folder("attribute", Question(model, registry, args.fpr, sure), args)
        print_verdicts(counts, meaning, sys.stdout)
        return finish("attribute", counts, args.strict)
    share_of(args).refuse_several("a folder: give --out one")
    rows = decode_files(model, args.images, batch_size=args.batch_size, workers=args.threads)
    rows = attribute_rows(rows, registry, args.fpr, sure)
    sinks = [warner("attribute")]
    with contextlib.ExitStack() as stack:
        if args.out or args.format:
            sinks.append(stack.enter_context(row_file(args.out, args.format, with_verdict=True)))
        if args.out or not args.format:
            sinks.append(verdict_table(sys.stdout))
        counts = write_rows(rows, *sinks)
    print_verdicts(counts, meaning, sys.stdout if args.out or not args.format else sys.stderr)
    return finish("attribute", counts, args.strict)
