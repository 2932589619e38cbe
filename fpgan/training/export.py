"""From a checkpoint to a model directory."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import ml_collections

from fpgan.data.sources import open_other, open_source
from fpgan.distributed.work import Claim, claim
from fpgan.errors import FpganError
from fpgan.io.files import NoLocks
from fpgan.io.inputs import read_json
from fpgan.model.aligner import fit_aligner
from fpgan.model.calibration import evenness_threshold, search_thresholds
from fpgan.model.format import check_place, find, save_aligner, save_model
from fpgan.model.model import Model, from_params, load
from fpgan.model.readout import fit_readout
from fpgan.training import config as configs
from fpgan.training.checkpoint import Checkpoints
from fpgan.training.state import averaged_params, init_state
from fpgan.training.workdir import read_config, read_history


def export(workdir: str | Path, out: str | Path, step: int | None = None, name: str = "", dtype: str = "float32",
           strength: float | None = None, readout_images: int | None = None,
           progress: Callable[[int, int], None] = lambda done, total: None,
           report: Callable[[str], None] = lambda line: None, aligner_images: int | None = None,
           overrides: Sequence[str] = ()) -> Model:
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
      progress: is given the numbers of images done and in all, while readout and aligner are fitted.
      report: is given a line on what the model lacks.
      aligner_images: generated images on which an aligner is trained (see model/aligner.py), 0 for none; None for the
        config's `export.aligner_images`.
      overrides: fields of the config's `export` part to set, such as "export.aligner_steps=6000".

    Returns:
      The model, as loaded from the directory.

    Raises:
      FpganError: if there is no run or no such checkpoint, `out` is something else than a model directory, or an override
        is none of the export part.
    """
    workdir, out = Path(workdir), Path(out)
    with exporting(out):
        check_place(out)
        config = read_config(workdir)
        for override in overrides:
            if not override.startswith("export."):
                raise FpganError(f"override {override!r}; expected a field of the config's export part, export.KEY=VALUE: "
                                 "what a run was trained with stays")
            configs.apply_override(config, override)
        for key, value in (("strength", strength), ("readout_images", readout_images), ("aligner_images", aligner_images)):
            if value is not None:
                config.export[key] = value
        return _export(configs.check(config), workdir, out, step, name, dtype, progress, report)


def _export(config: ml_collections.ConfigDict, workdir: Path, out: Path, step: int | None, name: str, dtype: str,
            progress: Callable, report: Callable) -> Model:
    """As export, with nobody else at work on the same model directory."""
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
    model, aligner = from_params(network, params, info), {}
    if config.export.aligner_images:
        *found, info["aligner"] = fit_aligner(model, config.export.aligner_images, config.export.aligner_steps, config.seed,
                                              progress)
        model, aligner = dataclasses.replace(model, aligner=tuple(found)), {"aligner": found[1]}
    try:
        source = open_source(config.data, config.network.resolution)
        info["evenness_threshold"] = evenness_threshold(model, source, config.seed)
        info["search_thresholds"] = search_thresholds(model, source, config.seed)
    except FpganError as error:
        report(f"no evenness threshold, so that attribution will not tell unregistered fingerprints from none: {error}")
    save_model(out, network, jax.tree.map(lambda x: x.astype(dtype), params) | aligner, info)
    return load(out.absolute())


def add_aligner(path: str | Path, images: int, steps: int = 0, seed: int = 0, data: str | None = None,
                progress: Callable[[int, int], None] = lambda done, total: None, out: str | Path | None = None) -> Model:
    """Trains an aligner for a model of any origin, puts it into the model's directory, and calibrates the searches.

    The model's own files and its hash stay as they are.

    Args:
      path: the model directory; with `out` also a shipped model's name.
      images, steps, seed, progress: see `fpgan.model.aligner.fit_aligner`; with 0 images the searches are calibrated alone.
      data: images that are not the model's, to calibrate by ("fingerprinted, but nobody registered"), as
        `fpgan.data.sources.open_other` takes them; by default the images that the model was trained on. Where these are not
        at hand, there are no thresholds for searches.
      out: a directory for a copy of the model, which gets all this instead of the model itself.

    Returns:
      The model, as loaded from the directory.

    Raises:
      FpganError: there is no such model, it ships with fpgan and there is no `out`, `out` is something else than a model
        directory, the images to generate are too few, or there are no such images.
    """
    original = find(path)
    if out is None and not Path(path).is_dir():
        raise FpganError(f"{path} ships with fpgan and stays as it is; give --out DIR, where a copy with the aligner is "
                         "written")
    target = Path(out or original)
    copied = None if target.resolve() == original.resolve() else original
    with exporting(target):
        check_place(target)
        model, source = load(original), None
        try:
            source = open_other(data or str(model.info.get("training", {}).get("data")), model.resolution)
        except FpganError:
            if data is not None or not images:
                raise
        params = about = None
        if images:
            network, params, about = fit_aligner(model, images, steps, seed, progress)
            model = dataclasses.replace(model, aligner=(network, params))
        thresholds = search_thresholds(model, source, seed) if source is not None else None
        save_aligner(target, params, about, {"search_thresholds": thresholds}, copied)
        return load(target.absolute())


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


def training_info(workdir: str | Path, config: ml_collections.ConfigDict, step: int) -> dict:
    """Returns what a model's config.json tells about its training."""
    data, history = read_json(Path(workdir) / "data.json"), read_history(workdir)
    some = {key: value for key, value in (("classes", data.get("classes")), ("history", history)) if value}
    return {"config": config.name, "seed": config.seed, "images_seen": step * config.batch_size, "data": data.get("name"),
            "data_size": data.get("size"), "licence": data.get("licence")} | some
