"""The training config: every field with its default, which is the paper's setting, and how to read one."""

import ast
import dataclasses
import difflib
import functools
import math
import os
import runpy
from collections.abc import Iterable, Sequence
from pathlib import Path

import ml_collections
from flax.traverse_util import flatten_dict

from fpgan.data.settings import DataSettings
from fpgan.errors import FpganError
from fpgan.model.aligner import LEAST_IMAGES as LEAST_VIEWED
from fpgan.model.readout import LEAST_FIT
from fpgan.networks.config import NetworkConfig
from fpgan.perturbations.sampling import parse_ranges
from fpgan.training.augment import parse_policy

# Keys of older versions -> keys of today: in overrides, in config files and in the config.json of runs.
RENAMED = {"objective.discriminator_noise": "objective.instance_noise", "export.fit_images": "export.readout_images",
           "data.resolution": "network.resolution"}
# The least value of every field that counts something.
_LEAST = {"seed": 0, "batch_size": 1, "total_images": 1, "ema_half_life_images": 1.0, "every.log": 1, "every.checkpoint": 1,
          "every.grid": 0, "every.evaluate": 0, "evaluation.images": 2, "keep.newest": 1, "keep.every": 0,
          "curriculum.accuracy_images": 1, "curriculum.latent_images": 1, "curriculum.ramp_images": 1,
          "objective.path_length_interval": 1, "objective.path_length_batch_shrink": 1,
          "objective.r1_interval": 1, "optimizer.decay_images": 0, "export.readout_images": 0,
          "export.aligner_images": 0, "export.aligner_steps": 0,
          "network.minibatch_stddev_group": 1, "network.decoder_linear_levels": 1,
          "objective.visibility": 0.0, "objective.distinct_fingerprints": 0,
          "objective.perturbed_share": 0.0, "curriculum.fingerprint_factor": 0.0}


def default() -> ml_collections.ConfigDict:
    """Returns the paper's setting at 128 x 128; the files in configs/ state what differs."""
    return ml_collections.ConfigDict(dict(
        name="fpgan",
        seed=0,
        data=dataclasses.asdict(DataSettings()) | dict(resident=True, workers=0),
        network=NetworkConfig().to_dict(),
        objective=dict(
            adversarial=1.0, latent=1.0, fingerprint=2.0, consistency=2.0, coarse_consistency=0.0, out_of_range=0.0,
            quantize=False, instance_noise=0.0, distinct_fingerprints=0,  # 0: all 2^n are drawn alike
            visibility=0.0, perturbations="", perturbed_share=0.85,
            path_length=2.0, path_length_interval=4, path_length_decay=0.01, path_length_batch_shrink=2,
            r1_gamma=100.0, r1_interval=16),
        augment=dict(mirror=False, policy=""),  # for few images, see augment.py; such as "color,translation,cutout"
        curriculum=dict(bits_first=False, latent_scale=0.1, learning_rate_factor=2.5, start_accuracy=0.9,
                        hold_accuracy=0.85, latent_images=50_000, ramp_images=100_000, accuracy_images=2_000,
                        fingerprint_factor=1.0),
        optimizer=dict(generator_learning_rate=0.002, decoder_learning_rate=0.002, discriminator_learning_rate=0.002,
                       beta1=0.0, beta2=0.99, epsilon=1e-8, decay_images=0),
        batch_size=16,
        total_images=25_000_000,
        ema_half_life_images=10_000.0,
        every=dict(log=50, checkpoint=500, grid=1000, evaluate=0),  # in steps; grid, evaluate = 0: never
        evaluation=dict(images=1_000, features="pixels"),  # what `every.evaluate` measures, see monitor.py
        keep=dict(newest=2, every=0),  # checkpoints: the newest, and every n-th step's for ever (0: none)
        # What `fpgan export` does after training, see readout.py and aligner.py of fpgan/model; readout_images and
        # aligner_images 0: none is fitted; aligner_steps 0: as many as aligner.py says.
        export=dict(strength=1.0, readout_images=0, perturbations="", aligner_images=0, aligner_steps=0),
        ema_decoder=True,  # export the decoder's moving average too; the authors average the generator alone
        init_from="",
    ))


