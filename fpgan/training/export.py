"""From a checkpoint to a model directory."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax

from fpgan.errors import FpganError
from fpgan.io.inputs import read_json
from fpgan.model.calibration import evenness_threshold
from fpgan.model.format import check_place, save_model
from fpgan.model.model import Model, from_params, load
from fpgan.model.readout import fit_readout
from fpgan.networks.config import NetworkConfig
from fpgan.training import config as configs
from fpgan.training.checkpoint import Checkpoints
from fpgan.training.state import averaged_params, init_state


def export(workdir: str | Path, out: str | Path, step: int | None = None, name: str = "", dtype: str = "float32",
           strength: float | None = None, readout_images: int | None = None,
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
      progress: is given the numbers of images done and in all, while the readout is fitted.

    Returns:
      The model, as loaded from the directory.

    Raises:
      FpganError: if there is no run or no such checkpoint, or `out` is something else than a model directory.
    """
    check_place(out)
    config = read_config(workdir)
    for key, value in (("strength", strength), ("readout_images", readout_images)):
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
    threshold = _threshold(from_params(network, params, info), config)
    info |= {} if threshold is None else {"evenness_threshold": threshold}
    save_model(out, network, jax.tree.map(lambda x: x.astype(dtype), params), info)
    return load(Path(out).absolute())


def _threshold(model: Model, config) -> float | None:
    """The evenness threshold of a model; None also where the training images are not at hand."""
    from fpgan.data.sources import open_source

    try:
        source = open_source(config.data)
    except FpganError:
        return None
    return evenness_threshold(model, source, config.seed)


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
