"""Edits that leave every point in its place: blur, noise, resampling, tone and colour, coarser levels, erasing."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from fpgan.perturbations.operation import Perturbation, Strength

_RESAMPLING = {"resize": "BICUBIC", "resize_bilinear": "BILINEAR", "resize_lanczos": "LANCZOS", "resize_nearest": "NEAREST"}


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blurs by Pillow's Gaussian of `sigma` pixels (three box filters of that variance)."""
    return np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))


def median(image: np.ndarray, side: int) -> np.ndarray:
    """Takes the median over `side` x `side` pixels, in each channel."""
    return np.array(Image.fromarray(image).filter(ImageFilter.MedianFilter(side)))


def guided_blur(image: np.ndarray, side: int, epsilon: float) -> np.ndarray:
    """Smooths flat areas and keeps edges: the guided filter, each channel its own guide (He et al. 2010, equations 5 to 8).

    Args:
      image: uint8 [H, W, 3].
      side: of the square window, in pixels.
      epsilon: variance, of values in [0, 1], up to which an area counts as flat.
    """
    from scipy.ndimage import uniform_filter

    mean = functools.partial(uniform_filter, size=(side, side, 1), mode="nearest")
    values = image.astype(np.float64) / 255
    average = mean(values)
    variance = np.maximum(mean(values * values) - average * average, 0)
    gain = variance / (variance + epsilon)
    return _levels(255 * (mean(gain) * values + mean((1 - gain) * average)))


def noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Adds Gaussian noise of `sigma` grey levels, independent in each pixel and channel."""
    return _levels(image + rng.normal(0, sigma, image.shape))


def resize_and_back(image: np.ndarray, fraction: float, kernel: str) -> np.ndarray:
    """Resizes to a fraction of the side and back to the old size, with Pillow's antialiasing.

    Args:
      image: uint8 [H, W, 3].
      fraction: new side / old side.
      kernel: a name of PIL.Image.Resampling.
    """
    picture, resampling = Image.fromarray(image), Image.Resampling[kernel]
    size = tuple(max(1, round(fraction * side)) for side in picture.size)
    return np.array(picture.resize(size, resampling).resize(picture.size, resampling))


def enhance(image: np.ndarray, factor: float, kind: str) -> np.ndarray:
    """Mixes the image with a plain version of itself by Pillow's ImageEnhance; a factor of 1 changes nothing.

    Args:
      image: uint8 [H, W, 3].
      factor: 0 gives the plain version; above 1 goes away from it.
      kind: "Brightness" (plain: black), "Contrast" (its mean grey), "Color" (grey) or "Sharpness" (smoothed 3x3).
    """
    return np.array(getattr(ImageEnhance, kind)(Image.fromarray(image)).enhance(factor))


def gamma(image: np.ndarray, exponent: float) -> np.ndarray:
    """Raises values in [0, 1] to a power: above 1 darkens."""
    return _levels(255 * (np.arange(256) / 255) ** exponent)[image]


def hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Turns the hue in Pillow's 8-bit HSV by a part of the colour circle: 0.5 gives opposite colours."""
    hues, *rest = Image.fromarray(image).convert("HSV").split()
    turned = np.asarray(hues) + np.uint8(round(256 * turn) % 256)  # [H, W]; wraps around
    return np.array(Image.merge("HSV", (Image.fromarray(turned), *rest)).convert("RGB"))


def grey(image: np.ndarray) -> np.ndarray:
    """Replaces the colours by their luma (ITU-R 601-2)."""
    return np.array(Image.fromarray(image).convert("L").convert("RGB"))


def invert(image: np.ndarray) -> np.ndarray:
    """Swaps black and white: the negative."""
    return 255 - image


def quantise(image: np.ndarray, levels: int) -> np.ndarray:
    """Rounds each channel to so many evenly spaced levels from 0 to 255."""
    steps = np.rint(np.arange(256) * ((levels - 1) / 255))
    return _levels(steps * (255 / (levels - 1)))[image]


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keeps the highest bits of each channel, by Pillow."""
    return np.array(ImageOps.posterize(Image.fromarray(image), bits))


def erase(image: np.ndarray, area: float, rng: np.random.Generator) -> np.ndarray:
    """Paints a black square over a part of the area, at a random place."""
    height, width = image.shape[:2]
    side = round((area * height * width) ** 0.5)
    high, wide = min(side, height), min(side, width)
    top, left = rng.integers(0, height - high + 1), rng.integers(0, width - wide + 1)
    erased = image.copy()
    erased[top:top + high, left:left + wide] = 0
    return erased


def _levels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _enhancement(name: str, kind: str, meaning: str, example: str) -> Perturbation:
    return Perturbation(name, meaning, example, functools.partial(enhance, kind=kind),
                        (Strength("factor, 1: as it is", 0, 10),))


_WINDOW = Strength("side in pixels", 3, 15, choices=(3, 5, 7, 9, 11, 13, 15))
FILTERS = (
    Perturbation("blur", "Gaussian blur (Pillow)", "blur:1", blur, (Strength("sigma in pixels", 0, 50),)),
    Perturbation("median", "median filter", "median:3", median, (_WINDOW,)),
    Perturbation("guided", "guided filter, the image its own guide", "guided:5,0.01", guided_blur,
                 (_WINDOW, Strength("flat up to this variance of values in [0, 1]", 1e-6, 1))),
    Perturbation("noise", "Gaussian noise", "noise:8", noise, (Strength("sigma in grey levels", 0, 128),), random=True),
    *(Perturbation(name, f"resized and back, {kernel.lower()}", f"{name}:0.5",
                   functools.partial(resize_and_back, kernel=kernel),
                   (Strength("side on the way / old side", 0.05, 8),)) for name, kernel in _RESAMPLING.items()),
    _enhancement("sharpen", "Sharpness", "sharpened (Pillow)", "sharpen:2"),
    _enhancement("brightness", "Brightness", "values times a factor", "brightness:1.3"),
    _enhancement("contrast", "Contrast", "differences to the mean grey times a factor", "contrast:1.3"),
    _enhancement("saturation", "Color", "differences to grey times a factor", "saturation:1.3"),
    Perturbation("gamma", "values to a power; above 1 darkens", "gamma:1.3", gamma, (Strength("exponent", 0.1, 10),)),
    Perturbation("hue", "hue turned around the colour circle", "hue:0.1", hue, (Strength("part of a turn", -0.5, 0.5),)),
    Perturbation("grey", "without colour", "grey", grey),
    Perturbation("invert", "the negative", "invert", invert),
    Perturbation("quantise", "rounded to evenly spaced levels", "quantise:8", quantise,
                 (Strength("levels of each channel", 2, 256, whole=True),)),
    Perturbation("posterize", "lowest bits set to 0", "posterize:4", posterize,
                 (Strength("bits kept of each channel", 1, 8, whole=True),)),
    Perturbation("erase", "a black square at a random place", "erase:0.1", erase, (Strength("share of the area", 0, 0.9),),
                 random=True),
)