def load(path: str | os.PathLike, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """Reads a config file and applies overrides.

    Args:
      path: a Python file with a function get_config() that returns a ConfigDict.
      overrides: such as "optimizer.beta1=0.9" or "data.path=photos".

    Raises:
      FpganError: if the file is none, a key is unknown (the nearest known one is named), or a value has the wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise FpganError(f"no config file {path}; expected a file such as configs/smoke.py")
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        config = get_config() if get_config else None
    except Exception as error:
        raise FpganError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise FpganError(f"{path} has no function get_config() that returns a ConfigDict")
    for old, new in RENAMED.items():
        if old in flatten(config):  # set by the file: the defaults do not have it
            node, leaf = place(config, old)
            set_field(config, new, node[leaf])
            del node[leaf]
    for override in overrides:
        apply_override(config, override)
    return check(config)


def apply_override(config: ml_collections.ConfigDict, override: str) -> None:
    """Sets one field, "dotted.key=value", to a value of the type that it has."""
    key, equals, text = override.partition("=")
    key, fields = RENAMED.get(key, key), flatten(config)
    if not equals:
        raise FpganError(f"override {override!r}; expected key=value, such as batch_size=32")
    if key not in fields:
        raise _unknown(key, fields)
    set_field(config, key, _parse(key, text, fields[key]))


def renamed(fields: dict) -> dict:
    """Returns the fields of a config, by dotted key, under their names of today."""
    return {RENAMED.get(key, key): value for key, value in fields.items()}


def set_field(config: ml_collections.ConfigDict, key: str, value: object) -> None:
    """Sets the field with a dotted key, which the config has."""
    node, leaf = place(config, key)
    node[leaf] = value


def place(config: ml_collections.ConfigDict, key: str) -> tuple[ml_collections.ConfigDict, str]:
    """Returns the part of a config that holds the field with a dotted key, and the field's name there."""
    *parents, leaf = key.split(".")
    return functools.reduce(lambda node, name: node[name], parents, config), leaf


def architecture(config: ml_collections.ConfigDict) -> NetworkConfig:
    """Returns the architecture that a config's `network` part describes.

    Raises:
      FpganError: if a value in it makes no sense.
    """
    return NetworkConfig.from_dict(config.network)


def check(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns the config if every field is one that fpgan knows; a field of a config file may be misspelt as well."""
    known = flatten(default())
    for key in flatten(config):
        if key not in known:
            raise _unknown(key, known)
    fields = flatten(config)
    for key, least in _LEAST.items():
        if fields[key] < least:
            raise FpganError(f"config key {key!r} is {fields[key]!r}; expected {least} or more")
    if not 0 < config.export.strength < math.inf or (
            config.export.strength != 1 and config.network.bit_coding != "plus_minus_one"):
        raise FpganError(f"export.strength is {config.export.strength}; expected a number above 0, and 1 unless "
                         "network.bit_coding is 'plus_minus_one'")
    if 0 < config.export.readout_images < LEAST_FIT:
        raise FpganError(f"export.readout_images is {config.export.readout_images}; expected {LEAST_FIT} or more, or 0 "
                         "for no fit")
    if 0 < config.export.aligner_images < LEAST_VIEWED:
        raise FpganError(f"export.aligner_images is {config.export.aligner_images}; expected {LEAST_VIEWED} or more, or 0 "
                         "for no aligner")
    if config.total_images < config.batch_size:
        raise FpganError(f"total_images is {config.total_images}, batch_size {config.batch_size}; expected at least "
                         "one batch")
    for section in ("objective", "export"):
        parse_ranges(config[section].perturbations)
    parse_policy(config.augment.policy)
    architecture(config)
    return config


def check_batch(config: ml_collections.ConfigDict, devices: int) -> None:
    """Checks that a batch divides evenly over the devices, with whole minibatch groups on each.

    Raises:
      FpganError: if not.
    """
    batch = config.batch_size
    group = min(config.network.minibatch_stddev_group, batch)
    if batch % (devices * group):
        raise FpganError(f"batch_size {batch} does not split over {devices} devices in groups of {group} "
                         f"(minibatch standard deviation); expected a multiple of {devices * group}")
    shrink = config.objective.path_length_batch_shrink
    if config.objective.path_length and batch // devices % shrink:
        raise FpganError(f"objective.path_length_batch_shrink {shrink} does not divide the {batch // devices} images of a "
                         "device; expected a divisor of it")


def flatten(config: ml_collections.ConfigDict) -> dict:
    """Returns the fields of a nested config as one dict with dotted keys."""
    return flatten_dict(config.to_dict(), sep=".")


def _unknown(key: str, known: Iterable[str]) -> FpganError:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
    return FpganError(f"unknown config key {key!r}; the nearest known one is {near!r}")


def _parse(key: str, text: str, old):
    if isinstance(old, str):
        return text
    words = {"true": True, "false": False}
    try:
        value = words[text.lower()] if text.lower() in words else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = None
    if isinstance(old, float) and type(value) is int:
        value = float(value)
    if isinstance(old, int) and isinstance(value, float) and value.is_integer():
        value = int(value)  # 1e6
    if type(value) is not type(old):
        raise FpganError(f"config key {key!r} is {text!r}; expected a value of type {type(old).__name__}, such as {old!r}")
    return value
