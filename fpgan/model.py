"""A trained model: architecture, parameters and two jitted programs, `generate` and `decode`; saved as plain files.

A model directory holds `config.json` (format version, architecture, training data and licence, metrics) and
`model.safetensors` (parameters of the generator's moving average and of the decoder). Beside them there may be a
`discriminator.safetensors`, from which training can go on. Nothing in it is executed.
"""

import dataclasses
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.flax import save as safetensors_bytes

from fpgan.errors import FpganError
from fpgan.fingerprint import as_bits
from fpgan.io.files import write_file
from fpgan.io.images import to_uint8
from fpgan.networks import parameters
from fpgan.networks.config import NetworkConfig
from fpgan.networks.decoder import Decoder
from fpgan.networks.generator import Generator

FORMAT_VERSION = 1
DEFAULT_MODEL = "robohash32"
SHIPPED = Path(__file__).parent / "models"
MAX_SEED = 2**32 - 1
_DTYPES = {"F32": np.float32, "BF16": jnp.bfloat16, "F16": np.float16}  # of stored arrays
NETWORKS = ("generator", "decoder")  # in model.safetensors


def load(name_or_path: str | os.PathLike = DEFAULT_MODEL) -> "Model":
    """Loads a model that ships with fpgan, by name, or any model directory, by path.

    Args:
      name_or_path: a name such as "robohash32", or the path of a directory with config.json and model.safetensors.

    Raises:
      FpganError: if there is no such model, or its files are damaged, do not fit together, or are of a newer format.
    """
    path = find(name_or_path)
    info = _read_info(path)
    config = NetworkConfig.from_dict(info["network"])
    content = _read_file(path / "model.safetensors")
    params = _read_params(path / "model.safetensors", content, config)
    return Model(config, params, info, _hash(config, content))


def find(name_or_path: str | os.PathLike) -> Path:
    """The directory of a shipped model's name, or of a path; raises FpganError if there is none."""
    path = Path(name_or_path)
    if not path.is_dir() and os.sep not in str(name_or_path):
        path = SHIPPED / str(name_or_path)
    if not path.is_dir():
        names = ", ".join(shipped_models()) or "none"
        raise FpganError(f"no model {str(name_or_path)!r}; expected the path of a model directory, "
                         f"or a shipped model: {names}")
    return path


def record_metrics(name_or_path: str | os.PathLike, metrics: dict) -> None:
    """Writes measured numbers into a model's config.json; architecture, parameters and hash stay as they are."""
    path = find(name_or_path)
    info = _read_info(path) | {"metrics": metrics}
    write_file(path / "config.json", (json.dumps(info, indent=2) + "\n").encode())


def shipped_models() -> list[str]:
    """Names of the models that ship inside the package."""
    return sorted(p.parent.name for p in SHIPPED.glob("*/config.json"))


def generate_fn(config: NetworkConfig) -> Callable:
    """The generator as a pure function of parameters, bits and seeds.

    Args:
      config: the architecture.

    Returns:
      f(params, bits float32 [B, n], seeds uint32 [B], labels int32 [B] = None) -> images float32 [B, R, R, channels]. The
      latent and the noise of an image depend on its own seed alone; so does, in a conditional model, its label if none is
      given.
    """
    def draw(seed):
        latent, noise = jax.random.split(jax.random.key(seed, impl="threefry2x32"))
        return jax.random.normal(latent, (config.latent_size,)), noise

    def draw_label(seed):
        key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), 2)
        return jax.random.randint(key, (), 0, config.label_size)

    def generate(params, bits, seeds, labels=None):
        latents, noise_keys = jax.vmap(draw)(seeds)
        one_hot = None
        if config.label_size:
            one_hot = jax.nn.one_hot(jax.vmap(draw_label)(seeds) if labels is None else labels, config.label_size)
        return Generator(config).apply({"params": params}, latents, bits, noise_keys, one_hot)

    return generate


