"""A released instance: a generator for one user, as a directory that runs without fpgan.

    generator.safetensors   the weights, with one fingerprint folded into plain kernels (networks/folding.py)
    config.json             what the arrays mean, and whose instance it is
    generator.stablehlo     the program, for jax.export: weights and latents -> images
    generator.onnx          program and weights, for ONNX runtimes: latents -> images
    generate.py             runs either of them; needs NumPy and Pillow, and JAX or onnxruntime
    README.md, LICENSE      model card and terms

Neither the mapping nor the decoder is in it, nor the bits, nor anything of other users.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from fpgan.errors import FpganError, printable, reason
from fpgan.fingerprint import Fingerprint
from fpgan.io.images import to_uint8
from fpgan.io.inputs import read_json
from fpgan.model.model import Model, check_seeds
from fpgan.model.programs import draw_latent, in_batches
from fpgan.networks.folding import NOISE, FoldedConfig, fold, folded_generator

FORMAT, FORMAT_VERSION = "fpgan instance", 1
FORMATS = ("stablehlo", "onnx")
_TEXTS = Path(__file__).parent / "released"


@dataclasses.dataclass(frozen=True, eq=False)
class Instance:
    """A generator for one user.

    Attributes:
      config: the architecture.
      weights: {name: float32 array}, as `config.shapes` lists them.
      info: what config.json says.
    """

    config: FoldedConfig
    weights: Mapping[str, np.ndarray]
    info: dict

    def generate(self, seeds: int | Sequence[int] | np.ndarray, *, batch_size: int = 16) -> np.ndarray:
        """Generates 8-bit images: those of `Model.generate` with the user's fingerprint, to one grey level.

        Args:
          seeds: an integer in [0, 2^32), or one per image.
          batch_size: images per call of the compiled program; the last batch is padded.

        Returns:
          uint8 [N, R, R, channels].
        """
        size = self.config.resolution
        program = functools.partial(instance_program(self.config), self.weights)
        return to_uint8(in_batches(program, (check_seeds(seeds),), batch_size, (size, size, self.config.channels)))


@functools.cache
def instance_program(config: FoldedConfig):
    """Compiles f(weights, seeds uint32 [B]) -> images float32 [B, R, R, channels], once for an architecture."""
    def generate(weights, seeds):
        latents, keys = jax.vmap(functools.partial(draw_latent, config.latent_size))(seeds)
        return folded_generator(config, weights, latents, _noise(config, keys) if config.noise_size else None)

    return jax.jit(generate)


def make_instance(model: Model, fingerprint: Fingerprint, label: int | None = None) -> Instance:
    """Folds a fingerprint into a model's generator.

    Args:
      model: the fingerprinted model.
      fingerprint: the user's.
      label: the class of a conditional model, else None.
    """
    weights = fold(model.config, model.params["generator"], fingerprint.bits, label)
    training = model.info.get("training", {})
    info = {"model": model.name, "training": {key: training[key] for key in ("data", "licence") if key in training}}
    return Instance(FoldedConfig.of(model.config), weights, info | ({} if label is None else {"label": label}))


def write_instance(instance: Instance, path: str | os.PathLike, user: str, licence: str | None = None,
                   formats: Sequence[str] = FORMATS,
                   record: Callable[[dict[str, str]], None] = lambda hashes: None) -> dict[str, str]:
    """Writes the directory, which its owner alone can enter, at once or not at all.

    Args:
      instance: the folded generator.
      path: the directory, which must not exist.
      user: to whom it goes; named in the model card and the terms.
      licence: the terms; by default those of released/LICENSE.
      formats: which of FORMATS, beside the weights.
      record: is told what is returned just before the directory appears, so that none does that was not recorded.

    Returns:
      {file name: SHA-256 in hexadecimal digits}.

    Raises:
      FpganError: the place is taken, a package is missing, or an export does not compute the same images.
    """
    path = Path(path)
    if path.exists():
        raise FpganError(f"{path} exists; give another path, so that what was handed out stays as it was")
    files = _files(instance, user, licence, formats)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        try:
            for name, content in files.items():
                (temporary / name).write_bytes(content)
            record(hashes)
            os.rename(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise FpganError(f"{path}: cannot be written ({reason(error)})") from error
    return hashes


def load_instance(path: str | os.PathLike) -> Instance:
    """Reads the directory of a released instance.

    Raises:
      FpganError: there is none, or its files are damaged or do not fit together.
    """
    file = Path(path) / "generator.safetensors"
    info = read_json(Path(path) / "config.json", "; a released instance holds config.json and generator.safetensors")
    if info.get("format") != FORMAT or info.get("format_version") != FORMAT_VERSION:
        raise FpganError(f"{path} is no released instance that this fpgan reads; fpgan release writes one")
    try:
        fields = info["generator"]
        config = FoldedConfig(**fields | {"widths": tuple(fields["widths"])})
        with safe_open(file, "numpy") as arrays:
            weights = {name: arrays.get_tensor(name) for name in arrays.keys()}
        expected = {name: (shape, "float32") for name, shape in config.shapes.items()}
        fits = config.resolution == 2 << len(config.widths) and config.noise in NOISE
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OSError, SafetensorError) as error:
        raise FpganError(f"{path} is damaged ({reason(error)}); ask the provider for another copy") from error
    if not fits or {name: (array.shape, array.dtype.name) for name, array in weights.items()} != expected:
        raise FpganError(f"{file} does not fit its config.json; ask the provider for another copy")
    return Instance(config, weights, info)


def _files(instance: Instance, user: str, licence: str | None, formats: Sequence[str]) -> dict[str, bytes]:
    """Returns the content of each file of the directory."""
    files = {"generator.safetensors": safetensors_bytes(dict(instance.weights))}
    if "stablehlo" in formats:
        from fpgan.model.stablehlo import export_stablehlo
        files["generator.stablehlo"] = export_stablehlo(instance.config)
    if "onnx" in formats:
        from fpgan.model.onnx import export_onnx
        files["generator.onnx"] = export_onnx(instance.config, instance.weights)
    date = time.strftime("%Y-%m-%d", time.gmtime())
    config = {"format": FORMAT, "format_version": FORMAT_VERSION, "issued_to": user, "issued": date, **instance.info,
              "generator": dataclasses.asdict(instance.config)}
    files["config.json"] = (json.dumps(config, indent=2) + "\n").encode()
    if formats:
        files["generate.py"] = (_TEXTS / "generate.py").read_bytes()
    credit = instance.info["training"].get("licence", "not stated")
    values = {"USER": printable(user), "DATE": date, "MODEL": instance.info["model"], "CREDIT": credit,
              "DATA": instance.info["training"].get("data", "not stated"), "LATENT": str(instance.config.latent_size),
              "SIZE": str(instance.config.resolution), "CHANNELS": str(instance.config.channels),
              "PARAMETERS": f"{sum(array.size for array in instance.weights.values()):,}",
              "NOISE": f", noise float32 [B, {instance.config.noise_size}] of N(0, 1)" if instance.config.noise_size else ""}
    card = _chosen((_TEXTS / "README.md").read_text(), formats or ["none"])
    files["README.md"] = _filled(card, values).encode()
    files["LICENSE"] = (_filled((_TEXTS / "LICENSE").read_text(), values) if licence is None else licence).encode()
    return files


def _filled(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    return text


def _chosen(text: str, names: Sequence[str]) -> str:
    """Keeps the parts of a text between <!-- name --> and <!-- end --> that have one of the names, and drops the others."""
    return re.sub(r"<!-- (.+?) -->\n(.*?)<!-- end -->\n", lambda part: part[2] if set(part[1].split()) & set(names) else "",
                  text, flags=re.DOTALL)


def _noise(config: FoldedConfig, keys: jax.Array) -> jax.Array:
    """Draws all layers' noise, [N, noise_size], as the fingerprinted generator does from the same keys [N]."""
    maps = []
    for name, resolution in config.layers:
        layer = int(name.endswith("conv") and resolution > 4)
        layer_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, resolution + layer)
        drawn = jax.vmap(lambda key, size=resolution: jax.random.normal(key, (size * size,)))(layer_keys)
        maps.append(drawn)
    return jnp.concatenate(maps, axis=1)
