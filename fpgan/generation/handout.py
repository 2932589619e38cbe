"""Splitting a finished set for handing out: an archive for each user, which names nobody else and no fingerprint.

    alice.zip
      images.jsonl     of each image a line: file, sha256, user, seed, model
      000000.png ...   the images of this user
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

from fpgan.errors import FpganError
from fpgan.generation.manifest import Settings, finished_shards, folder_name, read_manifest, read_settings
from fpgan.io.files import locked, remove_temporaries, replacing
from fpgan.io.records import record_reader

LIST = "images.jsonl"
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold: the same set gives the same bytes


def hand_out(folder: str | os.PathLike, out: str | os.PathLike,
             progress: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Writes an archive for each instance of a finished set.

    Each appears under its name when it is whole; those that are there already are left as they are, so that a second run
    makes what is missing.

    Args:
      folder: a finished set.
      out: the folder for the archives; `<user>.zip`, or the fingerprint's digits where an instance has no user.
      progress: called as progress(users done, users in all).

    Returns:
      How many archives were written.

    Raises:
      FpganError: the set is not finished, or an image is missing or not the one that its manifest names.
    """
    folder, out, written = Path(folder), Path(out), 0
    settings = read_settings(folder)
    missing = settings.shards - len(finished_shards(folder, settings))
    if missing:
        raise FpganError(f"{missing} of {settings.shards} shards of {folder} are not finished; run fpgan generate until the "
                         "set is complete")
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / ".lock"), _Images(folder) as images:
        for done, (label, lines) in enumerate(groupby(read_manifest(folder), key=_label)):
            path = out / f"{folder_name(label)}.zip"
            if not path.exists():
                remove_temporaries([path])
                with replacing(path, sync=True) as file:
                    _write(file, settings, lines, images)
                written += 1
            progress(done + 1, settings.users)
    return written


def _label(entry: dict) -> str:
    return entry["fingerprint"] if entry["user"] is None else entry["user"]


def _write(file, settings: Settings, lines: Iterator[dict], images: _Images) -> None:
    """Writes one instance's archive; images are compressed already."""
    width, listed = max(6, len(str(settings.per_user - 1))), []
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for k, entry in enumerate(lines):
            name = f"{k:0{width}d}.{settings.encoding}"
            archive.writestr(zipfile.ZipInfo(name, _DATE), images.read(entry))
            kept = {"file": name} | {key: entry[key] for key in ("sha256", "user", "seed", "model")}
            listed.append(json.dumps(kept, ensure_ascii=False) + "\n")
        archive.writestr(zipfile.ZipInfo(LIST, _DATE), "".join(listed))


class _Images(contextlib.ExitStack):
    """The encoded images of a set, one record file open at a time."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder, self._name, self._records = folder, None, None

    def read(self, entry: dict) -> bytes:
        """Returns the bytes of a manifest entry's image, which have its hash."""
        path = self.folder / entry["file"]
        if "record" not in entry:
            data = path.read_bytes()
        else:
            if self._name != entry["file"]:
                self.close()
                self._name, self._records = entry["file"], self.enter_context(record_reader(path))
            data = self._records.read([entry["record"]])[0]
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise FpganError(f"{path} is not the image that its manifest names; fpgan verify {self.folder} tells more")
        return data
