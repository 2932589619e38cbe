"""fpgan plot: draws the curves of training runs."""

from __future__ import annotations

import argparse

EXAMPLE = """\
example: one run, and two with names of their own in other metrics

  fpgan plot runs/robohash32 --out curves.png
  fpgan plot "no fingerprint=runs/baseline" "128 bits=runs/robohash32" --out cost.svg \\
      --metrics "eval_frechet_*,eval_psnr" --smooth 5000

A run is its --workdir or a metrics.jsonl file. Without --metrics: bit accuracy and Frechet
distance. What starts with eval_ is measured on 8-bit images of fingerprints and latents never
used in training, with the averaged weights, every `every.evaluate` steps. Needs the extra [plot].
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("runs", nargs="+", metavar="RUN",
                        help="--workdir of fpgan train or metrics.jsonl, as PATH or NAME=PATH")
    parser.add_argument("--out", required=True, metavar="FILE", help="picture to write, .png or .svg")
    parser.add_argument("--metrics", default="", metavar="NAMES",
                        help="with commas; patterns such as eval_* too (accuracy,eval_accuracy,eval_frechet_*)")
    parser.add_argument("--x", default="images", choices=("images", "step"), help="horizontal axis (images)")
    parser.add_argument("--smooth", type=float, default=0.0, metavar="N",
                        help="draw a moving average of this half-life in images or steps; 0: as recorded (0)")


def run(args: argparse.Namespace) -> int:
    """Draws, and prints the last values."""
    from fpgan.evaluation.plots import plot

    metrics = [name.strip() for name in args.metrics.split(",") if name.strip()]
    print(plot(args.runs, args.out, metrics=metrics, x=args.x, smooth=args.smooth))
    print(f"\nwritten to {args.out}")
    return 0
