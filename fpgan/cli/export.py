"""fpgan export: turns a training checkpoint into a model directory; adds an aligner to one that is there."""

import argparse

from fpgan.cli.terminal import not_negative, positive, progress_line
from fpgan.errors import FpganError

EXAMPLE = """\
example: from a run to a model that every command takes

  fpgan export --workdir runs/smoke --out models/smoke
  fpgan decode --model models/smoke photos/

The same run with its fingerprint at half strength, read by a decoder that is fitted to it:

  fpgan export --workdir runs/smoke --out models/faint --strength 0.5 --readout-images 40000

An aligner finds the picture in an image that was flipped, cropped, turned or put on a page, so
that `fpgan attribute --search fast` reads it there. It is trained on the model's own images, at
export, or for a model directory that is there, an imported one, too:

  fpgan export --workdir runs/smoke --out models/smoke --aligner-images 6000
  fpgan export --model models/celeba128 --aligner-images 6000 --data photos/
  fpgan export --model robohash32 --aligner-images 6000 --out models/robohash32   (into a copy)"""


def add_arguments(parser: argparse.ArgumentParser):
    """Declares the arguments."""
    parser.add_argument("--workdir", help="directory of the training run")
    parser.add_argument("--out", help="model directory to write")
    parser.add_argument("--model", metavar="MODEL", help="instead of --workdir: a model directory that gets an aligner, and "
                        "whose searches are calibrated; without --aligner-images calibrated alone. With --out a copy of it "
                        "does, which may be of a shipped model")
    parser.add_argument("--step", type=int, help="which checkpoint (default: the newest)")
    parser.add_argument("--name", default="", help="name of the model (default: the directory's)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the stored parameters")
    parser.add_argument("--strength", type=float, help="factor on the strength of the fingerprint: less is harder to "
                        "see and to read (default: the config's export.strength)")
    parser.add_argument("--readout-images", type=not_negative, help="fit the readout to so many generated images, 0 for "
                        "none (default: the config's export.readout_images)")
    parser.add_argument("--aligner-images", type=not_negative, metavar="N", help="train an aligner on so many generated "
                        "images, 0 for none (default: the config's export.aligner_images)")
    parser.add_argument("--aligner-steps", type=positive, metavar="N", help="with --model: steps of 64 views (default: 12 "
                        "views of each image)")
    parser.add_argument("--data", metavar="IMAGES", help="with --model: images that are not the model's, to calibrate the "
                        "searches (default: those that it was trained on, if they are at hand)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="with --workdir: fields of the config's export "
                        "part to set, such as export.aligner_steps=6000")


def run(args: argparse.Namespace) -> int:
    """Exports."""
    if args.model is not None:
        return _add_aligner(args)
    if args.workdir is None or args.out is None:
        raise FpganError("expected --workdir and --out, or --model")
    if args.aligner_steps is not None or args.data is not None:
        raise FpganError("--aligner-steps and --data go with --model; of a run they are export.aligner_steps=N and "
                         "its data")
    from fpgan.training.export import export

    model = export(args.workdir, args.out, args.step, args.name, args.dtype, args.strength, args.readout_images,
                   progress_line("fpgan export"), print, args.aligner_images, args.overrides)
    print(f"{args.out}: model {model.name}, {model.n_bits} bits, {model.resolution}x{model.resolution}, "
          f"{model.info['training']['images_seen']:,} images seen, hash {model.hash}")
    return 0


def _add_aligner(args) -> int:
    """Adds an aligner to a model directory, calibrates the searches, and says how well it does."""
    from fpgan.training.export import add_aligner

    for_runs = ("workdir", "step", "strength", "readout_images")
    if any(getattr(args, name) is not None for name in for_runs) or args.name or args.dtype != "float32" or args.overrides:
        names = ", ".join("--" + name.replace("_", "-") for name in (*for_runs, "name", "dtype"))
        raise FpganError(f"--model goes with --aligner-images, --aligner-steps, --data and --out, and without {names} "
                         "and fields")
    model = add_aligner(args.model, args.aligner_images or 0, args.aligner_steps or 0, data=args.data,
                        progress=progress_line("fpgan export"), out=args.out)
    if args.aligner_images:
        about = model.info["aligner"]
        print(f"{args.out or args.model}: aligner {about['hash']}, {about['views']:,} views of {about['images']:,} images; "
              f"on views of others {about['median_pixels']} pixels off in the middle, at most {about['most_pixels']} in "
              f"95%, {about['turns']:.1%} of the turns right")
    thresholds = (model.info.get("search_thresholds") or {}).items()
    calibrated = ", ".join(f"{search} {value:.3g}" for search, value in thresholds)
    print(f"evenness thresholds of searches: {calibrated or 'none (images to calibrate on: --data)'}")
    return 0
