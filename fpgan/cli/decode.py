"""`fpgan decode`: the fingerprints in images, as CSV, JSON lines or Parquet."""

from __future__ import annotations

import argparse

from fpgan.cli.options import add_process_arguments, share_of
from fpgan.cli.terminal import finish, positive, row_counter, warner

EXAMPLE = """\
example: read the fingerprints of all images below a folder

  fpgan decode samples --out bits.csv

writes a line per image: file, fingerprint (hexadecimal digits), confidence (the mean of
|2 sigmoid(logit) - 1| over the bits, 0 to 1), evenness, resized, error. The decoder reads
bits from any image, whoever made it: whether they mean anything is what `fpgan attribute`
is for.

IMAGES are files, folders (searched recursively), patterns such as 'samples/*/0000*.png', or
array_record files of encoded images. Files that cannot be read are reported in their
line and on standard error, and the others are done.

Very many images go into a folder of parts, by as many processes as there are; each starts the
same command (under srun without the last two options), and a killed one goes on:

  fpgan decode /shared/set --out /shared/bits/ --format parquet --process-id I --num-processes N

exit code: 0; 1 if no image could be read, or with --strict if any could not; 2 for a wrong command.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `fpgan decode`."""
    parser.add_argument("images", metavar="IMAGES", nargs="+",
                        help="files, folders, patterns or array_record files")
    parser.add_argument("--out", metavar="FILE_OR_DIR",
                        help="a file, or a folder for parts: one that exists, or a name without an ending (default: "
                             "standard output)")
    parser.add_argument("--format", choices=("csv", "jsonl", "parquet"),
                        help="default: as --out ends, CSV on standard output, JSON lines in a folder")
    add_reading_arguments(parser)


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options that decode and attribute share."""
    parser.add_argument("--model", metavar="NAME", default="robohash32",
                        help="a model's name or folder (default robohash32)")
    parser.add_argument("--batch-size", metavar="N", type=positive, default=64,
                        help="images decoded at once (default 64)")
    parser.add_argument("--threads", metavar="N", type=positive, default=8,
                        help="threads that read files (default 8)")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if any image could not be read")
    parser.add_argument("--shard-size", metavar="N", type=positive, default=16384,
                        help="images per part in a folder, the piece of work of a process (default 16384)")
    add_process_arguments(parser)


def decode_into_folder(command: str, question, args: argparse.Namespace):
    """Writes this process's share of the rows into the folder, says so, and returns their counts."""
    import sys

    from fpgan.decoding.shards import decode_folder

    share = share_of(args)
    outcome = decode_folder(question, args.images, args.out, format=args.format or "jsonl", shard_size=args.shard_size,
                            batch_size=args.batch_size, workers=args.threads, share=share,
                            sinks=[warner(command), row_counter(command)],
                            report=lambda line: print(f"fpgan {command}: {share}: {line}", file=sys.stderr))
    there = outcome.counts.read + outcome.counts.failed - outcome.made
    print(f"{outcome.made} images decoded, {there} were there" +
          (f" ({share}, of {outcome.images} images)" if share.count > 1 else "") +
          (f"; {outcome.missing_shards} parts of other processes are not finished" if outcome.missing_shards else
           f"; all parts are there: {args.out}"))
    return outcome.counts


def run(args: argparse.Namespace) -> int:
    """Runs `fpgan decode`; returns the exit code that its help states."""
    import fpgan
    from fpgan.decoding.decode import decode_files
    from fpgan.decoding.rows import row_file, write_rows
    from fpgan.decoding.shards import Question, is_folder

    if is_folder(args.out):
        return finish("decode", decode_into_folder("decode", Question(fpgan.load(args.model)), args), args.strict)
    share_of(args).refuse_several("a folder: give --out one")
    model = fpgan.load(args.model)
    rows = decode_files(model, args.images, batch_size=args.batch_size, workers=args.threads)
    with row_file(args.out, args.format, with_verdict=False) as write:
        counts = write_rows(rows, write, warner("decode"), row_counter("decode"))
    return finish("decode", counts, args.strict)
