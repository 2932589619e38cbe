"""From a checkpoint to a model directory."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from fpgan.data.sources import open_source
from fpgan.distributed.work import Claim, claim
from fpgan.errors import FpganError
from fpgan.io.files import NoLocks
from fpgan.io.inputs import read_json
from fpgan.model.calibration import evenness_threshold
from fpgan.model.format import check_place, save_model
from fpgan.model.model import Model, from_params, load
from fpgan.model.readout import fit_readout
from fpgan.training import config as configs
from fpgan.training.checkpoint import Checkpoints
from fpgan.training.state import averaged_params, init_state
from fpgan.training.workdir import read_config, read_history


def export(workdir: str | Path, out: str | Path, step: int | None = None, name: str = "", dtype: str = "float32",
           strength: float | None = None, readout_images: int | None = None,
           progress: Callable[[int, int], None] = lambda done, total: None,
           report: Callable[[str], None] = lambda line: None) -> Model:
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
      report: is given a line on what the model lacks.

    Returns:
      The model, as loaded from the directory.

    Raises:
      FpganError: if there is no run or no such checkpoint, or `out` is something else than a model directory.
    """
    with exporting(out):
        return _export(Path(workdir), Path(out), step, name, dtype, strength, readout_images, progress, report)


def _export(workdir: Path, out: Path, step: int | None, name: str, dtype: str, strength: float | None,
            readout_images: int | None, progress: Callable, report: Callable) -> Model:
    """As export, with nobody else at work on the same model directory."""
    check_place(out)
    config = read_config(workdir)
    for key, value in (("strength", strength), ("readout_images", readout_images)):
        if value is not None:
            config.export[key] = value
    configs.check(config)
    trained = configs.architecture(config)
    network = dataclasses.replace(trained, fingerprint_strength=trained.fingerprint_strength * config.export.strength)
    checkpoints = Checkpoints(workdir, read_only=True)
    state = checkpoints.restore(jax.eval_shape(lambda: init_state(config)), step)
    checkpoints.close()
    info = {"name": name or out.name, "training": training_info(workdir, config, int(state.step))}
    params = averaged_params(config, state)
    if config.export.readout_images:
        params["decoder"], info["readout"] = fit_readout(network, params, config.export.readout_images, config.seed,
                                                         config.export.perturbations, progress)
    try:
        source = open_source(config.data, config.network.resolution)
        info["evenness_threshold"] = evenness_threshold(from_params(network, params, info), source, config.seed)
    except FpganError as error:
        report(f"no evenness threshold, so that attribution will not tell unregistered fingerprints from none: {error}")
    save_model(out, network, jax.tree.map(lambda x: x.astype(dtype), params), info)
    return load(out.absolute())


@contextlib.contextmanager
def exporting(out: str | Path) -> Iterator[None]:
    """Keeps a second export out of a model directory while the first is at work.

    Raises:
      FpganError: another process exports there.
    """
    out = Path(out).absolute()
    try:
        held = claim(out.with_name(f".{out.name}.lock"))
    except NoLocks:  # then it is the user's care
        held = contextlib.nullcontext()
    if held is None:
        raise FpganError(f"{out}: another process is exporting there; wait for it, or give another --out")
    try:
        yield
    finally:
        if isinstance(held, Claim):
            held.remove()


def training_info(workdir: str | Path, config, step: int) -> dict:
    """Returns what a model's config.json tells about its training."""
    data, history = read_json(Path(workdir) / "data.json"), read_history(workdir)
    some = {key: value for key, value in (("classes", data.get("classes")), ("history", history)) if value}
    return {"config": config.name, "seed": config.seed, "images_seen": step * config.batch_size, "data": data.get("name"),
            "data_size": data.get("size"), "licence": data.get("licence")} | some
