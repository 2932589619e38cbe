"""What people put around and over a picture: borders, captions, text, a page, a phone's screen, a screenshot."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fpgan.io.images import read_image
from fpgan.perturbations.codecs import encode_jpeg
from fpgan.perturbations.geometry import Size, fill_from, scaled_size
from fpgan.perturbations.operation import Perturbation, Placement, Strength

_WORDS = ("the cat sat in the evening sun and looked at people who passed by the old house near our river today "
          "photo by a friend shared with you and more than forty others").split()
_SCREEN = 19.5 / 9  # height of a phone's screen / its width
_STATUS_BAR = 0.04  # of the screen's height
_BICUBIC = Image.Resampling.BICUBIC


def border(image: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Puts a frame of one colour around, `fraction` of the shorter side wide: white, black or any colour, as drawn."""
    width = _frame_width(image.shape[:2], fraction)
    colour = [(255,) * 3, (0,) * 3, tuple(rng.integers(0, 256, 3))][rng.integers(3)]
    framed = np.empty((image.shape[0] + 2 * width, image.shape[1] + 2 * width, 3), np.uint8)
    framed[:] = colour
    framed[width:width + image.shape[0], width:width + image.shape[1]] = image
    return framed


def place_border(size: Size, fraction: float, rng: np.random.Generator) -> Placement:
    """Returns where `border` puts the picture."""
    (height, width), frame = size, _frame_width(size, fraction)
    matrix = fill_from((-frame, -frame, width + frame, height + frame), size)
    return Placement(matrix, (height + 2 * frame, width + 2 * frame))


