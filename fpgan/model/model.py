"""A trained model in memory: architecture, parameters, and its compiled programs: `generate`, `decode`, `locate`."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence

import numpy as np

from fpgan.distributed.devices import copies, copies_on, local_devices
from fpgan.errors import FpganError
from fpgan.fingerprint import Fingerprint, as_bits
from fpgan.io.images import to_uint8
from fpgan.model import DEFAULT_MODEL
from fpgan.model.format import (
    check_hash,
    find,
    load_aligner,
    model_hash,
    params_bytes,
    read_bytes,
    read_info,
    read_params,
    save_model,
)
from fpgan.model.programs import (
    SMALLEST,
    check_batch_size,
    decode_at_program,
    decode_program,
    devices_for,
    fitting_batch,
    generate_program,
    in_batches,
    locate_program,
)
from fpgan.model.reading import Reading, read, threshold_for
from fpgan.networks.alignment import Aligner
from fpgan.networks.config import NetworkConfig

MAX_SEED = 2**32 - 1


def load(name_or_path: str | os.PathLike = DEFAULT_MODEL) -> "Model":
    """Loads a model that ships with fpgan, by name, or any model directory, by path.

    Args:
      name_or_path: a name such as "robohash32", or the path of a directory with config.json and model.safetensors.

    Raises:
      FpganError: if there is no such model, or its files are damaged, do not fit together, or are of a newer format.
    """
    path = find(name_or_path)
    info = read_info(path)
    config = NetworkConfig.from_dict(info["network"])
    content = read_bytes(path / "model.safetensors")
    params = read_params(path / "model.safetensors", content, config)
    aligner = load_aligner(path, info, config.channels)
    return Model(config, params, info, check_hash(path, info, config, content), aligner)


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A fingerprinted generator and its decoder.

    Attributes:
      config: the architecture.
      params: {"generator", "decoder"} -> nested dict of float32 arrays.
      info: what config.json says: name, training data and licence, metrics.
      stored_hash: the hash of the files that the model was loaded from; empty for a model in memory.
      aligner: the network that finds the picture in an image, and its parameters; None in a model without one.
    """

    config: NetworkConfig
    params: dict
    info: dict
    stored_hash: str = ""
    aligner: tuple[Aligner, dict] | None = None

    @functools.cached_property
    def hash(self) -> str:
        """16 hexadecimal digits that identify architecture and parameters, computed when they are first asked for."""
        return self.stored_hash or model_hash(self.config, params_bytes(self.params))

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

    def generate(self, fingerprints: Fingerprint | str | np.ndarray | Sequence, seeds: int | Sequence[int] | np.ndarray, *,
                 labels: int | Sequence[int] | np.ndarray | None = None, batch_size: int = 16, devices: int | None = None,
                 exact: bool = False) -> np.ndarray:
        """Generates 8-bit images: one instance of the model per fingerprint, one latent per seed.

        Args:
          fingerprints: a Fingerprint, its hex digits or its bits [n], for all images; or one per image.
          seeds: an integer in [0, 2^32) for all images, or one per image.
          labels: for a conditional model, the class in [0, label_size) for all images, or one per image; None draws each
            from its seed.
          batch_size: images per call of the compiled program, on each device; the last batch is padded. For fewer images
            than that the program is smaller, but not below SMALLEST (16).
          devices: how many of this process's devices share the work; all by default. The bytes do not depend on it.
          exact: use a program of this very batch size, however few the images.

        Returns:
          uint8 [N, R, R, channels]. Equal (fingerprint, seed) give equal bytes at one batch size (above SMALLEST, as long as
          the images fill a batch), and differ by at most one grey level between batch sizes.

        Raises:
          FpganError: if lengths or ranges do not fit, or a batch does not fit the device.
        """
        return to_uint8(self.generate_float(fingerprints, seeds, labels=labels, batch_size=batch_size, devices=devices,
                                            exact=exact))

    def generate_float(self, fingerprints: Fingerprint | str | np.ndarray | Sequence,
                       seeds: int | Sequence[int] | np.ndarray, *, labels: int | Sequence[int] | np.ndarray | None = None,
                       batch_size: int = 16, devices: int | None = None, exact: bool = False) -> np.ndarray:
        """Generates as `generate` does, before rounding: float32 [N, R, R, channels], nominally in [-1, 1], not clipped."""
        bits = as_bits(fingerprints, self.n_bits).astype(np.float32)  # [N or 1, n]
        inputs = {"fingerprints": bits, "seeds": check_seeds(seeds)}
        if labels is not None:
            inputs["labels"] = _check_labels(labels, self.config.label_size)
        inputs = _broadcast(inputs)
        shape = (self.resolution, self.resolution, self.config.channels)
        least = batch_size if exact else SMALLEST
        return self._run("generator", generate_program, inputs, batch_size, least, devices, shape)

    def decode(self, images: np.ndarray, *, poses: np.ndarray | None = None, batch_size: int = 64,
               devices: int | None = None, exact: bool = False) -> np.ndarray:
        """Reads the fingerprint's bits from images, whoever made them.

        Args:
          images: uint8 [N, R, R, channels], or floats in [-1, 1]; with poses also [N, 2 R, 2 R, channels].
          poses: float [N, 3, 3], where the picture lies in each image (`Alignment.poses`): it is looked up there,
            bicubically. Without them the images are read as they are.
          batch_size: images per call of the compiled program, on each device; the last batch is padded. For fewer images
            than that the program is smaller.
          devices: how many of this process's devices share the work; all by default. The logits do not depend on it.
          exact: use a program of this very batch size, however few the images.

        Returns:
          Logits float32 [N, n]: positive for a 1, negative for a 0, the larger the surer.

        Raises:
          FpganError: if the images have another shape or type, or a batch does not fit the device.
        """
        images, least = self._checked(images, poses is not None), batch_size if exact else 1
        if poses is None:
            return self._run("decoder", decode_program, (images,), batch_size, least, devices, (self.n_bits,))
        arrays = images, np.asarray(poses, np.float32)
        return self._run("decoder", decode_at_program, arrays, batch_size, least, devices, (self.n_bits,))

    def locate(self, images: np.ndarray, *, batch_size: int = 64, exact: bool = False) -> np.ndarray:
        """Finds where the picture lies in each image, by the model's aligner.

        Args:
          images: uint8 [N, R, R, channels], or floats in [-1, 1].
          batch_size: images per call of the compiled program, on each device.
          exact: use a program of this very batch size, however few the images.

        Returns:
          float32 [N, 3, 3]: homographies, a point (x, y, 1) of the picture -> its place in the image, from -1 to 1 each.

        Raises:
          FpganError: the model has no aligner, or the images have another shape or type.
        """
        if self.aligner is None:
            raise FpganError(f"model {self.name} has no aligner; add one (fpgan export --model DIR --aligner-images N)")
        return self._run("aligner", lambda _, devices: locate_program(self.aligner[0], devices), (self._checked(images),),
                         batch_size, batch_size if exact else 1, None, (3, 3))

    def read(self, images: np.ndarray, search: str | None = None, *, wholes: Sequence[np.ndarray | None] | None = None,
             batch_size: int = 64, exact: bool = False) -> Reading:
        """Reads images that may have been moved: flipped, turned, cropped, put on a page ... (`fpgan.model.reading`).

        Args:
          images: uint8 [N, R, R, channels], or floats in [-1, 1].
          search: "none": as they are; "fast": also where the aligner finds the picture, without an aligner in the eight
            turns of a square; "full": also at a grid of poses. None is "fast" for a model with an aligner, else "none".
          wholes: for images that were cropped or resized to R pixels, uint8 [2 R, 2 R, channels], all of each
            (`fpgan.io.images.read_whole` gives both), else None: pages and other sizes are searched in these.
          batch_size: images, or poses of one, per call of the compiled program, on each device.
          exact: use programs of this very batch size throughout, however few images are left to be looked for: what is read
            from an image is then the same to the bit whatever others are read with it, on any number of devices.

        Returns:
          Reading(logits, alignment): float32 [N, n], and where the pictures lie. `attribute` and `pool` of fpgan.attribution
          take it. The alignment is a function of each image alone, so that the p-value needs no factor for what was tried.

        Raises:
          FpganError: an unknown search, or images of another shape or type.
        """
        return read(self, images, search, batch_size, wholes, exact)

    def evenness_threshold(self, search: str | None = None) -> float | None:
        """Returns `attribute`'s evenness_threshold for what `read` with this search gives; None where none is calibrated."""
        return threshold_for(self, search)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the model directory: to a temporary name first, then renamed, replacing an older model there."""
        aligner = {} if self.aligner is None else {"aligner": self.aligner[1]}
        save_model(path, self.config, self.params | aligner, self.info)

    def _checked(self, images: np.ndarray, may_be_fine: bool = False) -> np.ndarray:
        """Returns images as uint8 or float32; raises FpganError for others than this model's."""
        images = np.asarray(images)
        expected = (self.resolution, self.resolution, self.config.channels)
        fine = (2 * self.resolution, 2 * self.resolution, self.config.channels)
        is_shaped = images.shape[1:] == expected or (may_be_fine and images.shape[1:] == fine)
        if not is_shaped or (images.dtype != np.uint8 and images.dtype.kind != "f"):
            raise FpganError(f"images of shape {images.shape} and type {images.dtype}; expected "
                             f"(N, {expected[0]}, {expected[1]}, {expected[2]}) as uint8, or as floats in [-1, 1]")
        return images if images.dtype == np.uint8 else images.astype(np.float32)

    def _run(self, network: str, compiled: Callable, arrays: tuple, batch_size: int, least: int, devices: int | None,
             shape: tuple[int, ...]) -> np.ndarray:
        """Runs one of the programs over arrays, a batch on each of as many devices as there are batches for."""
        check_batch_size(batch_size, self.resolution, self.config.channels)
        size = fitting_batch(batch_size, len(arrays[0]), least)
        chosen = devices_for(-(-len(arrays[0]) // size), local_devices(devices))
        program = functools.partial(compiled(self.config, chosen), self._params_on(network, chosen))
        return in_batches(program, arrays, size * len(chosen), shape)

    def _params_on(self, network: str, devices: tuple) -> dict:
        """Returns the parameters of a network on these devices, where they were put at the first time."""
        params = self.aligner[1] if network == "aligner" else self.params[network]
        if len(devices) == 1:
            return params
        everywhere, here = (network, local_devices()), (network, devices)
        if everywhere not in self._copies:
            self._copies[everywhere] = copies(params, local_devices())
        if here not in self._copies:
            self._copies[here] = copies_on(self._copies[everywhere], devices)
        return self._copies[here]

    @functools.cached_property
    def _copies(self) -> dict[tuple, dict]:
        return {}


def from_params(config: NetworkConfig, params: dict, info: dict) -> Model:
    """Returns a model of parameters in memory, for instance of a training run."""
    return Model(config, params, info)


def check_seeds(seeds: int | Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns seeds as uint32 [N], or raises FpganError when they are no integers in [0, 2^32)."""
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
