"""Named lists of perturbations: what a report tries, each from mild to strong within an operation.

- saved: being saved and little more. Ours.
- ordinary: what ordinary use does to an image, and random combinations of two and three of it. Ours.
- waves: "WAVES: Benchmarking the Robustness of Image Watermarks" (An et al. 2024): the single distortions, whose strength
  runs linearly over the ranges rotation 0-45 degrees, resized crop to 1-0.5 of the area, erasing 0-0.25 of the area,
  brightness and contrast 1-2, blur radius 0-20, noise 0-0.1 of the range, JPEG 90-10. Ours: the five steps (0.2 to 1). Its
  combinations are named, not published, and left out.
- stable_signature: "The Stable Signature" (Fernandez et al. 2023): crops and resizing by area, not resized back; rotation;
  JPEG; brightness, contrast, saturation, sharpness; text; one combination. Ours: height and place of the text.
- videoseal: "Video Seal" (Fernandez et al. 2024), its image edits: ratios are of the edge; blurring by a k x k kernel there
  has sigma 0.3 (k - 3) / 2 + 0.8. Ours: sides of the median filter, and which hues between -0.4 and 0.5.
- unmarker: "UnMarker" (Kassis & Hengartner 2025), the plain edits tried there on this very method. Ours: the variance of the
  guided filter; noise of 0.05 is read as of the range from black to white.
- paper: kinds as in the paper of this method (Yu et al. 2022): crop and resize, Gaussian blur, JPEG, Gaussian noise, and
  their combination. Ours: all strengths, and the order of the combination.

A report uses `ordinary` unless told otherwise.
"""

from __future__ import annotations

import difflib

from fpgan.errors import FpganError

REPORT = "ordinary"  # the suite of a report that names none
_WAVES_STEPS = (0.2, 0.4, 0.6, 0.8, 1.0)
_EDGES = (0.95, 0.89, 0.84, 0.77, 0.71, 0.63, 0.55, 0.45, 0.32)
_FACTORS = (0.75, 0.5, 0.25, 0.1, 1.25, 1.5, 1.75, 2)


def _each(name: str, *strengths: float) -> tuple[str, ...]:
    return tuple(f"{name}:{strength:.5g}" for strength in strengths)


SAVED = ("png", "jpeg:75", "resize:0.75", "blur:0.5")

EDITS = (  # single ones, of which combine:2 and combine:3 draw
    "png", *_each("jpeg", *range(95, 69, -1), 50, 30), *_each("jpeg444", *range(95, 69, -1), 50, 30),
    "webp:80", "avif:60", *_each("noise", 8, 16), *_each("blur", 1, 2), *_each("resize", 0.5, 1.5, 1.75, 2), "median:3",
    "colours:32", "grey", *_each("brightness", 0.7, 1.3), *_each("contrast", 0.7, 1.3), *_each("saturation", 0.7, 1.3),
    "flip", *_each("turn", 1, 2, 3), "shift:1,0", "shift:0,-2", "shift:-4,4", "shift:8,-8", *_each("crop", 0.9, 0.75, 0.6),
    "crop_as_is:0.9", *_each("rotate", 3, -3, 6, -6, 15, -15), "screenshot:1.5,85", "caption:0.1", "page:0.6", "phone:2",
)

SUITES: dict[str, tuple[str, ...]] = {
    "saved": SAVED,
    "ordinary": (*EDITS, "combine:2", "combine:3"),
    "waves": (
        *_each("rotate", *(45 * s for s in _WAVES_STEPS)),
        *_each("random_crop", *((1 - 0.5 * s) ** 0.5 for s in _WAVES_STEPS)),
        *_each("erase", *(0.25 * s for s in _WAVES_STEPS)),
        *_each("brightness", *(1 + s for s in _WAVES_STEPS)), *_each("contrast", *(1 + s for s in _WAVES_STEPS)),
        *_each("blur", *(20 * s for s in _WAVES_STEPS)), *_each("noise", *(25.5 * s for s in _WAVES_STEPS)),
        *_each("jpeg", *(90 - 80 * s for s in _WAVES_STEPS)),
    ),
    "stable_signature": (
        *_each("crop_as_is", 0.5**0.5, 0.1**0.5), *_each("scale", 0.5**0.5, 0.1**0.5), *_each("rotate", 25, 90),
        *_each("jpeg", 80, 50), *_each("brightness", 1.5, 2), *_each("contrast", 1.5, 2), *_each("saturation", 1.5, 2),
        *_each("sharpen", 1.5, 2), "overlay:0.15", "crop_as_is:0.70711+brightness:1.5+jpeg:80",
    ),
    "videoseal": (
        "flip", *_each("rotate", 5, 10, 30, 45, 90), *_each("scale", *_EDGES), *_each("random_crop_as_is", *_EDGES),
        *_each("perspective", *(k / 10 for k in range(1, 9))), *_each("brightness", *_FACTORS),
        *_each("contrast", *_FACTORS), *_each("hue", *(k / 10 for k in range(-4, 6) if k)), "grey",
        *_each("jpeg", *range(90, 30, -10)), *_each("blur", *(0.3 * (k - 3) / 2 + 0.8 for k in (3, 5, 9, 13, 17))),
        *_each("median", 3, 5, 7), *(f"jpeg:{quality}+random_crop_as_is:0.71+brightness:0.5" for quality in (80, 60, 40)),
    ),
    "unmarker": ("crop:0.9", "jpeg:80", "blur:1", "guided:5,0.01", "noise:12.75", "quantise:8"),
    "paper": (
        *_each("crop", 0.95, 0.9, 0.8, 0.7, 0.6, 0.5), *_each("blur", 0.5, 1, 1.5, 2, 3, 4),
        *_each("jpeg", 90, 80, 70, 60, 50, 40, 30, 20, 10), *_each("noise", 4, 8, 12, 16, 24, 32),
        "crop:0.95+blur:0.5+jpeg:90+noise:4", "crop:0.9+blur:1+jpeg:70+noise:8", "crop:0.8+blur:2+jpeg:50+noise:16",
    ),
}


def suite(name: str) -> tuple[str, ...]:
    """Returns the perturbations of a suite, as they are spelt.

    Raises:
      FpganError: there is none of that name; the nearest one is named.
    """
    if name not in SUITES:
        near = difflib.get_close_matches(name, SUITES, n=1, cutoff=0)[0]
        raise FpganError(f"there is no suite {name!r}; the nearest suite is {near!r}, expected one of {', '.join(SUITES)}")
    return SUITES[name]
