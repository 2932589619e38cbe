"""From a checkpoint to a model directory."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax

from fpgan.errors import FpganError
from fpgan.io.inputs import read_json
from fpgan.model.aligner import fit_aligner
from fpgan.model.calibration import calibrated
from fpgan.model.format import check_place, find, record, save_aligner, save_model
from fpgan.model.model import Model, from_params, load
from fpgan.model.readout import fit_readout
from fpgan.networks.config import NetworkConfig
from fpgan.training import config as configs
from fpgan.training.checkpoint import Checkpoints
from fpgan.training.state import averaged_params, init_state


def export(workdir: str | Path, out: str | Path, step: int | None = None, name: str = "", dtype: str = "float32",
           strength: float | None = None, readout_images: int | None = None, aligner_images: int | None = None,
           progress: Callable[[int, int], None] = lambda done, total: None) -> Model:
    """Writes the moving averages of a training run as a model directory, its fingerprint turned down, its readout fitted.

    Args:
      workdir: of the run.
      out: the model directory to write.
      step: which checkpoint; the newest if None.
      name: of the model; the directory's name if empty.
      dtype: of the stored parameters, "float32" or "bfloat16"; computations stay as the config says.
      strength: factor on the fingerprint's strength in training; None for the config's `export.strength`.
      readout_images: generated images to which the readout is fitted (see readout.py), 0 for none; None for the config's
        `export.readout_images`.
      aligner_images: generated images on which an aligner is trained (see model/aligner.py), 0 for none; None for the
        config's `export.aligner_images`.
      progress: is given the numbers of images done and in all, while readout and aligner are fitted.

    Returns:
      The model, as loaded from the directory.

    Raises:
      FpganError: if there is no run or no such checkpoint, or `out` is something else than a model directory.
    """
    check_place(out)
    config = read_config(workdir)
    for key, value in (("strength", strength), ("readout_images", readout_images), ("aligner_images", aligner_images)):
        if value is not None:
            config.export[key] = value
    configs.check(config)
    trained = NetworkConfig.from_dict(config.network.to_dict())
    network = dataclasses.replace(trained, fingerprint_strength=trained.fingerprint_strength * config.export.strength)
    checkpoints = Checkpoints(workdir, read_only=True)
    state = checkpoints.restore(jax.eval_shape(lambda: init_state(config, network)), step)
    checkpoints.close()
    info = {"name": name or Path(out).name, "training": training_info(workdir, config, int(state.step))}
    params = averaged_params(config, state)
    if config.export.readout_images:
        params["decoder"], info["readout"] = fit_readout(network, params, config.export.readout_images, config.seed,
                                                         config.export.perturbations, progress)
    model, aligner = from_params(network, params, info), {}
    if config.export.aligner_images:
        *found, info["aligner"] = fit_aligner(model, config.export.aligner_images, config.export.aligner_steps, config.seed,
                                              progress)
        model, aligner = dataclasses.replace(model, aligner=tuple(found)), {"aligner": found[1]}
    info |= _thresholds(model, config)
    save_model(out, network, jax.tree.map(lambda x: x.astype(dtype), params) | aligner, info)
    return load(Path(out).absolute())


def add_aligner(path: str | Path, images: int, steps: int = 0, seed: int = 0, data: str | None = None,
                progress: Callable[[int, int], None] = lambda done, total: None) -> Model:
    """Trains an aligner for a model of any origin, puts it into the model's directory, and calibrates the searches.

    The model's own files and its hash stay as they are.

    Args:
      path: the model directory, or a shipped model's name.
      images, steps, seed, progress: see `fpgan.model.aligner.fit_aligner`; with 0 images the searches are calibrated alone.
      data: images that are not the model's, to calibrate by ("fingerprinted, but nobody registered"), as
        `fpgan.data.sources.open_other` takes them; by default the images that the model was trained on. Where these are not
        at hand, there are no thresholds for searches.

    Returns:
      The model, as loaded from the directory.

    Raises:
      FpganError: there is no such model, the images to generate are too few, or there are no such images.
    """
    from fpgan.data.sources import open_other

    path = find(path)
    model, source = load(path), None
    try:
        source = open_other(data or str(model.info.get("training", {}).get("data")), model.resolution)
    except FpganError:
        if data is not None or not images:
            raise
    params = about = None
    if images:
        network, params, about = fit_aligner(model, images, steps, seed, progress)
        model = dataclasses.replace(model, aligner=(network, params))
    thresholds = calibrated(model, source, seed).get("search_thresholds") if source is not None else None
    if images:
        save_aligner(path, params, about, {"search_thresholds": thresholds})
    else:
        record(path, {"search_thresholds": thresholds})
    return load(path.absolute())


def _thresholds(model: Model, config) -> dict:
    """The evenness thresholds of a model, as config.json has them; none where the training images are not at hand."""
    from fpgan.data.sources import open_source

    try:
        source = open_source(config.data)
    except FpganError:
        return {}
    return calibrated(model, source, config.seed)


def read_config(workdir: str | Path):
    """The config that a run was begun with.

    Raises:
      FpganError: if the directory holds no run.
    """
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise FpganError(f"no training run in {workdir}: {path.name} is missing; expected the --workdir of fpgan train")
    config = configs.default()
    known = configs.flatten(config)
    for key, value in configs.renamed(read_json(path)).items():
        if key not in known:
            raise FpganError(f"{path}: this fpgan does not know {key!r}; use the version that the run was begun with")
        configs.set_field(config, key, value)
    return config


def training_info(workdir: str | Path, config, step: int) -> dict:
    """What config.json tells about the training."""
    data = read_json(Path(workdir) / "data.json")
    return {"config": config.name, "seed": config.seed, "images_seen": step * config.batch_size, "data": data.get("name"),
            "data_size": data.get("size"), "licence": data.get("licence")}
