"""fpgan data: prepares training images for reading at random access."""

import argparse

EXAMPLE = """\
example: draw the cats of the shipped models, prepare photos, a set in MNIST's format, and what a
config asks for

  fpgan data --name robohash_cats --resolution 64 --images 50000
  fpgan data --name folder --path photos.zip --resolution 128 --data-dir /big/disk
  fpgan data --name folder --path fashion/train-images-idx3-ubyte.gz --resolution 32
  fpgan data --config configs/folder.py data.path=photos

Cats are the same images whether prepared or rendered while training. Your own images are
cropped to their central square and resized; files that cannot be used are named and left out.
Killed anywhere, the command leaves nothing that training would take for a whole set: run it
again. Run again when all is done, it does nothing.
"""

_SHOWN = 20  # files named on the terminal


def add_arguments(parser: argparse.ArgumentParser):
    """Declares the arguments."""
    parser.add_argument("--config", help="take the data part of this config file, such as configs/robohash64.py")
    parser.add_argument("--name", choices=("robohash_cats", "robohash_monsters", "robohash_heads", "folder", "tfds"),
                        metavar="NAME", help="robohash_cats, robohash_monsters or robohash_heads, rendered; folder, your "
                                             "own images; or tfds, a public set by TFDS")
    parser.add_argument("--resolution", type=int, help="side length of the prepared images in pixels")
    parser.add_argument("--images", dest="count", type=int, help="how many of a RoboHash set (default: all, 360,000 cats)")
    parser.add_argument("--path", help="the folder, zip or IDX file (MNIST's) of your own images")
    parser.add_argument("--crop", help="center (default), none (for square images), celeba128")
    parser.add_argument("--tfds-name", help="a public set, such as celeb_a or lsun/bedroom")
    parser.add_argument("--data-dir", help="where prepared sets are kept (default: data)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="fields of the config to set, dotted")


def run(args: argparse.Namespace) -> int:
    """Prepares the images and says what came of it."""
    from fpgan.cli.terminal import progress_line
    from fpgan.data.prepare import prepare

    report = prepare(*_settings(args), progress_line("data"))
    print(f"{report.folder}: {report.images:,} images"
          + ("; already prepared, nothing to do" if report.nothing_to_do else ""))
    print(f"licence: {report.licence or 'not stated'}")
    if report.reduced or report.enlarged:
        print(f"scaled down: {report.reduced:,}; scaled up from fewer pixels: {report.enlarged:,}")
    _print_files("skipped", [f"{name}: {reason}" for name, reason in report.skipped], report.folder)
    _print_files("not images by their names", report.others, report.folder)
    return 0


def _settings(args):
    """Returns the data part of the config, if there is one, with the flags laid over it, and the resolution."""
    from fpgan.errors import FpganError

    data, resolution = {}, args.resolution
    if args.config:
        from fpgan.training.config import load
        config = load(args.config, args.overrides)
        data, resolution = config.data.to_dict(), config.network.resolution if resolution is None else resolution
    elif args.overrides:
        raise FpganError(f"{args.overrides[0]!r} sets a field of a config; give --config FILE too")
    flags = ("name", "count", "path", "crop", "tfds_name", "data_dir")
    data |= {flag: getattr(args, flag) for flag in flags if getattr(args, flag) is not None}
    for flag, value in (("name", data.get("name")), ("resolution", resolution)):
        if value is None:
            raise FpganError(f"no --{flag} given; expected --name and --resolution, or --config FILE")
    return data, resolution


def _print_files(what, lines, folder):
    if lines:
        print(f"{what}: {len(lines):,}")
        for line in lines[:_SHOWN]:
            print(f"  {line}")
        if len(lines) > _SHOWN:
            print(f"  and {len(lines) - _SHOWN:,} more, listed in {folder / 'metadata.json'}")
