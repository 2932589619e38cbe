"""`fpgan demo`: the main job from end to end: issue, generate, write, re-save and move, read back, attribute."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fpgan.cli.options import add_model_argument
from fpgan.errors import FpganError, missing_extra

if TYPE_CHECKING:
    import numpy as np

    from fpgan.attribution.registry import Registry
    from fpgan.decoding.rows import Row
    from fpgan.model.model import Model

EXAMPLE = """\
example: everything once

  fpgan demo
  fpgan demo --out somewhere --model models/mine --fpr 1e-9"""

USERS = ("alice", "bob", "carol")
PER_USER = 8
PICTURE = "picture.png"
EDITS = ("jpeg:70", "screenshot:1.5,85", "flip", "shift:3,-2", "crop:0.9", "rotate:5")  # what people do to images
_WRITTEN = {"registry.csv", "images", "edited", "not_ours", "verdicts.csv", PICTURE}  # by which an earlier demo is known
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")  # inside scikit-image
RESIDUAL_GAIN = 4  # how much the differences in the picture's last row are amplified
CELL = 128  # pixels a side of an image in the picture


def add_arguments(parser: argparse.ArgumentParser):
    """Declares the arguments."""
    parser.add_argument("--out", default="fpgan-demo", help="new folder for everything it writes (default: fpgan-demo)")
    add_model_argument(parser, "a shipped model or a model directory")
    parser.add_argument("--fpr", type=float, default=1e-6, help="false-positive rate per image (default: 1e-6)")


def run(args: argparse.Namespace) -> int:
    """Runs the demo and prints its table."""
    from fpgan.perturbations.gallery import SHEET

    folder = Path(args.out)
    rows = run_demo(folder, args.model, args.fpr, print)
    print("\n".join(summarise(rows, folder)))
    print(f"\nAn image is attributed if chance would do it at most once in {1 / args.fpr:g} images.")
    print(f"every image's verdict: {folder / 'verdicts.csv'}")
    print(f"pictures: {folder / PICTURE} (a row per user, a latent per column; last row: the first user's images "
          f"minus the second's, times {RESIDUAL_GAIN}, on grey), {folder / 'edited' / USERS[0] / SHEET}")
    return 0


def run_demo(folder: str | Path, model_name: str, false_positive_rate: float,
             report: Callable[[str], None]) -> list[Row]:
    """Runs the demo in a new folder.

    Writes FOLDER/registry.csv, FOLDER/images (one folder per user, with a manifest), FOLDER/edited (the same images after
    each of EDITS), FOLDER/not_ours, FOLDER/verdicts.csv and FOLDER/picture.png. Fingerprints and latents are drawn anew on
    every run.

    Args:
      folder: new, or an earlier demo's, which is replaced when this one is done.
      model_name: a shipped model or a model directory.
      false_positive_rate: of an attribution, per image over all users.
      report: is given each line for the reader.

    Returns:
      A row per image, with its verdict: the users' images, these after edits, and those of others.

    Raises:
      FpganError: if the folder is somebody else's, or a package of the extra `demo` is missing.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and {path.name for path in folder.iterdir()} == _WRITTEN):
        raise FpganError(f"{folder} exists and is no earlier demo; choose a new folder with --out")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        rows = _run(temporary, model_name, false_positive_rate, report)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.chmod(0o755)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return [dataclasses.replace(row, file=str(folder / Path(row.file).relative_to(temporary))) for row in rows]


def _run(folder: Path, model_name: str, false_positive_rate: float, report: Callable[[str], None]) -> list[Row]:
    """As run_demo, in an empty folder."""
    import secrets

    from fpgan.attribution import issue, write
    from fpgan.decoding.decode import DecodeJob
    from fpgan.decoding.rows import row_file
    from fpgan.generation.generate import generate_set
    from fpgan.io.files import write_file
    from fpgan.io.images import encode_png
    from fpgan.io.listing import image_sources
    from fpgan.model.model import load
    from fpgan.perturbations.gallery import perturb_files

    model = load(model_name)
    report(f"model {model.name}: {model.n_bits} bits in images of {model.resolution}x{model.resolution} pixels, "
           f"hash {model.hash}")
    others = write_images_not_ours(folder / "not_ours", model.resolution)
    registry = issue(USERS, model.n_bits)
    write(registry, folder / "registry.csv")
    seed = secrets.randbelow(2**31)
    generate_set(model, registry, folder / "images", per_user=PER_USER, seed=seed)
    edited = []
    for user in USERS:
        edited += perturb_files([folder / "images" / user], EDITS, folder / "edited" / user)[:-1]  # the sheet is the last
    report(f"wrote {len(USERS) * PER_USER} images of {len(USERS)} users, each after {len(EDITS)} edits, and {others} of "
           "another origin; now reading them back\n")
    rows: list[Row] = []
    with row_file(folder / "verdicts.csv", "csv", with_verdict=True) as write:
        sources = image_sources([folder / "images", *edited, folder / "not_ours"])
        DecodeJob(model, registry, false_positive_rate).run(sources, [write, rows.append])
    picture = draw_picture(model, registry, seed)
    write_file(folder / PICTURE, encode_png(picture))
    return rows