def decode_fn(config: NetworkConfig) -> Callable:
    """The decoder as a pure function: f(params, images float32 [B, R, R, channels] in [-1, 1]) -> logits float32 [B, n]."""
    return lambda params, images: Decoder(config).apply({"params": params}, images)[0]


@functools.cache
def _generate_program(config: NetworkConfig):
    return jax.jit(generate_fn(config))


@functools.cache
def _decode_program(config: NetworkConfig):
    def decode(params, images):
        if images.dtype == jnp.uint8:
            images = images.astype(jnp.float32) * (2 / 255) - 1
        return decode_fn(config)(params, images)
    return jax.jit(decode)


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A fingerprinted generator and its decoder.

    Attributes:
      config: the architecture.
      params: {"generator", "decoder"} -> nested dict of float32 arrays.
      info: what config.json says: name, training data and licence, metrics.
      hash: 16 hexadecimal digits that identify architecture and parameters.
    """

    config: NetworkConfig
    params: dict
    info: dict
    hash: str

    @property
    def name(self) -> str:
        """The model's name."""
        return self.info.get("name", "unnamed")

    @property
    def n_bits(self) -> int:
        """Number of bits of a fingerprint."""
        return self.config.fingerprint_bits

    @property
    def resolution(self) -> int:
        """Height and width of the images in pixels."""
        return self.config.resolution

    def generate(self, fingerprints, seeds: int | Sequence[int] | np.ndarray, *, labels=None,
                 batch_size: int = 16) -> np.ndarray:
        """Generates 8-bit images: one instance of the model per fingerprint, one latent per seed.

        Args:
          fingerprints: a Fingerprint, its hex digits or its bits [n], for all images; or one per image.
          seeds: an integer in [0, 2^32) for all images, or one per image.
          labels: for a conditional model, the class in [0, label_size) for all images, or one per image; None draws each
            from its seed.
          batch_size: images per call of the compiled program; the last batch is padded.

        Returns:
          uint8 [N, R, R, channels]. Equal (fingerprint, seed) give equal bytes at one batch size, and differ by at most one
          grey level between batch sizes.

        Raises:
          FpganError: if lengths or ranges do not fit.
        """
        return to_uint8(self.generate_float(fingerprints, seeds, labels=labels, batch_size=batch_size))

    def generate_float(self, fingerprints, seeds: int | Sequence[int] | np.ndarray, *, labels=None,
                       batch_size: int = 16) -> np.ndarray:
        """As generate, before rounding: float32 [N, R, R, channels], nominally in [-1, 1], not clipped."""
        bits = as_bits(fingerprints, self.n_bits).astype(np.float32)  # [N or 1, n]
        inputs = {"fingerprints": bits, "seeds": _check_seeds(seeds)}
        if labels is not None:
            inputs["labels"] = _check_labels(labels, self.config.label_size)
        inputs = _broadcast(inputs)
        program = functools.partial(_generate_program(self.config), self.params["generator"])
        size = self.resolution
        return _in_batches(program, inputs, batch_size, (size, size, self.config.channels))

    def decode(self, images: np.ndarray, *, batch_size: int = 64) -> np.ndarray:
        """Reads the fingerprint's bits from images, whoever made them.

        Args:
          images: uint8 [N, R, R, channels], or floats in [-1, 1].
          batch_size: images per call of the compiled program; the last batch is padded.

        Returns:
          Logits float32 [N, n]: positive for a 1, negative for a 0, the larger the surer.

        Raises:
          FpganError: if the images have another shape or type.
        """
        images = np.asarray(images)
        expected = (self.resolution, self.resolution, self.config.channels)
        if images.shape[1:] != expected or (images.dtype != np.uint8 and images.dtype.kind != "f"):
            raise FpganError(f"images of shape {images.shape} and type {images.dtype}; expected "
                             f"(N, {expected[0]}, {expected[1]}, {expected[2]}) as uint8, or as floats in [-1, 1]")
        images = images if images.dtype == np.uint8 else images.astype(np.float32)
        program = functools.partial(_decode_program(self.config), self.params["decoder"])
        return _in_batches(program, (images,), batch_size, (self.n_bits,))

    def save(self, path: str | os.PathLike) -> None:
        """Writes the model directory: to a temporary name first, then renamed, replacing an older model there."""
        save_model(path, self.config, self.params, self.info)


