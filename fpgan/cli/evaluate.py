"""fpgan evaluate: measures image quality, bit accuracy and attribution."""

from __future__ import annotations

import argparse

from fpgan.cli.options import add_model_argument
from fpgan.cli.terminal import not_negative, positive
from fpgan.errors import FpganError
from fpgan.evaluation.paper import SUITES

EXAMPLE = """\
example: a quick look, a thorough one, a model of your own against public and other images

  fpgan evaluate --model robohash32 --images 1000
  fpgan evaluate --model robohash32 --images 10000 --features vgg16 --take 50000 \\
      --out metrics.json --negatives "robohash_cats[50000:]" robohash_monsters robohash_heads
  fpgan evaluate --model my-model --data tfds:celeb_a --crop celeba128 --negatives photos/

what is left after perturbations, as a Markdown table; the same command goes on after the last row:

  fpgan evaluate --model my-model --perturbations jpeg:80 crop:0.9+jpeg:80 waves --out rows.jsonl

the same where each image is read at the place that the model's aligner finds:

  fpgan evaluate --model my-model --search fast --perturbations flip shift:-7,5 crop:0.85

the results of the paper, as a report (report/index.html); the same command goes on where it was
stopped:

  fpgan evaluate --model my-model --suite robustness samples fidelity --out report
  fpgan evaluate --model my-model --suite robustness --against older-model --out report
  fpgan evaluate --model my-model --suite collusion --images 200

Every image gets a fingerprint and a latent of its own, drawn from the seed. Accuracy and
attribution are for floats, and for 8-bit images after a PNG round trip and other ways of saving;
intervals are 95%. A distance is named after its features (vgg16 and alexnet need the extra
[eval]); compare equal names and counts alone.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add_model_argument(parser, "a shipped model, or a folder")
    parser.add_argument("--data", default="robohash_cats", metavar="IMAGES",
                        help="real images: robohash_cats (default; needs the extra [demo]), or prepared by "
                             "fpgan data: tfds:NAME, a folder or a zip file")
    parser.add_argument("--crop", help="how the real images were cropped: center, none, celeba128")
    parser.add_argument("--take", type=positive, help="use only the first so many real images")
    parser.add_argument("--data-dir", help="where prepared images are kept (data)")
    parser.add_argument("--negatives", nargs="+", default=[], metavar="IMAGES",
                        help="further images that are not the model's, --images of each: folders, patterns, files; "
                             "robohash_monsters, robohash_heads, robohash_cats, tfds:NAME, also a range of "
                             "them, as in robohash_cats[50000:]")
    parser.add_argument("--images", type=positive, default=1000, help="images of each kind (1000)")
    parser.add_argument("--features", default="pixels", metavar="NAME",
                        help="of the distances: pixels (default), vgg16, alexnet, or NAME:LAYER@SIZE; suites take "
                             "several, with commas")
    parser.add_argument("--registry-size", type=positive, default=1_000_000, help="registered users (1000000)")
    parser.add_argument("--false-positive-rate", "--fpr", type=float, default=1e-6, metavar="RATE",
                        help="over all users, per image (1e-6)")
    parser.add_argument("--seed", type=not_negative, default=0, help="of fingerprints, latents and choices (0)")
    parser.add_argument("--batch-size", type=positive, default=16, help="images per call of the generator (16)")
    parser.add_argument("--perturbations", nargs="+", default=[], metavar="SPEC",
                        help="measure only what is left after these, or suites of them (fpgan perturb --help)")
    parser.add_argument("--search", choices=("none", "fast", "full"), default="none",
                        help="where the picture is looked for in an image, as in fpgan attribute (none); of the suites "
                             "robustness alone does it")
    parser.add_argument("--suite", nargs="+", default=[], metavar="NAME",
                        help="results of the paper, or all of them: " + ", ".join([*SUITES, "all"]))
    parser.add_argument("--against", metavar="MODEL", help="suites: a second model, drawn beside the first")
    parser.add_argument("--twin", metavar="MODEL", help="suites: a model trained like it, without fingerprints")
    parser.add_argument("--inception", metavar="FILE", default="",
                        help="suite fidelity: weights of the 2015 Inception network, a PyTorch state dict, for the FID")
    parser.add_argument("--out", metavar="FILE",
                        help="write everything as JSON, with versions and command; perturbations as JSON lines; suites as a "
                             "report into this folder")
    parser.add_argument("--record", action="store_true", help="write everything into the model's config.json as well")


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table, and says where the file is."""
    if args.record and (args.suite or args.perturbations):
        raise FpganError("--record keeps the main numbers in the model; leave it out with --suite and --perturbations")
    if args.suite:
        return _run_suites(args)
    if args.perturbations:
        return _measure_perturbations(args)
    from fpgan.evaluation.report import table
    from fpgan.evaluation.samples import Settings
    from fpgan.evaluation.suites import evaluate_named

    settings = Settings(args.images, args.seed, args.features, args.registry_size, args.false_positive_rate,
                        args.batch_size, args.search)
    results = evaluate_named(
        args.model, args.data, settings, others=args.negatives, out=args.out, record=args.record, progress=_progress(),
        data_options=_data_options(args),
        command=_command())
    print(table(results))
    if args.out:
        print(f"\nwritten to {args.out}")
    return 0


def _measure_perturbations(args) -> int:
    from fpgan.evaluation.robustness import Trial, markdown, measure_named

    trial = Trial(args.images, args.seed, args.registry_size, args.false_positive_rate, args.search)
    rows = measure_named(args.model, args.perturbations, trial, out=args.out, batch_size=args.batch_size,
                         progress=_progress())
    print(f"{rows[0]['model']}: {trial.count:,} images, {trial.n_users:,} users at {trial.false_positive_rate:g}, "
          f"seed {trial.seed}, search {trial.search}\n\n{markdown(rows)}")
    if args.out:
        print(f"\nwritten to {args.out}")
    return 0


def _run_suites(args) -> int:
    """Runs suites, prints their words and tables, and says where the report is."""
    from fpgan.evaluation.paper.blocks import section_markdown
    from fpgan.evaluation.paper.study import Plan
    from fpgan.evaluation.paper.suites import PAGE, run_named
    from fpgan.evaluation.robustness import Trial

    trial = Trial(args.images, args.seed, args.registry_size, args.false_positive_rate, args.search)
    plan = Plan(trial, args.batch_size, tuple(args.features.split(",")), args.data, _data_options(args),
                tuple(args.negatives), tuple(args.perturbations), args.inception)
    sections = run_named(args.model, args.suite, plan, against=args.against, twin=args.twin, out=args.out,
                         command=_command(), progress=_progress("parts"))
    print("\n".join(map(section_markdown, sections)))
    if args.out:
        print(f"written to {args.out}/{PAGE}")
    return 0


def _data_options(args) -> dict:
    """The fields of a config's data part that were given."""
    options = {name: getattr(args, name) for name in ("crop", "take", "data_dir")}
    return {name: value for name, value in options.items() if value is not None}


def _command() -> str:
    import shlex
    import sys

    return shlex.join(["fpgan", *sys.argv[1:]])


def _progress(unit: str = "images"):
    """Returns progress(part, done, total): one line on the terminal for each part; counts of `unit`."""
    from fpgan.cli.terminal import progress_line

    lines = {}

    def show(part: str, done: int, total: int) -> None:
        lines.setdefault(part, progress_line(part, unit))(done, total)

    return show