def page(image: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Lays the picture, pixel by pixel, at a random place on a square page of text, of whose side it takes a fraction."""
    size, left, top = _on_page(image.shape[:2], fraction, rng)
    sheet, ground = _sheet(size, rng)
    return _laid(sheet, ground, image, left, top)


def place_page(size: Size, fraction: float, rng: np.random.Generator) -> Placement:
    """Returns where `page` puts the picture."""
    new, left, top = _on_page(size, fraction, rng)
    return Placement(fill_from((-left, -top, new[1] - left, new[0] - top), size), new)


def phone(image: np.ndarray, magnification: float, rng: np.random.Generator) -> np.ndarray:
    """Shows the picture on a phone's upright screen, over its whole width, between a status bar and text.

    Args:
      image: uint8 [H, W, 3].
      magnification: pixels of the screen / pixels of the picture, bicubic.
      rng: draws the height at which it stands, and the screen's colours.
    """
    size, shown, top = _on_phone(image.shape[:2], magnification, rng)
    screen, ground = _sheet(size, rng)
    magnified = Image.fromarray(image).resize(shown[::-1], _BICUBIC)
    screen = _laid(screen, ground, np.array(magnified), 0, top)
    screen[:round(_STATUS_BAR * size[0])] = 255 - ground
    return screen


def place_phone(size: Size, magnification: float, rng: np.random.Generator) -> Placement:
    """Returns where `phone` puts the picture."""
    new, shown, top = _on_phone(size, magnification, rng)
    height, width = size
    scale = height / shown[0]  # pixels of the picture / pixels of the screen
    return Placement(fill_from((0, -top * scale, width, (new[0] - top) * scale), size), new)


def screenshot(image: np.ndarray, magnification: float, quality: int) -> np.ndarray:
    """Magnifies, saves as JPEG 4:2:0, and brings back to the old size, bicubic: what is shown larger and caught again."""
    picture = Image.fromarray(image)
    height, width = scaled_size(image.shape[:2], magnification)
    shown = np.array(picture.resize((width, height), _BICUBIC))
    caught, _ = read_image(encode_jpeg(shown, quality))
    return np.array(Image.fromarray(caught).resize(picture.size, _BICUBIC))


def caption(image: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Covers a fraction of the height, at the top or the bottom, by a black or white bar with a line of text."""
    height = max(1, round(fraction * image.shape[0]))
    top = 0 if rng.random() < 0.5 else image.shape[0] - height
    ground = 0 if rng.random() < 0.5 else 255
    captioned = image.copy()
    captioned[top:top + height] = ground
    return _written(captioned, [(1, top, _words(rng, 12))], 0.8 * height, (255 - ground,) * 3)


def overlay(image: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Writes a line of text over the picture, in letters of a fraction of its height, at a random place, in one colour."""
    height, width = image.shape[:2]
    left, top = rng.uniform(0, 0.5) * width, rng.uniform(0, 1 - min(1, fraction)) * height
    return _written(image, [(left, top, _words(rng, 8))], fraction * height, tuple(int(c) for c in rng.integers(0, 256, 3)))


def _laid(sheet: np.ndarray, ground: np.ndarray, image: np.ndarray, left: int, top: int) -> np.ndarray:
    """Lays an image on a sheet, whose ground keeps the text off the image."""
    height, width = image.shape[:2]
    margin = max(1, round(0.05 * width))
    sheet[max(0, top - margin):top + height + margin, max(0, left - margin):left + width + margin] = ground
    sheet[top:top + height, left:left + width] = image
    return sheet


def _on_page(size: Size, fraction: float, rng: np.random.Generator) -> tuple[Size, int, int]:
    """Draws size of the page, and left and top of the picture on it."""
    side = max(*size, round(max(size) / fraction))
    left, top = (int(rng.integers(0, side - length + 1)) for length in size[::-1])
    return (side, side), left, top


def _on_phone(size: Size, magnification: float, rng: np.random.Generator) -> tuple[Size, Size, int]:
    """Draws size of the screen, size of the picture on it, and the picture's top."""
    shown = scaled_size(size, magnification)
    height = max(round(_SCREEN * shown[1]), 2 + round(shown[0] / (1 - 2 * _STATUS_BAR)))
    least = 1 + round(_STATUS_BAR * height)
    return (height, shown[1]), shown, int(rng.integers(least, height - shown[0] + 1))


def _sheet(size: Size, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws a page of text, dark letters on light ground or light ones on dark; returns the page and its ground [3]."""
    ground, ink = [((255,) * 3, (30,) * 3), ((244, 241, 234), (60, 50, 40)), ((18,) * 3, (220,) * 3)][rng.integers(3)]
    sheet = np.empty((*size, 3), np.uint8)
    sheet[:] = ground
    line = max(6, size[1] / 24)
    tops = np.arange(0.6 * line, size[0] - 2 * line, 1.5 * line)
    return _written(sheet, [(line / 2, top, _words(rng, 12)) for top in tops], line, ink), np.array(ground, np.uint8)


def _written(image: np.ndarray, lines: list[tuple[float, float, str]], height: float, colour: tuple[int, ...]) -> np.ndarray:
    """Writes lines of text (left, top, words) in letters of a height in pixels."""
    picture = Image.fromarray(image)
    draw, font = ImageDraw.Draw(picture), _font(max(4, round(height)))
    for left, top, words in lines:
        draw.text((left, top), words, colour, font=font)
    return np.array(picture)


@functools.lru_cache(8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _words(rng: np.random.Generator, count: int) -> str:
    return " ".join(_WORDS[i] for i in rng.integers(0, len(_WORDS), count))


def _frame_width(size: Size, fraction: float) -> int:
    return max(1, round(fraction * min(size)))


_MAGNIFIED = Strength("pixels shown / pixels of the picture", 0.5, 8)
SURROUNDINGS = (
    Perturbation("border", "a frame of one colour around", "border:0.1", border,
                 (Strength("width / shorter side", 0, 1),), random=True, place=place_border),
    Perturbation("page", "somewhere on a square page of text", "page:0.6", page,
                 (Strength("side of the picture / side of the page", 0.1, 1),), random=True, place=place_page),
    Perturbation("phone", "on a phone's screen, at full width", "phone:2", phone, (_MAGNIFIED,), random=True,
                 place=place_phone),
    Perturbation("screenshot", "shown larger, saved as JPEG, brought back", "screenshot:1.5,85", screenshot,
                 (_MAGNIFIED, Strength("quality of the JPEG", 1, 100, whole=True))),
    Perturbation("caption", "a bar with text over the top or the bottom", "caption:0.1", caption,
                 (Strength("share of the height", 0.02, 0.5),), random=True),
    Perturbation("overlay", "text written over it", "overlay:0.15", overlay,
                 (Strength("height of the letters / height of the picture", 0.02, 1),), random=True),
)
