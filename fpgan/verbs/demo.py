"""fpgan demo: issues instances to three users, generates, writes, reads back and attributes, in one go."""

EXAMPLE = """\
example: everything once

  fpgan demo
  fpgan demo --out somewhere --model models/mine --fpr 1e-9"""


def add_arguments(parser):
    """Declares the arguments."""
    parser.add_argument("--out", default="fpgan-demo", help="new folder for everything it writes (default: fpgan-demo)")
    parser.add_argument("--model", default="robohash32", help="a shipped model or a model directory (default: robohash32)")
    parser.add_argument("--fpr", type=float, default=1e-6, help="false-positive rate per image (default: 1e-6)")


def run(args) -> int:
    """Runs the demo and prints its table."""
    from pathlib import Path

    from fpgan.demo import RESIDUAL_GAIN, run_demo, summarise

    folder = Path(args.out)
    rows = run_demo(folder, args.model, args.fpr, print)
    print("\n".join(summarise(rows, folder)))
    print(f"\nAn image is attributed if chance would do it at most once in {1 / args.fpr:g} images.")
    print(f"every image's verdict: {folder / 'verdicts.csv'}")
    print(f"picture: {folder / 'picture.png'} (a row per user, a latent per column; last row: the first "
          f"user's images minus the second's, times {RESIDUAL_GAIN}, on grey)")
    return 0
