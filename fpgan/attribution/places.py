"""Where the picture lies in an image, as certificates say it: written, checked, compared.

A search (`fpgan.model.reading`) finds a pose: it takes a point of the picture to its place in the image, both from -1 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fpgan.errors import FpganError, shown
from fpgan.io.inputs import Field, check_fields

IDENTITY = {"kind": "identity", "pose": None, "poses_tried": 1}  # the image was decoded as it is
_TOLERANCE = 0.05  # pixels by which another device may find a corner of the picture elsewhere
_CORNERS = np.array([(-1, -1, 1), (1, -1, 1), (1, 1, 1), (-1, 1, 1)], np.float64)
_SEARCH_FIELDS = {"search": Field(str, choices=("fast", "full")), "aligner": Field(str, 16, 16, optional=True)}
_ALIGNMENT_FIELDS = {"kind": Field(str, choices=("identity", "homography")), "pose": Field(list, 3, 3, optional=True),
                     "poses_tried": Field(int, 1)}


def alignment_entry(pose: np.ndarray | None, poses_tried: int) -> dict:
    """Returns what a certificate says about where the picture lies in an image.

    Args:
      pose: float32 [3, 3]; the identity or None for an image that was read as it is.
      poses_tried: how many the search tries.
    """
    if pose is None or np.array_equal(pose, np.eye(3)):
        return IDENTITY | {"poses_tried": poses_tried}
    entries = [[float(str(value)) for value in row] for row in np.asarray(pose, np.float32)]
    return {"kind": "homography", "pose": entries, "poses_tried": poses_tried}


def check_alignment(file: str, alignment: Mapping, search: Mapping | None) -> None:
    """Checks that what a certificate says of the place of the picture makes sense.

    Args:
      file: the image's name, for messages.
      alignment: what `alignment_entry` returned, supposedly.
      search: the certificate's; None if there was none, and each image is to be read as it is.

    Raises:
      FpganError: it does not.
    """
    if search is None:
        if alignment != IDENTITY:
            raise FpganError(f"{file}: the image was aligned ({shown(alignment.get('kind'), 40)}), but no search is named")
        return
    check_fields(search, _SEARCH_FIELDS, "the search of the certificate")
    check_fields(alignment, _ALIGNMENT_FIELDS, f"{file}: the alignment")
    pose = alignment["pose"]
    if (pose is None) != (alignment["kind"] == "identity"):
        raise FpganError(f"{file}: the alignment is of the kind {alignment['kind']!r}, and has another pose")
    if pose is not None:
        entries = np.asarray(pose, np.float64)
        if entries.shape != (3, 3) or not np.isfinite(entries).all() or not (_CORNERS @ entries.T)[:, 2].all():
            raise FpganError(f"{file}: the pose {shown(pose)} is no homography: 3 by 3 finite numbers")


def is_same_place(claimed: Mapping, found: Mapping, resolution: int) -> bool:
    """Tells whether two alignments put the picture's corners into the same places, but for what devices round otherwise.

    Args:
      claimed, found: what `alignment_entry` returned.
      resolution: of the images in pixels.
    """
    if (claimed["kind"], claimed["poses_tried"]) != (found["kind"], found["poses_tried"]) or claimed["pose"] is None:
        return claimed == found
    first, second = (_CORNERS @ np.asarray(one["pose"], np.float64).T for one in (claimed, found))  # [4, 3]
    with np.errstate(all="ignore"):  # a claimed pose may be anything
        apart = first[:, :2] / first[:, 2:] - second[:, :2] / second[:, 2:]
    return bool(np.linalg.norm(apart, axis=1).max() * resolution / 2 <= _TOLERANCE)


def told(alignment: Mapping) -> str:
    """Says where an alignment puts the picture."""
    places = f"by the pose {alignment['pose']}" if alignment["pose"] else "as it is"
    return f"{places} (of {alignment['poses_tried']} poses)"
