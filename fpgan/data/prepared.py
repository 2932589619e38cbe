"""Reading prepared sets, own and public ones, through TFDS `data_source`: random access, no TensorFlow."""

import contextlib
import io
import json
import os
import re
from pathlib import Path

from fpgan.errors import FpganError, missing_extra, quiet_absl


def import_tfds():
    """Imports TFDS.

    Raises:
      FpganError: if it is not installed.
    """
    try:
        import tensorflow_datasets
    except ModuleNotFoundError as error:
        raise missing_extra(error.name, "train") from error
    return tensorflow_datasets


@contextlib.contextmanager
def quiet_tfds():
    """Keeps TFDS from writing on the terminal: notes, progress bars, warnings of absl. Errors still show."""
    tfds = import_tfds()
    tfds.disable_progress_bar()
    try:
        with quiet_absl(), contextlib.redirect_stdout(io.StringIO()):
            yield tfds
    finally:
        tfds.enable_progress_bar()


def is_prepared(folder: str | os.PathLike):
    """Says whether a folder holds a whole set: TFDS gives it its name only after the last file is written."""
    return (Path(folder) / "dataset_info.json").is_file()


def find_public_set(data_dir: str | os.PathLike, tfds_name: str):
    """Finds the newest prepared version of a public set.

    Args:
      data_dir: folder of prepared sets.
      tfds_name: NAME, NAME/CONFIG, or either with :VERSION, as TFDS writes it.

    Returns:
      Path of the version's folder, or None if none is prepared.
    """
    name, _, version = tfds_name.partition(":")
    found = [path.parent for path in Path(data_dir, name).glob(f"{version or '*'}/dataset_info.json")
             if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)]
    return max(found, key=lambda path: [int(part) for part in path.name.split(".")], default=None)


def read_description(folder: Path):
    """Reads what TFDS wrote about a prepared set.

    Args:
      folder: the folder of a prepared version.

    Returns:
      (licence or "", metadata mapping).

    Raises:
      FpganError: if the files are damaged.
    """
    try:
        info = json.loads((folder / "dataset_info.json").read_text())
        metadata_file = folder / "metadata.json"
        metadata = json.loads(metadata_file.read_text()) if metadata_file.is_file() else {}
    except (OSError, ValueError) as error:
        raise FpganError(f"the prepared set in {folder} cannot be read ({error}); remove that folder and"
                         " prepare it again") from error
    return info.get("redistributionInfo", {}).get("license", ""), metadata


def open_records(folder: str | os.PathLike, split: str):
    """Opens a prepared set for random access.

    Args:
      folder: the folder of a prepared version.
      split: a split in the notation of TFDS.

    Returns:
      A TFDS data source; record i is a mapping whose "image" is the encoded image as bytes.

    Raises:
      FpganError: if the set has no images, no such split, or another format than array_record.
    """
    with quiet_tfds() as tfds:
        builder = tfds.builder_from_directory(folder)
        if "image" not in (builder.info.features or {}):
            raise FpganError(f"the set in {folder} has no feature named 'image'; fpgan trains on images only")
        if builder.info.file_format.value != "array_record":
            raise FpganError(f"the set in {folder} is stored as {builder.info.file_format.value}; expected"
                             " array_record; prepare it in another data_dir in that format")
        try:
            return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        except (ValueError, KeyError) as error:
            names = ", ".join(builder.info.splits)
            raise FpganError(f"{folder} has no split {split!r}; expected one of: {names}") from error
