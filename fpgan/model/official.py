"""Reads models of the paper's authors: pickles of their TensorFlow implementation, without TensorFlow.

Numbers are taken over as they are stored, every array under its name here; only the order of a few axes differs, because
images have their channels first there and last here. Where their model differs from what fpgan may be set to, it is a field
of NetworkConfig, which the conversion sets: eight mapping layers with the learning-rate multiplier 0.01, bits as 0 and 1,
strided groups in the minibatch standard deviation, and the stored noise maps (noise "fixed"), with which their sampling
works.
"""

import functools
import hashlib
import os
import re
from pathlib import Path

import numpy as np
from flax.traverse_util import unflatten_dict

from fpgan.errors import FpganError
from fpgan.io.unpickle import Network, brief, read_networks
from fpgan.model.format import param_shapes, save_model
from fpgan.model.model import Model, load
from fpgan.networks.config import NetworkConfig

NETWORKS = ("generator", "decoder", "discriminator")
_FMAP_BASE, _FMAP_MAX, _MAPPING_RATE, _GROUP = 16384, 512, 0.01, 4  # what the authors' constructors take unless told
_MOST_RESOLUTION = 4096

# Static arguments that may have one value only, since fpgan has no other architecture.
_ONLY = {
    "nonlinearity": "lrelu", "mapping_nonlinearity": "lrelu", "resample_kernel": [1, 3, 3, 1], "fmap_decay": 1.0,
    "fmap_min": 1, "mbstd_num_features": 1, "dtype": "float32",
}
_ARCHITECTURES = {"generator": "skip", "decoder": "resnet", "discriminator": "resnet"}
# Static arguments that are read below.
_READ = {
    "architecture", "num_channels", "resolution", "label_size", "watermark_size", "latent_size", "dlatent_size",
    "mapping_fmaps", "mapping_layers", "mapping_lrmul", "fmap_base", "fmap_max", "res_modulated_min_log2",
    "res_modulated_max_log2", "mbstd_group_size",
}
_TOP_LAYERS = {"latent": "Latent", "from_rgb": "FromRGB", "conv": "Conv", "dense": "Dense0"}
_SYNTHESIS_LAYERS = {"conv": "Conv1", "conv_up": "Conv0_up", "to_rgb": "ToRGB"}
_TRUNK_LAYERS = {"conv": "Conv0", "conv_down": "Conv1_down", "skip": "Skip"}
# Static arguments that change nothing of what the model computes: how it computes it, and what the authors switched off.
_IDLE = {
    "fused_modconv", "randomize_noise", "dlatent_broadcast", "truncation_psi", "truncation_cutoff", "truncation_psi_val",
    "truncation_cutoff_val", "dlatent_avg_beta", "style_mixing_prob",
}
LICENCE = "that of the authors' weights, see their repository; it is non-commercial"


def convert(generator: Network, decoder: Network, discriminator: Network) -> tuple[NetworkConfig, dict]:
    """Converts three networks of one model.

    Args:
      generator: with the components "mapping" and "synthesis".
      decoder: see unpickle.read_networks.
      discriminator: likewise.

    Returns:
      The architecture, and {"generator", "decoder", "discriminator"} -> nested dict of float32 arrays.

    Raises:
      FpganError: if the networks do not fit together, or have an architecture that fpgan does not have.
    """
    arrays = {"generator": _joined(generator), "decoder": decoder.variables, "discriminator": discriminator.variables}
    parts = {"generator": [*generator.components.values(), generator], "decoder": [decoder],
             "discriminator": [discriminator]}
    given = [(network, part.arguments) for network in NETWORKS for part in parts[network]]
    for network, arguments in given:
        _check_arguments(network, arguments)
    config = derive_config({network: dict(item for part in parts[network] for item in part.arguments.items())
                            for network in NETWORKS}, arrays)
    for network, arguments in given:
        _check_sizes(network, arguments, config)
    return config, {network: translate(network, arrays[network], config) for network in NETWORKS}


