"""fpgan evaluate: measures image quality, bit accuracy and attribution."""

from __future__ import annotations

from fpgan.cli.options import add_model_argument
from fpgan.cli.terminal import not_negative, positive

EXAMPLE = """\
example: a quick look, a thorough one, a model of your own against public and other images

  fpgan evaluate --model robohash32 --images 1000
  fpgan evaluate --model robohash32 --images 10000 --features vgg16 --take 50000 \\
      --out metrics.json --negatives "robohash_cats[50000:]" robohash_monsters robohash_heads
  fpgan evaluate --model my-model --data tfds:celeb_a --crop celeba128 --negatives photos/

what is left after perturbations, as a Markdown table; the same command goes on after the last row:

  fpgan evaluate --model my-model --perturbations jpeg:80 crop:0.9+jpeg:80 waves --out rows.jsonl
  fpgan evaluate --model my-model --suite robustness --images 2000 --out rows.jsonl

the same where each image is read at the place that the model's aligner finds:

  fpgan evaluate --model my-model --search fast --perturbations flip shift:-7,5 crop:0.85

several users who mix their images, and several damaged images of one user pooled:

  fpgan evaluate --model my-model --suite collusion --images 200
  fpgan evaluate --model my-model --suite pooling --images 100 --perturbations jpeg:50 noise:16

Every image gets a fingerprint and a latent of its own, drawn from the seed. Accuracy and
attribution are for floats, and for 8-bit images after a PNG round trip and other ways of saving;
intervals are 95%. A distance is named after its features (vgg16 and alexnet need the extra
[eval]); compare equal names and counts alone.
"""


def add_arguments(parser) -> None:
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
                        help="of the distances: pixels (default), vgg16, alexnet, or NAME:LAYER@SIZE")
    parser.add_argument("--registry-size", type=positive, default=1_000_000, help="registered users (1000000)")
    parser.add_argument("--false-positive-rate", "--fpr", type=float, default=1e-6, metavar="RATE",
                        help="over all users, per image (1e-6)")
    parser.add_argument("--seed", type=not_negative, default=0, help="of fingerprints, latents and choices (0)")
    parser.add_argument("--batch-size", type=positive, default=16, help="images per call of the generator (16)")
    parser.add_argument("--perturbations", nargs="+", default=[], metavar="SPEC",
                        help="measure only what is left after these, or suites of them (fpgan perturb --help)")
    parser.add_argument("--search", choices=("none", "fast", "full"), default="none",
                        help="of perturbed images: where the picture is looked for, as in fpgan attribute (none)")
    parser.add_argument("--suite", choices=("robustness", "collusion", "pooling"),
                        help="robustness: after every suite of perturbations; collusion: whom the verdict names when users "
                             "mix --images pictures; pooling: verdicts on 1 to 16 images of each of --images suspects")
    parser.add_argument("--out", metavar="FILE",
                        help="write everything as JSON, with versions and command; perturbations as JSON lines")
    parser.add_argument("--record", action="store_true", help="write everything into the model's config.json as well")


def run(args) -> int:
    """Measures, prints the table, and says where the file is."""
    if args.suite in ("collusion", "pooling"):
        return _measure_statistics(args)
    if args.perturbations or args.suite:
        return _measure_perturbations(args)
    import shlex
    import sys

    from fpgan.evaluation.report import table
    from fpgan.evaluation.samples import Settings
    from fpgan.evaluation.suites import evaluate_named

    settings = Settings(args.images, args.seed, args.features, args.registry_size, args.false_positive_rate,
                        args.batch_size)
    options = {name: getattr(args, name) for name in ("crop", "take", "data_dir")}
    results = evaluate_named(
        args.model, args.data, settings, others=args.negatives, out=args.out, record=args.record, progress=_progress(),
        data_options={name: value for name, value in options.items() if value is not None},
        command=shlex.join(["fpgan", *sys.argv[1:]]))
    print(table(results))
    if args.out:
        print(f"\nwritten to {args.out}")
    return 0


def _measure_perturbations(args) -> int:
    from fpgan.evaluation.robustness import Trial, markdown, measure_named
    from fpgan.perturbations.suites import SUITES

    trial = Trial(args.images, args.seed, args.registry_size, args.false_positive_rate, args.search)
    names = [*args.perturbations, *(SUITES if args.suite else ())]
    rows = measure_named(args.model, names, trial, out=args.out, batch_size=args.batch_size, progress=_progress())
    print(f"{rows[0]['model']}: {trial.count:,} images, {trial.n_users:,} users at {trial.false_positive_rate:g}, "
          f"seed {trial.seed}, search {trial.search}\n\n{markdown(rows)}")
    if args.out:
        print(f"\nwritten to {args.out}")
    return 0


def _measure_statistics(args) -> int:
    """Prints, and writes, what the verdict says of mixed and of pooled images."""
    import json

    from fpgan.evaluation import collusion, pooling
    from fpgan.io.files import write_file
    from fpgan.model import load

    model = load(args.model)
    shared = {"seed": args.seed, "false_positive_rate": args.false_positive_rate, "batch_size": args.batch_size}
    if args.suite == "collusion":
        sizes = tuple(sorted({min(1_000, args.registry_size), args.registry_size}))
        rows = collusion.collusion(model, registry_sizes=sizes, trials=args.images, **shared)
        lines = collusion.lines(rows)
    else:
        rows = pooling.pooling(model, args.perturbations or pooling.DAMAGED, suspects=args.images,
                               registry_size=args.registry_size, **shared)
        lines = pooling.lines(rows)
    print(f"{model.name} {model.hash}: false-positive rate {args.false_positive_rate:g}, seed {args.seed}\n")
    print("\n".join(lines))
    if args.out:
        about = {"model": f"{model.name} {model.hash}"} | shared
        write_file(args.out, "".join(json.dumps(about | row) + "\n" for row in rows).encode())
        print(f"\nwritten to {args.out}")
    return 0


def _progress():
    """Returns progress(part, done, total): one line on the terminal for each part."""
    from fpgan.cli.terminal import progress_line

    lines = {}

    def show(part: str, done: int, total: int) -> None:
        lines.setdefault(part, progress_line(part))(done, total)

    return show
