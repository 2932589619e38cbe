"""Preparing a set once, so that training reads it at random access: all of it or, if killed, nothing."""

import dataclasses
import difflib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from fpgan.data import prepared
from fpgan.data.folder import list_own_images
from fpgan.data.robohash import ROBOHASH_SETS
from fpgan.data.settings import DataSettings, prepared_folder, read_settings
from fpgan.errors import FpganError, os_reason
from fpgan.io.files import locked


@dataclasses.dataclass(frozen=True)
class Report:
    """What a preparation did.

    Attributes:
      folder: where the prepared set lies.
      images: how many images it holds.
      licence: of the images.
      nothing_to_do: the set was there already, whole and up to date.
      reduced, enlarged: how many were scaled down or up to the resolution (own images only).
      skipped: (file name, reason) of every file that looks like an image but could not be used.
      others: names of files that do not look like images by their extension.
    """

    folder: Path
    images: int
    licence: str
    nothing_to_do: bool = False
    reduced: int = 0
    enlarged: int = 0
    skipped: tuple[tuple[str, str], ...] = ()
    others: tuple[str, ...] = ()


def prepare(data: Mapping | DataSettings, resolution: int, progress: Callable[[int, int], None] | None = None) -> Report:
    """Prepares the images that a config's `data` part asks for.

    A set appears under its name only when it is whole. A run that was killed leaves files under a temporary
    name, which the next run removes before it starts afresh. A second run with the same settings does
    nothing, unless the user's own images have changed since: then it makes the set anew.

    Args:
      data: a mapping with the fields of `settings.DataSettings`.
      resolution: side length in pixels (public sets keep their own size; training scales them).
      progress: called as progress(images done, images in all) every now and then (not for public sets: TFDS
        draws its own bars).

    Returns:
      Report.

    Raises:
      FpganError: if the settings are wrong, nothing can be read, the disk is full, or another process is
        preparing the same set.
    """
    settings = read_settings(data)
    if not isinstance(resolution, int) or resolution < 1:
        raise FpganError(f"the resolution is {resolution!r}; expected a whole number of at least 1")
    try:
        if settings.name == "tfds":
            return _prepare_public(settings)
        return _prepare_own(settings, resolution, prepared_folder(settings, resolution), progress)
    except (OSError, RuntimeError) as error:  # array_record tells of a full disk by a RuntimeError
        why = os_reason(error)
        if why is None:
            raise
        place = error.filename if isinstance(error, OSError) and error.filename else _place(settings, resolution)
        raise FpganError(f"{place}: cannot be written or read ({why}); mend that and run the same command again") from error


def _place(settings: DataSettings, resolution: int) -> str | Path:
    return settings.data_dir if settings.name == "tfds" else prepared_folder(settings, resolution)


def _prepare_own(settings, resolution, folder, progress):
    """Prepares a RoboHash set or the user's own images in the folder of this version."""
    listing = None
    if settings.name == "folder":
        listing = list_own_images(settings.path, progress or (lambda done, total: None))
    else:
        ROBOHASH_SETS[settings.name].check(resolution)
    with locked(folder.parent / ".lock", wait=False):
        if prepared.is_prepared(folder) and (listing is None or _is_of(folder, listing)):
            return _report(folder, nothing_to_do=True)
        _remove_leftovers(folder)
        with prepared.quiet_tfds() as tfds:
            builder = _builder(settings, resolution, listing, folder.parent.name)
            builder.progress = progress or builder.progress
            downloads = str(folder.with_name("incomplete.downloads"))  # TFDS insists on having one
            builder.download_and_prepare(file_format=tfds.core.FileFormat.ARRAY_RECORD, download_dir=downloads)
        _remove_leftovers(folder, keep=folder)
        return _report(folder)


def _builder(settings, resolution, listing, variant):
    from fpgan.data import builders
    common = dict(name=variant, resolution=resolution)
    if listing is None:
        return builders.ROBOHASH_BUILDERS[settings.name](
            data_dir=settings.data_dir, config=builders.RobohashConfig(count=settings.count, **common))
    return builders.FolderImages(data_dir=settings.data_dir,
                                 config=builders.FolderConfig(crop=settings.crop, listing=listing, **common))


def _is_of(folder, listing):
    """Whether a prepared set is that of a listing; older versions did not note classes."""
    described = prepared.read_description(folder)[1]
    return described.get("digest") == listing.digest and described.get("classes", 0) == len(listing.classes)


def _report(folder, nothing_to_do=False):
    licence, metadata = prepared.read_description(folder)
    return Report(folder, metadata["images"], licence, nothing_to_do, metadata.get("reduced", 0),
                  metadata.get("enlarged", 0), tuple(map(tuple, metadata.get("skipped", ()))),
                  tuple(metadata.get("others", ())))


def _prepare_public(settings):
    """Has TFDS download and prepare a public set; for this, and only for this, most need TensorFlow."""
    folder = prepared.find_public_set(settings.data_dir, settings.tfds_name)
    nothing_to_do = folder is not None
    if not nothing_to_do:
        folder = _download(settings.tfds_name, settings.data_dir)
    images = len(prepared.open_records(folder, settings.split))
    return Report(folder, images, prepared.read_description(folder)[0], nothing_to_do)


def _download(name, data_dir):
    """Runs TFDS's own preparation and returns the folder of the prepared version."""
    tfds = prepared.import_tfds()
    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see https://www.tensorflow.org/datasets/catalog"
        raise FpganError(f"TFDS knows no dataset {name!r}; {hint}") from error
    except ImportError as error:
        raise FpganError(
            f"to prepare {name} TFDS needs a package that is missing ({error}); training does not. Install it"
            " (for most sets: pip install tensorflow importlib_resources), or prepare the set elsewhere"
            f" with: tfds build {name} --data_dir={data_dir} --file_format=array_record") from error
    return Path(builder.data_path)


def _remove_leftovers(folder, keep=None):
    """Removes what killed runs left beside a version's folder, and that version too unless it is to be kept.

    The old version loses its name first, so that it is never there in part.
    """
    if folder.exists() and folder != keep:
        folder.rename(folder.with_name(f"incomplete.old_{folder.name}"))
    for leftover in folder.parent.glob("incomplete.*"):
        shutil.rmtree(leftover)