def derive_config(arguments: dict[str, dict], arrays: dict[str, dict]) -> NetworkConfig:
    """Derives the architecture.

    Args:
      arguments: network -> its static arguments.
      arrays: network -> its arrays by the authors' names; the generator's begin with "mapping/" or "synthesis/".

    Raises:
      FpganError: if an array that tells a size is missing, or fpgan has no such architecture.
    """
    generator, size = arrays["generator"], functools.partial(_size, arrays, "generator")
    resolution = _resolution(generator)
    modulated = [r for r in _resolutions(resolution) if f"synthesis/{r}x{r}/ToRGB/mod_weight" in generator]
    if not modulated:
        raise FpganError("its generator has no layer that the fingerprint modulates; expected one at least")
    limits = (0, 0) if modulated == _resolutions(resolution) else (modulated[0], modulated[-1])
    layers = sum(re.fullmatch(r"mapping/Dense\d+/weight", name) is not None for name in generator)
    if layers < 2:
        raise FpganError(_not_here(f"its mapping has {layers} layers"))
    latent = size("synthesis/4x4/Latent/weight")
    return NetworkConfig(
        resolution=resolution, channels=size(f"synthesis/{resolution}x{resolution}/ToRGB/bias"),
        fingerprint_bits=_size(arrays, "decoder", "Output/bias") - latent, latent_size=latent,
        style_size=size("mapping/Dense0/bias"), mapping_layers=layers,
        mapping_lr_multiplier=_number("mapping_lrmul", arguments["generator"].get("mapping_lrmul", _MAPPING_RATE)),
        bit_coding="zero_one", modulated_min=limits[0], modulated_max=limits[1], noise="fixed",
        minibatch_stddev_group=_number("mbstd_group_size", arguments["discriminator"].get("mbstd_group_size", _GROUP), int),
        minibatch_stddev_order="strided",
        label_size=size("mapping/LabelConcat/weight") if "mapping/LabelConcat/weight" in generator else 0,
        **_channel_fields(arguments, arrays, _resolutions(resolution)))


def _size(arrays: dict, network: str, name: str, axis: int = 0) -> int:
    """One size of an array that must be there."""
    array = arrays[network].get(name)
    if array is None or array.ndim <= axis:
        raise FpganError(_not_here(f"its {network} has no array {name!r} of the expected kind"))
    return array.shape[axis]


def _resolution(generator: dict) -> int:
    """The highest resolution with an RGB layer."""
    found = (re.fullmatch(r"synthesis/([1-9]\d{0,4})x\1/ToRGB/weight", name) for name in generator)
    resolution = max((int(match[1]) for match in found if match), default=0)
    if not 8 <= resolution <= _MOST_RESOLUTION or resolution & (resolution - 1):
        raise FpganError(_not_here("its generator has no RGB layer at a resolution of 8, 16, ... pixels"))
    return resolution


def _channel_fields(arguments: dict, arrays: dict, resolutions: list[int]) -> dict:
    """The fields that give the channels; 0 in decoder and discriminator where they have the generator's."""
    rules = {}
    for network in NETWORKS:
        size = functools.partial(_size, arrays, network)
        if network == "generator":
            widths = {r: size(f"synthesis/{r}x{r}/ToRGB/weight", 2) for r in resolutions}
        else:
            widths = {r: size(f"{r}x{r}/Conv0/bias") for r in resolutions[1:]}
            widths |= {4: size("4x4/Conv/bias"), 2: size("4x4/Dense0/bias")}
        rules[network] = _channel_rule(widths, arguments[network])
    fields = dict(zip(("channel_base", "channel_max"), rules["generator"], strict=True))
    for network in ("decoder", "discriminator"):
        base, most = (0, 0) if rules[network] == rules["generator"] else rules[network]
        fields |= {f"{network}_channel_base": base, f"{network}_channel_max": most}
    return fields


