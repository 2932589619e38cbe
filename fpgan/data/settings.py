"""Which images to train on: the `data` part of a config, checked, with its place on the disk."""

import dataclasses
import difflib
import hashlib
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from fpgan.data.robohash import ROBOHASH_SETS
from fpgan.errors import FpganError
from fpgan.io.images import CROPS

NAMES = (*ROBOHASH_SETS, "folder", "tfds")
VERSION = "1.0.0"  # of the layout of prepared sets; a new one leaves the old sets alone


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """The fields of a config's `data` part that say which images they are; 0 and "" mean "not given".

    The side length is not among them: a config has it as `network.resolution`.

    Attributes:
      name: "robohash_cats", "robohash_monsters", "robohash_heads", "folder" or "tfds".
      data_dir: the folder that holds prepared sets.
      count: how many images of a RoboHash set; all different ones by default, 360,000 cats.
      path: the folder or zip file of the user's own images, or an IDX file (see `data.idx`).
      tfds_name: a public set, e.g. "celeb_a", "lsun/bedroom", "fashion_mnist".
      split: a split in the notation of TFDS, e.g. "train" or "train[:90%]"; own sets have only "train".
      crop: "center", "none" or "celeba128", see `crop.crop_box`; RoboHash sets need none.
      take: use only the first so many images; all by default.
    """

    name: str = "folder"
    data_dir: str = "data"
    count: int = 0
    path: str = ""
    tfds_name: str = ""
    split: str = "train"
    crop: str = "center"
    take: int = 0


def read_settings(data: Mapping | DataSettings) -> DataSettings:
    """Checks the `data` part of a config; keys that are not about the images (workers, ...) are left alone.

    Args:
      data: a mapping with the fields of DataSettings, or a DataSettings.

    Returns:
      DataSettings with the number of images of a RoboHash set filled in.

    Raises:
      FpganError: if a value is missing, unknown or out of range.
    """
    if isinstance(data, DataSettings):
        return data
    known = [field.name for field in dataclasses.fields(DataSettings) if field.name in data]
    settings = DataSettings(**{"name": "", **{key: data[key] for key in known}})
    _check_choice("name", settings.name, NAMES)
    _check_choice("crop", settings.crop, CROPS)
    for key in ("count", "take"):
        value = getattr(settings, key)
        if not isinstance(value, int) or value < 0:
            raise FpganError(f"data.{key} is {value!r}; expected a whole number of at least 0")
    if settings.name == "folder" and not settings.path:
        raise FpganError("data.path is empty; expected the folder, zip or IDX file that holds your images")
    if settings.name == "tfds" and not settings.tfds_name:
        raise FpganError('data.tfds_name is empty; expected the name of a TFDS dataset, e.g. "celeb_a"')
    if settings.name in ROBOHASH_SETS:
        settings = dataclasses.replace(settings, count=settings.count or len(ROBOHASH_SETS[settings.name]))
    return settings


def prepared_folder(settings: DataSettings, resolution: int) -> Path:
    """Says where a prepared RoboHash set, or one of the user's own images, lies, whether it is there or not.

    The folder is named after everything that decides its content: number and resolution of a RoboHash set; name,
    resolution, crop and (hashed) absolute path of the user's images.

    Args:
      settings: whose name is not "tfds".
      resolution: side length in pixels.

    Returns:
      Path DATA_DIR/SET/VARIANT/VERSION, the layout of TFDS.
    """
    if settings.name in ROBOHASH_SETS:
        return Path(settings.data_dir, settings.name, f"{resolution}px_{settings.count}", VERSION)
    path = Path(settings.path).expanduser().resolve()
    name = re.sub(r"[^a-z0-9]+", "_", path.stem.lower()).strip("_") or "images"
    tag = hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    variant = f"{name}_{resolution}px_{settings.crop}_{tag}"
    return Path(settings.data_dir, "folder_images", variant, VERSION)


def prepare_command(settings: DataSettings, resolution: int) -> str:
    """Returns the command line that prepares these images at this side length, to be pasted into a shell."""
    words = ["fpgan", "data", "--name", settings.name, "--resolution", resolution]
    if settings.data_dir != "data":
        words += ["--data-dir", settings.data_dir]
    if settings.name in ROBOHASH_SETS:
        words += ["--images", settings.count]
    if settings.name == "folder":
        words += ["--path", settings.path, "--crop", settings.crop]
    if settings.name == "tfds":
        words += ["--tfds-name", settings.tfds_name]
    return shlex.join(map(str, words))


def _check_choice(key, value, choices):
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise FpganError(f"data.{key} is {value!r}; expected one of: {', '.join(choices)}{hint}")
