"""Reads models of the paper's authors: pickles of their TensorFlow implementation, without TensorFlow.

Where their model differs from what fpgan may be set to, it is a field of NetworkConfig, which the conversion sets: eight
mapping layers with the learning-rate multiplier 0.01, bits as 0 and 1, strided groups in the minibatch standard
deviation, and the stored noise maps (noise "fixed"), with which their sampling works.
"""

import hashlib
import os
from pathlib import Path

from fpgan.errors import FpganError
from fpgan.io.unpickle import read_networks
from fpgan.model import Model, load, save_model
from fpgan.official.convert import convert

LICENCE = "that of the authors' weights, see their repository; it is non-commercial"


def import_official(path: str | os.PathLike, out: str | os.PathLike, average: bool = True, name: str = "") -> Model:
    """Converts a pickle of (decoder, generator, discriminator, running average of the generator) into a model directory.

    Args:
      path: the authors' file. Nothing in it is executed.
      out: the model directory to write, with the discriminator beside the model.
      average: take the running average of the generator's weights, as published results do; else the last weights.
      name: of the model; the directory's name if empty.

    Returns:
      The model, as loaded from the directory.

    Raises:
      FpganError: if the file is damaged, asks for anything but arrays and networks, or holds an architecture that fpgan does
        not have. Nothing is written then.
    """
    networks = read_networks(path)
    if len(networks) != 4:
        raise FpganError(f"{path} holds {len(networks)} networks; expected the four of a fingerprinted model: decoder, "
                         "generator, discriminator, running average of the generator")
    decoder, last, discriminator, averaged = networks
    try:
        config, params = convert(averaged if average else last, decoder, discriminator)
    except FpganError as error:
        raise FpganError(f"{path}: {error}") from None
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    weights = "running average" if average else "last"
    info = {
        "name": name or Path(out).absolute().name,
        "training": {"config": "authors' TensorFlow code", "data": "not stated in the file", "licence": LICENCE},
        "imported": {"file": Path(path).name, "sha256": digest, "generator": weights},
    }
    save_model(out, config, params, info)
    return load(Path(out).absolute())