def _channel_rule(widths: dict[int, int], arguments: dict) -> tuple[int, int]:
    """Base and maximum so that every width is min(base / (resolution / 2), maximum): as stated, else as the widths tell."""
    base = _number("fmap_base", arguments.get("fmap_base", _FMAP_BASE), int)
    most = _number("fmap_max", arguments.get("fmap_max", _FMAP_MAX), int)
    if all(max(1, min(2 * base // r, most)) == width for r, width in widths.items()):
        return base, most
    return max(width * r // 2 for r, width in widths.items()), max(widths.values())


def _check_arguments(network: str, given: dict) -> None:
    """Refuses what stands for another architecture, or what nobody here knows."""
    for name, value in given.items():
        if name == "architecture" and value != _ARCHITECTURES[network]:
            raise FpganError(_not_here(f"its {network} has the architecture {brief(value)}"))
        if name in _ONLY and (list(value) if isinstance(value, tuple) else value) != _ONLY[name]:
            raise FpganError(_not_here(f"its {network} has {name} {brief(value)} instead of {_ONLY[name]!r}"))
        if name not in _ONLY and name not in _READ and name not in _IDLE:
            raise FpganError(_not_here(f"its {network} was made with an unknown argument {brief(name)}"))


def _check_sizes(network: str, given: dict, config: NetworkConfig) -> None:
    """Checks that what the constructor was told agrees with the arrays."""
    derived = {
        "num_channels": config.channels, "resolution": config.resolution, "label_size": config.label_size,
        "watermark_size": config.fingerprint_bits, "latent_size": config.latent_size, "dlatent_size": config.style_size,
        "mapping_fmaps": config.style_size, "mapping_layers": config.mapping_layers,
    }
    for name, value in derived.items():
        if given.get(name, value) != value:
            raise FpganError(f"its {network} was made with {name} {brief(given[name])}, but its arrays are of a model "
                             f"with {value}")
    for end, derived in (("min", config.modulated_min or 4), ("max", config.modulated_max or config.resolution)):
        name, limits = f"res_modulated_{end}_log2", (2, config.resolution.bit_length() - 1)
        if name in given:
            stated = int(np.clip(_number(name, given[name], int), *limits))
            if 2**stated != derived:
                raise FpganError(f"its {network} was made with {name} {stated}, but its arrays are modulated "
                                 f"from {config.modulated_min or 4} to {config.modulated_max or config.resolution} pixels")


def _joined(generator: Network) -> dict:
    """The arrays of mapping and synthesis under one roof; the generator's own are counters that do nothing."""
    if set(generator.components) != {"mapping", "synthesis"}:
        raise FpganError(_not_here("its generator does not consist of mapping and synthesis"))
    return {f"{part}/{name}": array for part in ("mapping", "synthesis")
            for name, array in generator.components[part].variables.items()}


def translate(network: str, arrays: dict[str, np.ndarray], config: NetworkConfig) -> dict:
    """Puts one network's arrays under fpgan's names, in its order of axes.

    Args:
      network: "generator", "decoder" or "discriminator".
      arrays: by the authors' names; the generator's begin with "mapping/" or "synthesis/".
      config: the architecture.

    Returns:
      Nested dict of float32 arrays.

    Raises:
      FpganError: if an array is missing, has another shape, is not finite, or is none of the architecture's.
    """
    unused, translated = dict(arrays), {}
    for name, shape in param_shapes(config, (network,)).items():
        theirs = official_name(name, config.resolution)
        expected = (1, 1, *shape) if name.endswith("noise_map") else shape
        array = unused.pop(theirs, None)
        if array is None:
            raise FpganError(_not_here(f"its {network} has no array {theirs!r}"))
        if array.shape != expected or array.dtype.kind != "f":
            raise FpganError(_not_here(f"the array {theirs!r} of its {network} has shape {array.shape} and type "
                                       f"{array.dtype}, where {expected} and float32 are expected"))
        array = _reordered(name, array.astype(np.float32)).reshape(shape)
        if not np.isfinite(array).all():
            raise FpganError(f"the array {theirs!r} of its {network} holds numbers that are not finite; its training failed")
        translated[name] = array
    if unused:
        raise FpganError(_not_here(f"its {network} has an array {brief(min(unused))} too many"))
    return unflatten_dict(translated, sep="/")[network]


def official_name(name: str, resolution: int) -> str:
    """Returns the authors' name of an array.

    Args:
      name: fpgan's, such as "generator/synthesis/b8/conv_up/weight", which gives "synthesis/8x8/Conv0_up/weight".
      resolution: of the model's images.
    """
    network, *path, leaf = name.split("/")
    if network == "generator" and path[0] == "mapping":
        return f"mapping/{path[1].replace('dense', 'Dense').replace('label_concat', 'LabelConcat')}/{leaf}"
    if path == ["output"]:
        return f"Output/{leaf}"
    part = "synthesis/" if network == "generator" else ""
    if path[1] in _TOP_LAYERS:
        size = resolution if path[1] == "from_rgb" else 4
        return f"{part}{size}x{size}/{_TOP_LAYERS[path[1]]}/{leaf}"
    size, layer = int(path[1][1:]), path[2]
    if leaf == "noise_map":  # numbered through: 4; 8, 8; 16, 16; ...
        return f"synthesis/noise{2 * size.bit_length() - (7 if layer == 'conv_up' else 6)}"
    layer = (_SYNTHESIS_LAYERS if part else _TRUNK_LAYERS)[layer]
    return f"{part}{size}x{size}/{'Conv' if (size, layer) == (4, 'Conv1') else layer}/{leaf}"


def _reordered(name: str, array: np.ndarray) -> np.ndarray:
    """Puts the 4x4 feature maps that a dense layer makes or reads from the order C, H, W into H, W, C."""
    if "/synthesis/latent/" in name:  # [latent_size, 16 C] or [16 C]
        *rows, columns = array.shape
        return np.moveaxis(array.reshape(*rows, columns // 16, 4, 4), -3, -1)
    if name.endswith("/trunk/dense/weight"):  # [16 C, features]
        rows, columns = array.shape
        return np.moveaxis(array.reshape(rows // 16, 4, 4, columns), 0, 2)
    return array


def _resolutions(resolution: int) -> list[int]:
    return [2**k for k in range(2, resolution.bit_length())]


def _number(name: str, value, kind: type = float):
    """A positive number among the static arguments."""
    if type(value) not in (int, kind) or not 0 < value < 2**31:
        raise FpganError(f"its static argument {name} is {brief(value)}; expected a positive number")
    return kind(value)


def _not_here(what: str) -> str:
    return (f"{what}; fpgan has only the authors' config-e with a fingerprint (skip generator, residual decoder and "
            "discriminator, no progressive growing)")


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
