"""A model directory: its files, their schema, the hash that identifies a model.

It holds `config.json` (format version, hash, architecture, training data and licence, metrics) and `model.safetensors`
(parameters of the generator's moving average and of the decoder). Beside them there may be a
`discriminator.safetensors`, from which training can go on, and an `aligner.safetensors`, which finds the picture in an image
(networks/alignment.py) and has its own hash in config.json. Nothing in it is executed.
"""

import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, deserialize
from safetensors.flax import save as safetensors_bytes

from fpgan.errors import FpganError, reason, shown
from fpgan.io import cache, inputs
from fpgan.io.files import write_file
from fpgan.io.inputs import Field
from fpgan.networks import parameters
from fpgan.networks.alignment import MOST_PIXELS, Aligner
from fpgan.networks.config import NetworkConfig

FORMAT_VERSION = 1
SHIPPED = Path(__file__).parent / "shipped"
_DTYPES = {"F32": np.float32, "BF16": jnp.bfloat16, "F16": np.float16}  # of stored arrays
NETWORKS = ("generator", "decoder")  # in model.safetensors
MAX_FILE = 1 << 36  # bytes
_INFO = {  # what this fpgan reads of a config.json
    "format_version": Field(int, 1, 2**31), "network": Field(dict, 0, 1000), "name": Field(str, 0, 1000, optional=True),
    "hash": Field(str, 16, 16, optional=True), "evenness_threshold": Field(float, -1e9, 1e9, optional=True),
    "training": Field(dict, 0, 1000, optional=True), "metrics": Field(dict, 0, 10_000, optional=True),
    "aligner": Field(dict, 0, 1000, optional=True), "search_thresholds": Field(dict, 0, 10, optional=True),
}
_ALIGNER = {"size": Field(int, 8, MOST_PIXELS), "channel_base": Field(int, 1, 2**16), "channel_max": Field(int, 1, 2**12),
            "features": Field(int, 1, 2**14), "hash": Field(str, 16, 16)}
_THRESHOLDS = dict.fromkeys(("fast", "full"), Field(float, -1e9, 1e9, optional=True))
_FILES = ("model.safetensors", "config.json", "discriminator.safetensors", "aligner.safetensors")


def find(name_or_path: str | os.PathLike) -> Path:
    """Returns the directory of a shipped model's name, or of a path; raises FpganError if there is none."""
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
    write_file(path / "config.json", (json.dumps(read_info(path) | {"metrics": metrics}, indent=2) + "\n").encode())


def shipped_models() -> list[str]:
    """Returns names of the models that ship inside the package."""
    return sorted(p.parent.name for p in SHIPPED.glob("*/config.json"))


def check_place(path: str | os.PathLike) -> None:
    """Raises FpganError if a model cannot be saved here, because something else than a model is there."""
    if Path(path).exists() and not (Path(path) / "config.json").is_file():
        raise FpganError(f"{path} exists and is no model directory; give another path, or remove it")


def save_model(path: str | os.PathLike, config: NetworkConfig, params: dict, info: dict) -> None:
    """Writes a model directory at once or not at all.

    Args:
      path: the directory; an older model there is replaced, anything else is not.
      config: the architecture.
      params: {"generator", "decoder"} -> nested dict of arrays; a "discriminator" and an "aligner", if there, get files of
        their own.
      info: what else config.json shall say: name, training, metrics ...; plain JSON values. With an aligner, its "aligner"
        holds the fields of the network, see `about_aligner`.

    Raises:
      FpganError: if the path exists and is no model directory.
    """
    def write(folder: Path) -> None:
        content = params_bytes(params)
        about = info | {"hash": model_hash(config, content)}
        (folder / "model.safetensors").write_bytes(content)
        if "discriminator" in params:
            (folder / "discriminator.safetensors").write_bytes(params_bytes(params, ("discriminator",)))
        if "aligner" in params:
            about |= {"aligner": _write_aligner(folder, params["aligner"], info["aligner"])}
        _write_info(folder, {"format_version": FORMAT_VERSION} | about | {"network": config.to_dict()})

    _replace(Path(path), write, _FILES)


def save_aligner(path: str | os.PathLike, params: dict | None, about: dict | None, info: dict,
                 source: str | os.PathLike | None = None) -> None:
    """Puts an aligner into a model directory, at once or not at all; the model's own files keep their bytes.

    Args:
      path: the model directory.
      params: of the aligner; None leaves the one that is there, if any, and changes `info` alone.
      about: its fields in config.json, those of the network among them (`about_aligner`).
      info: further fields of config.json that change with it.
      source: another model directory, of which `path` becomes a copy; an older model there is replaced.

    Raises:
      FpganError: if the path exists and is no model directory.
    """
    path = Path(path)
    copied = [] if source is None else [file for file in Path(source).iterdir() if file.is_file()]

    def write(folder: Path) -> None:
        for file in copied:
            shutil.copyfile(file, folder / file.name)
        aligner = {} if params is None else {"aligner": _write_aligner(folder, params, about)}
        _write_info(folder, read_info(Path(source or path)) | info | aligner)

    changed = ("config.json",) if params is None else ("aligner.safetensors", "config.json")
    _replace(path, write, changed if source is None else (*_FILES, *(file.name for file in copied)))


