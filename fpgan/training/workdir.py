"""What a run leaves beside its checkpoints: its config, the data that it learns from, and where its history bent.

    config.json     every field, by dotted key
    data.json       the images: name, licence, number
    history.json    the places at which the run went on with other settings than it was begun with, or from another run:
                    {"history": [{"step", "by": the flag, "changed": {key: [before, after]}, for a fork also "from" and
                    the "history" of that run}]}
"""

import json
import os
from pathlib import Path

import ml_collections

from fpgan.data.sources import ImageSource
from fpgan.errors import FpganError, shown
from fpgan.io.files import write_file
from fpgan.io.inputs import read_json
from fpgan.training.checkpoint import last_step
from fpgan.training.config import default, flatten, renamed, set_field

# What may change between the start of a run and its continuation: nothing that the result depends on.
_FREE = ("every.", "evaluation.", "keep.", "export.", "data.data_dir", "data.workers", "data.resident")
# What a fork has to share with the run that it goes on from: the state has its shape, and its steps count so many images.
_SHARED = ("network.", "batch_size")


def read_config(workdir: str | os.PathLike) -> ml_collections.ConfigDict:
    """Returns the config that a run was begun with, under the keys of today; what an older version lacks has its default.

    Raises:
      FpganError: if the directory holds no run, or its config.json is damaged or of a newer version.
    """
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise FpganError(f"no training run in {workdir}: {path.name} is missing; expected the --workdir of fpgan train")
    config = default()
    known = flatten(config)
    for key, value in renamed(read_json(path)).items():
        if key not in known:
            raise FpganError(f"{path}: this fpgan does not know {shown(key)!r}; use the version that the run was begun with")
        kinds = (int, float) if isinstance(known[key], float) else (type(known[key]),)
        if type(value) not in kinds:
            raise FpganError(f"{path}: {key} is {shown(value)}; expected a value of type {kinds[-1].__name__}, such as "
                             f"{known[key]!r}; the file was changed or damaged: restore it")
        set_field(config, key, value)
    return config


def write_config(workdir: str | os.PathLike, config: ml_collections.ConfigDict) -> None:
    """Writes the config into the working directory."""
    _write_json(Path(workdir) / "config.json", flatten(config))


def check_config(workdir: str | os.PathLike, config: ml_collections.ConfigDict, extend: bool = False) -> dict | None:
    """Checks that a used working directory was begun with the same config; one without a checkpoint takes any.

    More images than it was begun with are no other experiment as long as its learning rates have not begun to fall.

    Args:
      workdir: of the run, or of one that is to be begun.
      config: the training config.
      extend: allow more images also after that.

    Returns:
      What is to be added to the history before the run goes on; None if nothing is.

    Raises:
      FpganError: if the run there was begun with another one, which would make it another experiment.
    """
    if last_step(workdir) is None or not (Path(workdir) / "config.json").exists():
        return None
    begun, fields = flatten(read_config(workdir)), flatten(config)
    differing = [key for key in sorted(fields) if begun[key] != fields[key] and not key.startswith(_FREE)]
    if differing == ["total_images"] and fields["total_images"] > begun["total_images"]:
        return _extension(workdir, begun, fields, extend)
    for key in differing:
        raise FpganError(f"{workdir} was begun with {key} = {begun[key]!r}, now it is {fields[key]!r}; "
                         "give the old value to continue, another --workdir, or --fork to go on from there in another")
    return None


def _extension(workdir: str | os.PathLike, begun: dict, fields: dict, extend: bool) -> dict | None:
    """Returns the entry in the history of a run that is to be trained longer, None if it needs none; refuses it unasked."""
    old, new, decay = begun["total_images"], fields["total_images"], fields["optimizer.decay_images"]
    step = last_step(workdir) or 0
    images = step * fields["batch_size"]
    if not decay or images <= old - decay:
        return None
    if not extend:
        now = max(0.0, (old - images) / decay)
        then = min(1.0, (new - images) / decay)
        raise FpganError(f"{workdir} was begun with total_images = {old:,}, so its learning rates have fallen since image "
                         f"{old - decay:,}, to {now:.0%}; with {new:,} they would rise again to {then:.0%}, which is "
                         "another experiment than a run of that length. Give --extend to do so, which the run records, or "
                         "give another --workdir")
    return {"step": step, "by": "--extend", "changed": {"total_images": [old, new]}}


