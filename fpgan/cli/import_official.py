"""fpgan import-official: converts a model of the paper's authors into a model directory."""

import argparse

EXAMPLE = """\
example: convert a snapshot, then make images of one user's instance

  fpgan import-official network-snapshot-025000.pkl --out models/celeba128
  fpgan generate --model models/celeba128 --user alice --registry registry.csv --issue --out set
"""


def add_arguments(parser: argparse.ArgumentParser):
    """Declares the arguments."""
    parser.add_argument("file", metavar="FILE.pkl", help="the authors' pickle of decoder, generator, discriminator and "
                        "average; it is read, never executed")
    parser.add_argument("--out", required=True, help="model directory to write")
    parser.add_argument("--name", default="", help="name of the model (default: the directory's)")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--average", dest="average", action="store_true", default=True,
                        help="take the running average of the generator's weights (the default)")
    choice.add_argument("--raw", dest="average", action="store_false", help="take the generator's last weights instead")


def run(args: argparse.Namespace) -> int:
    """Converts."""
    from fpgan.model.official import import_official

    model = import_official(args.file, args.out, args.average, args.name)
    weights = model.info["imported"]["generator"]
    print(f"{args.out}: model {model.name}, {model.n_bits} bits, {model.resolution}x{model.resolution}, the generator's "
          f"{weights} weights, hash {model.hash}")
    return 0