def _write_aligner(folder: Path, params: dict, about: dict) -> dict:
    """Writes an aligner, in half precision, and returns what config.json says of it."""
    halves = jax.tree.map(lambda array: jnp.asarray(array, jnp.float16), params)
    content = params_bytes({"aligner": halves}, ("aligner",))
    (folder / "aligner.safetensors").write_bytes(content)
    return about | {"hash": hashlib.sha256(content).hexdigest()[:16]}


def _write_info(folder: Path, info: dict) -> None:
    (folder / "config.json").write_text(json.dumps(info, indent=2) + "\n")


def _replace(path: Path, write: Callable[[Path], None], replaced: tuple[str, ...]) -> None:
    """Lets `write` fill a new folder, moves there what else an older model has, and puts it in its place."""
    check_place(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        write(temporary)
        temporary.chmod(0o755)
        if path.exists():
            for kept in set(p.name for p in path.iterdir()) - set(replaced):
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
    config = NetworkConfig.from_dict(read_info(Path(path))["network"])
    file = Path(path) / "discriminator.safetensors"
    return read_params(file, read_bytes(file), config, ("discriminator",))["discriminator"] if file.exists() else None


def about_aligner(aligner: Aligner) -> dict:
    """Returns the fields of config.json that say which network an aligner is."""
    return {name: getattr(aligner, name) for name in _ALIGNER if name != "hash"}


def load_aligner(path: Path, info: dict, channels: int = 3) -> tuple[Aligner, dict] | None:
    """Reads the aligner that was saved beside a model.

    Args:
      path: the model directory.
      info: its config.json.
      channels: of the images.

    Returns:
      The network, and its nested dict of float32 arrays; None if config.json tells of none.

    Raises:
      FpganError: the file is missing, damaged, or not the one that config.json tells of.
    """
    about, file = info.get("aligner"), path / "aligner.safetensors"
    if about is None:
        return None
    hint = "; add it again (fpgan export --model DIR --aligner-images N)"
    inputs.check_fields(about, _ALIGNER, f"{path / 'config.json'}, aligner", hint, more=True)
    if about["size"] & (about["size"] - 1):
        raise FpganError(f"{path / 'config.json'}: the aligner's size is {about['size']}; expected a power of two{hint}")
    side = info["network"]["resolution"]
    if about["size"] > side:
        raise FpganError(f"{path / 'config.json'}: the aligner's size is {about['size']}, that of the images {side}{hint}")
    content = read_bytes(file)
    if hashlib.sha256(content).hexdigest()[:16] != about["hash"]:
        raise FpganError(f"{file} is not the aligner that config.json tells of, or is damaged{hint}")
    aligner = Aligner(**{name: about[name] for name in _ALIGNER if name != "hash"})
    images = jax.ShapeDtypeStruct((1, aligner.size, aligner.size, channels), jnp.float32)
    shapes = jax.eval_shape(aligner.init, jax.eval_shape(lambda: jax.random.key(0)), images)["params"]
    expected = {f"aligner/{name}": array.shape for name, array in flatten_dict(shapes, sep="/").items()}
    arrays = _deserialized(file, content)
    _check_arrays(file, arrays, expected)
    return aligner, _nested(arrays)["aligner"]


def read_bytes(path: Path) -> bytes:
    """Reads a file of a model directory; raises FpganError if it cannot be read."""
    try:
        return inputs.read_bytes(path, MAX_FILE)
    except OSError as error:
        raise FpganError(f"cannot read {path}: {reason(error)}; a model directory holds config.json and model.safetensors"
                         ) from None


def read_info(path: Path) -> dict:
    """Reads the config.json of a model directory; raises FpganError if it is damaged, or of a newer format."""
    hint = "; export the model again"
    info = inputs.read_json(path / "config.json", hint)
    inputs.check_fields(info, _INFO, f"{path / 'config.json'}", hint, more=True)
    inputs.check_fields(info.get("search_thresholds") or {}, _THRESHOLDS, f"{path / 'config.json'}, search_thresholds", hint,
                        more=True)
    if info["format_version"] > FORMAT_VERSION:
        raise FpganError(f"{path} has format version {info['format_version']}, this fpgan reads up to {FORMAT_VERSION}; "
                         "upgrade fpgan")
    return info


def read_params(path: Path, content: bytes, config: NetworkConfig, networks: tuple[str, ...] = NETWORKS) -> dict:
    """Reads the arrays of a safetensors file, which have to be those of these networks, as float32.

    Whether they are takes tracing the networks, which is remembered in the user's cache (`fpgan.io.cache`).
    """
    arrays, digest = _deserialized(path, content), _digest_of_check(content, config, networks)
    if not cache.has_seen(digest):
        _check_arrays(path, arrays, param_shapes(config, networks))
        cache.remember(digest)
    return _nested(arrays)


def _deserialized(path: Path, content: bytes) -> dict:
    """Returns the arrays in the content of a safetensors file, as they are stored."""
    try:
        return dict(deserialize(content))  # the package's own readers of bytes do not know bfloat16
    except SafetensorError as error:
        raise FpganError(f"{path} is damaged or truncated ({shown(reason(error))}); copy or export the model "
                         "again") from None


def _nested(arrays: dict) -> dict:
    """Returns stored arrays as a nested dict of float32 arrays."""
    return unflatten_dict({name: jnp.asarray(np.frombuffer(array["data"], _DTYPES[array["dtype"]]).reshape(array["shape"]),
                                              jnp.float32) for name, array in arrays.items()}, sep="/")


def _digest_of_check(content: bytes, config: NetworkConfig, networks: tuple[str, ...]) -> str:
    """Returns a digest of all that decides what `_check_arrays` finds: the file, the architecture, the code."""
    digest = hashlib.sha256(json.dumps([config.to_dict(), networks], sort_keys=True).encode())
    for path in [*sorted(Path(parameters.__file__).parent.glob("*.py")), Path(__file__)]:
        digest.update(path.read_bytes())
    digest.update(content)
    return digest.hexdigest()


def _check_arrays(path: Path, arrays: dict, expected: dict[str, tuple[int, ...]]) -> None:
    """Raises FpganError unless the arrays of a file are of these names and shapes, of known types, and finite."""
    found = {name: tuple(array["shape"]) for name, array in arrays.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise FpganError(f"{path} does not fit its config.json: array {shown(name)!r} has shape "
                             f"{found.get(name, 'none')}, expected {expected.get(name, 'no such array')}; "
                             "export the model again")
    for name, array in arrays.items():
        if array["dtype"] not in _DTYPES:
            raise FpganError(f"{path}: array {name!r} is of type {array['dtype']}, expected one of {', '.join(_DTYPES)}; "
                             "export the model again")
        if not np.isfinite(np.frombuffer(array["data"], _DTYPES[array["dtype"]])).all():
            raise FpganError(f"{path}: array {name!r} holds numbers that are not finite; its training failed, or the file "
                             "is damaged: export or copy the model again")


@functools.cache
def param_shapes(config: NetworkConfig, networks: tuple[str, ...] = NETWORKS) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every array of these networks, by its name, such as "generator/synthesis/b8/conv/weight"."""
    shapes = parameters.param_shapes(config, networks)
    return {name: array.shape for name, array in flatten_dict(shapes, sep="/").items()}


def params_bytes(params: dict, networks: tuple[str, ...] = NETWORKS) -> bytes:
    """Returns the content of a safetensors file with the parameters of these networks."""
    parts = {name: params[name] for name in networks}
    return safetensors_bytes({name: jnp.asarray(array) for name, array in sorted(flatten_dict(parts, sep="/").items())})


def model_hash(config: NetworkConfig, content: bytes) -> str:
    """Returns the 16 hexadecimal digits that identify an architecture and the content of a model.safetensors."""
    # The fields that are not the defaults: a field that a later version adds changes no hash.
    default = NetworkConfig().to_dict()
    fields = {key: value for key, value in config.to_dict().items() if value != default[key]}
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    digest.update(content)
    return digest.hexdigest()[:16]


def check_hash(path: Path, info: dict, config: NetworkConfig, content: bytes) -> str:
    """Returns the hash of a model's files, which has to be that in its config.json, if there is one (older files have none).

    Args:
      path: the model directory.
      info: its config.json.
      config: the architecture in it.
      content: of its model.safetensors.

    Raises:
      FpganError: if config.json tells another hash: one of the two files was changed, or came damaged or from elsewhere.
    """
    found = model_hash(config, content)
    if info.get("hash", found) != found:
        raise FpganError(f"{path}: config.json tells the hash {info['hash']!s:.40}, but its architecture and "
                         f"model.safetensors have {found}; one of them was changed or damaged: copy or export it again")
    return found