def write_images_not_ours(folder: Path, resolution: int) -> int:
    """Writes images that no instance made: photos, and cats of the kind that the model was trained on.

    Returns:
      How many.
    """
    import importlib.resources

    import numpy as np

    from fpgan.data.robohash import render_cats
    from fpgan.io.files import write_file
    from fpgan.io.images import encode_png, read_image

    try:
        photos = importlib.resources.files("skimage") / "data"
        cats = render_cats(np.arange(PER_USER), resolution)
    except ModuleNotFoundError as error:
        raise missing_extra(error.name, "demo") from None
    for i, cat in enumerate(cats):
        write_file(folder / f"training-{i}.png", encode_png(cat))
    for name in PHOTOS:
        photo, _ = read_image((photos / name).read_bytes(), resolution)
        write_file(folder / f"photo-{Path(name).stem}.png", encode_png(photo))
    return len(cats) + len(PHOTOS)


def summarise(rows: list[Row], folder: Path) -> list[str]:
    """Returns the demo's table: one line per origin, with how many of its images were attributed, and to whom.

    Args:
      rows: a row per image, with its verdict.
      folder: the demo's folder, in whose sub-folders the images lie.

    Returns:
      Lines of text, header first.
    """
    import numpy as np

    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(origin(Path(row.file).relative_to(folder)), []).append(row)
    lines = [f"{'images of':<24}{'images':>7}  {'attributed to':<28}{'median matches':>15}{'median log10 p':>16}"]
    for name, members in groups.items():
        matches = np.median([row.verdict.matches for row in members])
        log10_p = np.median([row.verdict.log10_p for row in members])
        to = _named(members, folder)
        lines.append(f"{name:<24}{len(members):>7}  {to:<28}{matches:>8.0f} of {len(members[0].logits)}{log10_p:>16.1f}")
    return lines


def _named(rows: list[Row], folder: Path) -> str:
    """Says to whom images were attributed: by name, or of those that were edited to how many of their own users."""
    named = Counter(row.verdict.user or "nobody" for row in rows)
    places = [Path(row.file).relative_to(folder).parts for row in rows]
    if places[0][0] == "edited":
        named = Counter("their users" if row.verdict.user == place[1] else "others" if row.verdict.user else "nobody"
                        for row, place in zip(rows, places, strict=True))
    if list(named) == ["nobody"]:
        return "nobody"
    return ", ".join(f"{user} ({named[user]})" for user in sorted(named, key=lambda user: (user == "nobody", user)))


def origin(path: Path) -> str:
    """Says where an image of the demo comes from: a user's name, what was done to it, "photos" or "training images"."""
    if path.parts[0] == "images":
        return path.parts[1]
    if path.parts[0] == "edited":
        return "after " + path.parts[2].replace("_", ":")
    return "photos" if path.name.startswith("photo") else "training images"


def draw_picture(model: Model, registry: Registry, seed: int) -> np.ndarray:
    """Draws a row of images per user, one latent a column, and below the residual between the first two users.

    Returns:
      uint8 [H, W, 3].
    """
    import numpy as np

    from fpgan.io.images import grid

    seeds = (seed + np.arange(PER_USER)) % 2**32
    images = np.stack([model.generate(bits, seeds) for bits in registry.bits])  # [users, latents, R, R, 3]
    residual = images[0].astype(np.int64) - images[1]
    last = np.clip(128 + RESIDUAL_GAIN * residual, 0, 255).astype(np.uint8)
    return grid(np.concatenate([images, last[None]]), scale=max(1, CELL // model.resolution))
