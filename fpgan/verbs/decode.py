"""`fpgan decode`: the fingerprints in images, as CSV or JSON lines."""

from __future__ import annotations

import argparse

from fpgan.verbs.terminal import finish, positive, row_counter, warner

EXAMPLE = """\
example: read the fingerprints of all images below a folder

  fpgan decode samples --out bits.csv

writes a line per image: file, fingerprint (hexadecimal digits), confidence (the mean of
|2 sigmoid(logit) - 1| over the bits, 0 to 1), mean_abs_logit, resized, error. The decoder reads
bits from any image, whoever made it: whether they mean anything is what `fpgan attribute`
is for.

IMAGES are files, folders (searched recursively), patterns such as 'samples/*/0000*.png', or
array_record files of encoded images. Files that cannot be read are reported in their
line and on standard error, and the others are done.

exit code: 0; 1 if no image could be read, or with --strict if any could not; 2 for a wrong command.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `fpgan decode`."""
    parser.add_argument("images", metavar="IMAGES", nargs="+",
                        help="files, folders, patterns or array_record files")
    parser.add_argument("--out", metavar="FILE", help="where to write (default: standard output)")
    parser.add_argument("--format", choices=("csv", "jsonl"),
                        help="CSV or JSON lines (default: as --out ends, else CSV)")
    add_reading_arguments(parser)


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options that decode and attribute share."""
    parser.add_argument("--model", metavar="NAME", default="robohash32",
                        help="a model's name or folder (default robohash32)")
    parser.add_argument("--batch-size", metavar="N", type=positive, default=64,
                        help="images decoded at once (default 64)")
    parser.add_argument("--workers", metavar="N", type=positive, default=8,
                        help="threads that read files (default 8)")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if any image could not be read")


def run(args: argparse.Namespace) -> int:
    """Runs `fpgan decode`; returns the exit code that its help states."""
    import fpgan
    from fpgan.decoding import decode_files, row_file, write_rows

    model = fpgan.load(args.model)
    rows = decode_files(model, args.images, batch_size=args.batch_size, workers=args.workers)
    with row_file(args.out, args.format, with_verdict=False) as write:
        tally = write_rows(rows, write, warner("decode"), row_counter("decode"))
    return finish("decode", tally, args.strict)
