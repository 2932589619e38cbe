"""fpgan perturb: shows what happens to images between model and analyst."""

from __future__ import annotations

import argparse

from fpgan.cli.terminal import not_negative, progress_line

EXAMPLE = """\
example: two perturbations of all images of a folder, and everything ordinary use does

  fpgan perturb --ops jpeg:75 crop:0.9+jpeg:80 --out perturbed samples/alice
  fpgan perturb --ops ordinary --out ordinary samples/alice/000000.png

writes a copy of every image for every perturbation, as PNG or, when a codec comes last, as that
codec's file, and sheet.png, on which the first images are seen side by side. fpgan decode and
attribute read such copies like any other image.

perturbations: a name, a colon, strengths with commas; a plus between operations in sequence
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options, and the table of all operations."""
    from fpgan.perturbations.registry import table
    from fpgan.perturbations.suites import SUITES

    parser.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders or patterns")
    parser.add_argument("--ops", nargs="+", required=True, metavar="SPEC",
                        help="perturbations, such as crop:0.9+jpeg:80, and suites of them, such as waves")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for copies and sheet")
    parser.add_argument("--seed", type=not_negative, default=0, help="of what is random (0)")
    parser.epilog = EXAMPLE + "\n" + table() + "\n\nsuites\n\n" + "\n".join(
        f"  {name:<18}{len(specs)} perturbations, such as {specs[-1]}" for name, specs in SUITES.items())


def run(args: argparse.Namespace) -> int:
    """Writes the copies and the sheet."""
    from fpgan.perturbations.gallery import perturb_files
    from fpgan.perturbations.registry import expand

    written = perturb_files(args.images, expand(args.ops), args.out, args.seed, progress_line("perturb"))
    print(f"{len(written) - 1} files written, and {written[-1]}")
    return 0
