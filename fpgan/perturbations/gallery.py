"""Perturbed copies of image files, and one picture on which people see what each perturbation does: `fpgan perturb`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fpgan.errors import FpganError
from fpgan.io.files import write_file
from fpgan.io.images import encode_png, grid, read_image
from fpgan.io.listing import list_images
from fpgan.perturbations.registry import Chain, parse, perturb, spell

SHEET = "sheet.png"
_SHOWN = 8  # images on the sheet
_CELL = 128  # pixels a side
_PAD = 4
_LETTERS = 14  # pixels high


def perturb_files(paths: Iterable[str | os.PathLike], specs: Sequence[str], out: str | os.PathLike, seed: int = 0,
                  progress: Callable[[int, int], None] = lambda done, total: None) -> list[Path]:
    """Writes perturbed copies of images, and a contact sheet of the first ones.

    Each perturbation has a folder of its own, named like it with "_" for ":"; a copy is a PNG, or the codec's own file when
    a codec comes last, named like the original. Files of these names are replaced.

    Args:
      paths: image files, folders or patterns.
      specs: perturbations, such as "crop:0.9+jpeg:80".
      out: the folder to write into.
      seed: of what is random; the place of an image in the list is its index.
      progress: is given the numbers of images done and in all.

    Returns:
      The files written, the sheet last.

    Raises:
      FpganError: a perturbation is unknown or given twice, or an image cannot be read.
    """
    chains = [parse(spec) for spec in specs]
    names = [spell(chain) for chain in chains]
    if twice := [name for name in names if names.count(name) > 1]:
        raise FpganError(f"perturbation {twice[0]} is given twice; expected each once")
    images = list_images(paths)
    stems = _distinct(path.stem for path in images)
    rows: dict[str, list[np.ndarray]] = {name: [] for name in ("original", *names)}
    written = []
    for index, (path, stem) in enumerate(zip(images, stems, strict=True)):
        image, _ = read_image(path)
        shown = {"original": image}
        for name, chain in zip(names, chains, strict=True):
            data, suffix = encode_perturbed(chain, image, np.random.SeedSequence([seed, index]))
            written.append(Path(out, name.replace(":", "_"), stem + suffix))
            write_file(written[-1], data)
            shown[name] = read_image(data)[0] if index < _SHOWN else image
        if index < _SHOWN:
            for name, one in shown.items():
                rows[name].append(one)
        progress(index + 1, len(images))
    written.append(Path(out, SHEET))
    write_file(written[-1], encode_png(contact_sheet(rows)))
    return written


def encode_perturbed(chain: Chain, image: np.ndarray, key: np.random.SeedSequence) -> tuple[bytes, str]:
    """Applies a chain and encodes the result, by its last operation if that is a codec, as PNG otherwise.

    Args:
      chain: what `registry.parse` returns.
      image: uint8 [H, W, 3].
      key: of what is random, as in `registry.perturb`.

    Returns:
      The file's content and the ending of its name. Decoded, it is exactly `registry.perturb(chain, image, key)`.
    """
    last = chain[-1].operation
    if last.encode is None:
        return encode_png(perturb(chain, image, key)), ".png"
    return last.encode(perturb(chain[:-1], image, key), *chain[-1].strengths), last.suffix


def contact_sheet(rows: dict[str, Sequence[np.ndarray]]) -> np.ndarray:
    """Draws a row of images for each name, which stands at its left.

    Args:
      rows: name -> images, uint8 [H, W, 3] of any sizes; large ones are shrunk, small ones enlarged by a whole number.

    Returns:
      uint8 [height, width, 3].
    """
    font = ImageFont.load_default(_LETTERS)
    label_width = round(max(font.getlength(name) for name in rows)) + 2 * _PAD
    columns = max(map(len, rows.values()))
    cells = np.full((len(rows), columns, _CELL, _CELL, 3), 255, np.uint8)
    for row, images in zip(cells, rows.values(), strict=True):
        for cell, image in zip(row, images, strict=False):
            shown = _fitted(image)
            top, left = (_CELL - shown.shape[0]) // 2, (_CELL - shown.shape[1]) // 2
            cell[top:top + shown.shape[0], left:left + shown.shape[1]] = shown
    pictures = grid(cells, pad=_PAD)
    sheet = Image.new("RGB", (label_width + pictures.shape[1], pictures.shape[0]), "white")
    sheet.paste(Image.fromarray(pictures), (label_width, 0))
    draw = ImageDraw.Draw(sheet)
    for place, name in enumerate(rows):
        draw.text((_PAD, _PAD + place * (_CELL + _PAD) + _CELL // 2), name, "black", font=font, anchor="lm")
    return np.array(sheet)


def _fitted(image: np.ndarray) -> np.ndarray:
    """Fits an image into a cell: pixels repeated, or antialiased if there are too many."""
    height, width = image.shape[:2]
    if max(height, width) <= _CELL:
        times = _CELL // max(height, width)
        return image.repeat(times, axis=0).repeat(times, axis=1)
    size = [max(1, round(side * _CELL / max(height, width))) for side in (width, height)]
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _distinct(stems: Iterable[str]) -> list[str]:
    """Names files of the same name apart: a, b, a -> a, b, a-2."""
    seen: set[str] = set()
    names = []
    for stem in stems:
        number, name = 1, stem
        while name in seen:
            number += 1
            name = f"{stem}-{number}"
        seen.add(name)
        names.append(name)
    return names