def from_params(config: NetworkConfig, params: dict, info: dict) -> Model:
    """A model of parameters in memory, for instance of a training run."""
    return Model(config, params, info, _hash(config, _params_bytes(params)))


def check_place(path: str | os.PathLike) -> None:
    """Raises FpganError if a model cannot be saved here, because something else than a model is there."""
    if Path(path).exists() and not (Path(path) / "config.json").is_file():
        raise FpganError(f"{path} exists and is no model directory; give another path, or remove it")


def save_model(path: str | os.PathLike, config: NetworkConfig, params: dict, info: dict) -> None:
    """Writes a model directory at once or not at all.

    Args:
      path: the directory; an older model there is replaced, anything else is not.
      config: the architecture.
      params: {"generator", "decoder"} -> nested dict of arrays; a "discriminator", if there, gets a file of its own.
      info: what else config.json shall say: name, training, metrics ...; plain JSON values.

    Raises:
      FpganError: if the path exists and is no model directory.
    """
    path = Path(path)
    check_place(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        (temporary / "model.safetensors").write_bytes(_params_bytes(params))
        if "discriminator" in params:
            (temporary / "discriminator.safetensors").write_bytes(_params_bytes(params, ("discriminator",)))
        text = json.dumps({"format_version": FORMAT_VERSION} | info | {"network": config.to_dict()}, indent=2)
        (temporary / "config.json").write_text(text + "\n")
        temporary.chmod(0o755)
        if path.exists():
            replaced = {"model.safetensors", "config.json", "discriminator.safetensors"}
            for kept in set(p.name for p in path.iterdir()) - replaced:
                os.replace(path / kept, temporary / kept)
            old = temporary.with_name(temporary.name + "-old")
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_discriminator(path: str | os.PathLike) -> dict | None:
    """Reads the discriminator that was saved beside a model.

    Args:
      path: the model directory.

    Returns:
      Nested dict of float32 arrays, or None if there is none.

    Raises:
      FpganError: if the file is damaged, or does not fit config.json.
    """
    config = NetworkConfig.from_dict(_read_info(Path(path))["network"])
    file = Path(path) / "discriminator.safetensors"
    return _read_params(file, _read_file(file), config, ("discriminator",))["discriminator"] if file.exists() else None


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FpganError(f"cannot read {path}: {error.strerror}; a model directory holds config.json and model.safetensors"
                         ) from None


def _read_info(path: Path) -> dict:
    damaged = FpganError(f"{path / 'config.json'} is damaged or no model description; export the model again")
    try:
        info = json.loads(_read_file(path / "config.json"))
    except ValueError:
        raise damaged from None
    version = info.get("format_version") if isinstance(info, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise FpganError(f"{path} has format version {version}, this fpgan reads up to {FORMAT_VERSION}; upgrade fpgan")
    if not isinstance(version, int) or not isinstance(info.get("network"), dict):
        raise damaged
    return info


def _read_params(path: Path, content: bytes, config: NetworkConfig, networks: tuple[str, ...] = NETWORKS) -> dict:
    try:
        arrays = dict(deserialize(content))  # the package's own readers of bytes do not know bfloat16
    except SafetensorError as error:
        raise FpganError(f"{path} is damaged or truncated ({error}); copy or export the model again") from None
    expected = param_shapes(config, networks)
    found = {name: tuple(array["shape"]) for name, array in arrays.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise FpganError(f"{path} does not fit its config.json: array {name!r} has shape "
                             f"{found.get(name, 'none')}, expected {expected.get(name, 'no such array')}; "
                             "export the model again")
    for name, array in arrays.items():
        if array["dtype"] not in _DTYPES:
            raise FpganError(f"{path}: array {name!r} is of type {array['dtype']}, expected one of {', '.join(_DTYPES)}; "
                             "export the model again")
    return _unflatten({name: jnp.asarray(np.frombuffer(array["data"], _DTYPES[array["dtype"]]).reshape(array["shape"]),
                                         jnp.float32) for name, array in arrays.items()})


@functools.cache
def param_shapes(config: NetworkConfig, networks: tuple[str, ...] = NETWORKS) -> dict[str, tuple[int, ...]]:
    """The shape of every array of these networks, by its name, such as "generator/synthesis/b8/conv/weight"."""
    shapes = parameters.param_shapes(config, networks)
    return {name: array.shape for name, array in _flatten(shapes).items()}


def _flatten(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in tree.items():
        flat |= _flatten(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _unflatten(arrays: dict) -> dict:
    tree: dict = {}
    for name, array in arrays.items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    return tree


def _params_bytes(params: dict, networks: tuple[str, ...] = NETWORKS) -> bytes:
    parts = {name: params[name] for name in networks}
    return safetensors_bytes({name: jnp.asarray(array) for name, array in sorted(_flatten(parts).items())})


def _hash(config: NetworkConfig, content: bytes) -> str:
    # The fields that are not the defaults: a field that a later version adds changes no hash.
    default = NetworkConfig().to_dict()
    fields = {key: value for key, value in config.to_dict().items() if value != default[key]}
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    digest.update(content)
    return digest.hexdigest()[:16]


def _check_seeds(seeds) -> np.ndarray:
    seeds = np.atleast_1d(np.asarray(seeds))
    if seeds.ndim != 1 or (seeds.size and seeds.dtype.kind not in "iu"):
        raise FpganError(f"seeds of shape {seeds.shape} and type {seeds.dtype}; expected one integer, or a list of integers")
    if seeds.size and (seeds.min() < 0 or seeds.max() > MAX_SEED):
        raise FpganError(f"seeds from {seeds.min()} to {seeds.max()}; expected integers in [0, {MAX_SEED}]")
    return seeds.astype(np.uint32)


def _check_labels(labels, size: int) -> np.ndarray:
    labels = np.atleast_1d(np.asarray(labels))
    if not size:
        raise FpganError("labels for a model without classes; leave them out")
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or (labels.size and not 0 <= labels.min() <= labels.max() < size):
        raise FpganError(f"labels {str(labels.tolist())[:40]}; expected a class, an integer in [0, {size - 1}], or a list")
    return labels.astype(np.int32)


def _broadcast(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Repeats arrays of length 1 to the length of the others."""
    lengths = {len(array) for array in arrays.values()} - {1}
    if len(lengths) > 1:
        given = " and ".join(f"{len(array)} {name}" for name, array in arrays.items())
        raise FpganError(f"{given}; expected as many of one as of the other, or one")
    count = lengths.pop() if lengths else 1
    return tuple(np.broadcast_to(array, (count, *array.shape[1:])) for array in arrays.values())


def _in_batches(program: Callable, arrays: tuple, batch_size: int, result_shape: tuple) -> np.ndarray:
    """Runs a compiled program over batches of one fixed size; the next batch is dispatched before the last is fetched."""
    if batch_size < 1:
        raise FpganError(f"batch size {batch_size}; expected 1 or more")
    count = len(arrays[0])
    result = np.empty((count, *result_shape), np.float32)
    pending = None
    for start in range(0, count, batch_size):
        parts = [array[start:start + batch_size] for array in arrays]
        missing = batch_size - len(parts[0])
        parts = [np.concatenate([p, np.repeat(p[-1:], missing, axis=0)]) if missing else p for p in parts]
        output = program(*parts)
        if pending is not None:
            _fetch(result, *pending)
        pending = (start, output)
    if pending is not None:
        _fetch(result, *pending)
    return result


def _fetch(result: np.ndarray, start: int, output: jax.Array) -> None:
    part = result[start:start + len(output)]
    part[...] = np.asarray(output)[:len(part)]