def check_fork(run: str | os.PathLike, workdir: str | os.PathLike, config: ml_collections.ConfigDict) -> dict:
    """Checks that a run with this config can go on from the newest state of another run.

    Args:
      run: the working directory of the other run.
      workdir: of the new run.
      config: of the new run.

    Returns:
      The first entry of the new run's history.

    Raises:
      FpganError: if the other run has no checkpoint, another architecture or batch size, or has seen more images than this
        one is to see.
    """
    if Path(run).resolve() == Path(workdir).resolve():
        raise FpganError(f"--fork {run} is the --workdir itself; expected another directory for the new run")
    theirs, ours = flatten(read_config(run)), flatten(config)
    changed = {key: [theirs[key], ours[key]] for key in sorted(ours)
               if theirs[key] != ours[key] and not key.startswith(_FREE)}
    for key, (before, after) in changed.items():
        if key.startswith(_SHARED):
            raise FpganError(f"cannot fork {run}: there {key} is {before!r}, here {after!r}; set the same")
    step = last_step(run)
    if step is None:
        raise FpganError(f"cannot fork {run}: it has no checkpoint yet; leave --fork out to begin anew")
    if config.total_images < step * config.batch_size:
        raise FpganError(f"cannot fork {run}: it has seen {step * config.batch_size:,} images, and total_images is "
                         f"{config.total_images:,}; those are counted, so set more")
    entry = {"step": step, "by": "--fork", "from": os.fspath(run), "changed": changed}
    history = read_history(run)
    return entry | ({"history": history} if history else {})


def next_history(workdir: str | os.PathLike, config: ml_collections.ConfigDict, fork: str | os.PathLike | None = None,
                 extend: bool = False) -> list[dict]:
    """Checks that a run may go on, or begin, with this config, and returns the history that it has then.

    Args:
      workdir: of the run.
      config: the training config.
      fork: the run from whose state it begins, where it has none of its own.
      extend: see check_config.

    Raises:
      FpganError: see check_config and check_fork.
    """
    history, entry = read_history(workdir), check_config(workdir, config, extend)
    begun, origin = last_step(workdir) is not None, history[0].get("from", "") if history else ""
    if fork and not begun:
        return [check_fork(fork, workdir, config)]
    if fork and not (origin and Path(origin).resolve() == Path(fork).resolve()):
        raise FpganError(f"{workdir} holds a run that is no fork of {fork}; give another --workdir")
    if not begun and not origin:
        return []
    if not begun:
        raise FpganError(f"{workdir} was begun as a fork of {origin} and has no checkpoint yet; give --fork {origin} again, "
                         "or another --workdir")
    return [*history, entry] if entry else history


def read_history(workdir: str | os.PathLike) -> list[dict]:
    """Returns the history of a run, empty where it went on as it was begun; raises FpganError if its file is damaged."""
    path = Path(workdir) / "history.json"
    history = read_json(path).get("history", []) if path.exists() else []
    if not isinstance(history, list) or not all(isinstance(entry, dict) and isinstance(entry.get("from", ""), str)
                                                for entry in history):
        raise FpganError(f"{path}: history is {shown(history)}; expected a list of entries with a step each: the file was "
                         "changed or damaged, restore it")
    return history


def write_history(workdir: str | os.PathLike, history: list[dict]) -> None:
    """Writes the history of a run; one that goes on as it was begun has no such file."""
    path = Path(workdir) / "history.json"
    if history:
        _write_json(path, {"history": history})
    else:
        path.unlink(missing_ok=True)


def pin_dataset(workdir: str | os.PathLike, source: ImageSource, labeled: bool = False) -> None:
    """Notes in WORKDIR/data.json what the run learns from, its classes too if asked, or checks that it is still the same.

    Raises:
      FpganError: if there is a checkpoint, and the number of images, and with it their order, has changed, or the classes.
    """
    path = Path(workdir) / "data.json"
    data = {"name": source.name, "licence": source.licence, "size": len(source)}
    data |= {"classes": list(source.classes)} if labeled else {}
    begun = read_json(path) if path.exists() and last_step(workdir) is not None else data
    if begun.get("size") != data["size"]:
        raise FpganError(f"{workdir} was begun with {begun.get('size')} images, now there are {data['size']}; "
                         "restore them to continue, or give another --workdir")
    if begun.get("classes") != data.get("classes"):
        raise FpganError(f"{workdir} was begun with other classes; restore them to continue, or give another --workdir")
    _write_json(path, data)


def _write_json(path: Path, value) -> None:
    write_file(path, (json.dumps(value, indent=2) + "\n").encode())
