"""Checkpoints of a training run: asynchronous, atomic, the newest few kept and every n-th for ever (orbax)."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from fpgan.errors import FpganError, quiet_absl
from fpgan.io.files import reason, write_file
from fpgan.io.inputs import read_json
from fpgan.training.config import default, flatten, renamed
from fpgan.training.state import TrainState

# What may change between the start of a run and its continuation: nothing that the result depends on.
_FREE = ("every.", "evaluation.", "keep.", "export.", "data.data_dir", "data.workers", "data.resident")


class Checkpoints:
    """The checkpoints below a working directory.

    A checkpoint appears under its step's name once it is complete; a killed save leaves only a temporary directory, which
    the next run removes. The place in the data needs no record: it is a function of the step.
    """

    def __init__(self, workdir: str | os.PathLike, newest: int = 2, every: int = 0, read_only: bool = False):
        """Opens or creates WORKDIR/checkpoints; `newest` and `every` (in steps, 0: none) say what is kept.

        With `read_only` nothing is created or removed, so that a run in progress is not disturbed.
        """
        policies = ocp.checkpoint_managers.preservation_policy
        kept = [policies.LatestN(newest)] + ([policies.EveryNSteps(every)] if every else [])
        writing = dict(preservation_policy=policies.AnyPreservationPolicy(kept), cleanup_tmp_directories=True,
                       enable_async_checkpointing=True)
        reading = dict(read_only=True, save_interval_steps=0, create=False)
        options = ocp.CheckpointManagerOptions(**reading if read_only else writing)
        with quiet_absl():
            self._manager = ocp.CheckpointManager(Path(workdir).absolute() / "checkpoints", options=options)

    @property
    def latest(self) -> int | None:
        """The newest complete checkpoint's step, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Begins to save an unreplicated state in the background; waits for the save before it, if that still runs."""
        step = int(state.step)
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(jax.tree.map(np.asarray, _as_dict(state))))

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """Reads a checkpoint.

        Args:
          like: a state of the same structure; its shapes are checked.
          step: which one; the newest if None.

        Raises:
          FpganError: if there is none, or it does not have the structure of `like`.
        """
        step = self.latest if step is None else step
        if step is None:
            raise FpganError(f"no checkpoint in {self._manager.directory}; train first: "
                             "fpgan train --config ... --workdir ...")
        if step not in self._manager.all_steps():
            steps = ", ".join(map(str, self._manager.all_steps()))
            raise FpganError(f"no checkpoint of step {step} in {self._manager.directory}; there are: {steps or 'none'}")
        template = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), _as_dict(like))
        try:
            restored = self._manager.restore(step, args=ocp.args.StandardRestore(template))
        except (ValueError, KeyError, FileNotFoundError) as error:
            raise FpganError(f"the checkpoint {self._manager.directory}/{step} cannot be read ({reason(error)}); "
                             "remove that folder to go on from the one before it") from error
        restored["optimizer"] = {name: type(moments)(**restored["optimizer"][name])
                                 for name, moments in like.optimizer.items()}
        return TrainState(**jax.tree.map(jnp.asarray, restored))

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def last_step(workdir: str | os.PathLike) -> int | None:
    """The newest complete checkpoint's step, or None; reads names only, as it may be called from any thread."""
    try:
        return max((int(name) for name in os.listdir(Path(workdir) / "checkpoints") if name.isdigit()), default=None)
    except FileNotFoundError:
        return None


def resume_hint(workdir: str | os.PathLike) -> str:
    """Says what is left of a run that was cut off, and what to do."""
    step = last_step(workdir)
    if step is None:
        return "nothing was saved yet; run the same command again to begin anew"
    return f"the last saved step is {step:,} in {workdir}; run the same command again to go on from there"


def settle_data(workdir: str | os.PathLike, source) -> None:
    """Notes in WORKDIR/data.json what the run learns from, or checks that it is still the same.

    Raises:
      FpganError: if the number of images has changed, and with it their order.
    """
    path = Path(workdir) / "data.json"
    data = {"name": source.name, "licence": source.licence, "size": len(source)}
    begun = read_json(path) if path.exists() else data
    if begun.get("size") != data["size"]:
        raise FpganError(f"{workdir} was begun with {begun.get('size')} images, now there are {data['size']}; "
                         "restore them to continue, or give another --workdir")
    write_file(path, (json.dumps(data, indent=2) + "\n").encode())


def check_config(workdir: str | os.PathLike, config) -> None:
    """Checks that a used working directory was begun with the same config.

    Raises:
      FpganError: if the run there was begun with another one, which would make it another experiment.
    """
    path, fields = Path(workdir) / "config.json", flatten(config)
    if path.exists():
        begun = flatten(default()) | renamed(read_json(path))  # what an older version wrote lacks newer fields
        for key in sorted(begun.keys() | fields.keys()):
            if begun.get(key) != fields.get(key) and not key.startswith(_FREE):
                raise FpganError(f"{workdir} was begun with {key} = {begun.get(key)!r}, now it is {fields.get(key)!r}; "
                                 "give the old value to continue, or another --workdir")


def write_config(workdir: str | os.PathLike, config) -> None:
    """Writes the config into the working directory."""
    write_file(Path(workdir) / "config.json", (json.dumps(flatten(config), indent=2) + "\n").encode())


def _as_dict(state: TrainState) -> dict:
    """The state as nested dicts; orbax writes names, and named tuples would come back as dicts."""
    fields = {name: getattr(state, name) for name in state.__dataclass_fields__}
    return fields | {"optimizer": {name: moments._asdict() for name, moments in state.optimizer.items()}}
