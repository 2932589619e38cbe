"""`fpgan attribute`: who made these images, with a false-positive rate."""

from __future__ import annotations

import argparse

from fpgan.cli.options import add_instance_arguments, registry_of
from fpgan.cli.reading import add_reading_arguments, read_images

EXAMPLE = """\
example: whose images are these?

  fpgan attribute found/ --registry registry.csv --out verdicts.csv

prints a table, and writes the same with the bits read, the decoder's confidence and its
evenness to verdicts.csv:

  file                    matches   log10 p  verdict
  found/a.png          128 of 128     -38.1  user alice
  found/b.png          125 of 128     -33.2  user bob (flipped, cropped to 92%)
  found/c.png           76 of 128      -0.6  no fingerprint found

log10 p bounds the probability that an image which no registered user's instance made would
fit any of them so well: the exact tail of a score in which sure bits count for more, times
the number of users. An image is attributed when that is at most --fpr, to everybody who fits
so well: an image that several users have mixed may name several. Verdicts below that are told
apart by how even the logits are in size, where the model has a calibrated threshold; those
have no p-value. What a p-value says, and what not (who holds a user's images may imitate their
fingerprint): docs/statistics.md.

An image that was moved (flipped, cropped, turned, put on a page) is read where the picture lies
in it: --search fast, the default of models with an aligner, looks where the aligner finds it,
--search full also tries hundreds of poses. The image alone decides, never the registry, so p
needs no factor; the verdict says what was undone.

Several images of one suspect, each too damaged for itself, are one verdict with one p-value:

  fpgan attribute seized/ --registry registry.csv --pool folder     (a folder is a suspect)
  fpgan attribute seized/ --registry registry.csv --pool list.csv   (with columns file,suspect)

Very many images go into a folder of parts, by any number of processes, as fpgan decode --help
shows; then counts are printed instead of the table.

Instead of a registry, a provider's key and the ids to try: --key-file key.hex --users users.txt

exit code: 0, whatever the verdicts; 1 if no image could be read, or with --strict if any could
not; 2 for a wrong command.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `fpgan attribute`."""
    add_instance_arguments(parser, new=False)
    parser.add_argument("--fpr", "--false-positive-rate", metavar="RATE", type=float, default=1e-6,
                        help="tolerated rate of false attributions per image, over all users (default 1e-6)")
    parser.add_argument("--pool", metavar="BY",
                        help="one verdict for all images of a suspect: 'folder' (each folder or array_record file is one), "
                             "'all', or a CSV file with the columns file,suspect")
    parser.add_argument("--out", metavar="FILE_OR_DIR",
                        help="also write CSV, JSON lines or Parquet, by ending or --format; into a folder (one that "
                             "exists, or a name without an ending) go parts, instead of the table")
    parser.add_argument("--format", choices=("csv", "jsonl", "parquet"),
                        help="format of --out; without --out, print CSV or JSON lines instead of the table")
    add_reading_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs `fpgan attribute`; returns the exit code that its help states."""
    import fpgan
    from fpgan.decoding.decode import DecodeJob

    model = fpgan.load(args.model)
    job = DecodeJob(model, registry_of(args, model.n_bits), args.fpr, args.batch_size, args.threads, args.pool,
                    args.search)
    return read_images("attribute", job, args)
