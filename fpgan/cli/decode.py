"""`fpgan decode`: the fingerprints in images, as CSV, JSON lines or Parquet."""

from __future__ import annotations

import argparse

from fpgan.cli.reading import add_reading_arguments, read_images

EXAMPLE = """\
example: read the fingerprints of all images below a folder

  fpgan decode samples --out bits.csv

writes a line per image: file, fingerprint (hexadecimal digits), confidence (the mean of
|2 sigmoid(logit) - 1| over the bits, 0 to 1), evenness, undone (what was done to the picture
and undone before it was read, as "flipped, cropped to 92%": see --search), resized, error. The
decoder reads bits from any image, whoever made it: whether they mean anything is what
`fpgan attribute` is for.

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
    parser.add_argument("--out", metavar="FILE_OR_DIR",
                        help="a file, or a folder for parts: one that exists, or a name without an ending (default: "
                             "standard output)")
    parser.add_argument("--format", choices=("csv", "jsonl", "parquet"),
                        help="default: as --out ends, CSV on standard output, JSON lines in a folder")
    add_reading_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs `fpgan decode`; returns the exit code that its help states."""
    import fpgan
    from fpgan.decoding.decode import DecodeJob

    job = DecodeJob(fpgan.load(args.model), batch_size=args.batch_size, workers=args.threads,
                    search=args.search)
    return read_images("decode", job, args)
