"""Checkpoints of a training run: asynchronous, atomic, the newest few kept and every n-th for ever (orbax)."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from fpgan.distributed import runtime
from fpgan.distributed.devices import is_main
from fpgan.errors import FpganError, os_reason, quiet_absl, reason
from fpgan.training.state import TrainState


class DamagedCheckpoint(FpganError):
    """A checkpoint that is there cannot be read."""


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
        self._options = ocp.CheckpointManagerOptions(**reading if read_only else writing)
        self._workdir, self._saving = Path(workdir), None
        self._quiet = contextlib.ExitStack()  # orbax logs what it raises, from threads of its own, over hundreds of lines
        self._quiet.enter_context(quiet_absl(errors=True))
        _ignore_closed_loops()
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        with self._telling_of_writes():
            return ocp.CheckpointManager(self._workdir.absolute() / "checkpoints", options=self._options)

    @property
    def latest(self) -> int | None:
        """The newest complete checkpoint's step, or None."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Begins to save an unreplicated state in the background; waits for the save before it, if that still runs.

        Raises:
          FpganError: this save or the one before it cannot be written; names the place and the last good step.
        """
        step = int(state.step)
        if step not in self._manager.all_steps():
            with self._telling_of_writes():
                self._manager.wait_until_finished()
                self._saving = step
                self._manager.save(step, args=ocp.args.StandardSave(jax.tree.map(np.asarray, _as_dict(state))))

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """Reads a checkpoint.

        Args:
          like: a state of the same structure; its shapes are checked.
          step: which one; the newest if None.

        Raises:
          FpganError: if there is none, or it does not have the structure of `like`; DamagedCheckpoint if it is incomplete.
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
            kind = FpganError if "structures do not match" in str(error) else DamagedCheckpoint
            raise kind(f"the checkpoint {self._manager.directory}/{step} cannot be read ({reason(error):.200}); "
                       "remove that folder to go on from the one before it") from error
        restored["optimizer"] = {name: type(moments)(**restored["optimizer"][name])
                                 for name, moments in like.optimizer.items()}
        return TrainState(**jax.tree.map(jnp.asarray, restored))

    def restore_newest(self, like: TrainState, report: Callable[[str], None]) -> TrainState | None:
        """Reads the newest checkpoint that can be read; sets aside what is newer, and tells so.

        Args:
          like: as in `restore`.
          report: is given a line for each checkpoint that is set aside.

        Returns:
          The state; None if there is no checkpoint.

        Raises:
          FpganError: if there are checkpoints, but none that can be read.
        """
        while self.latest is not None:
            step = self.latest
            try:
                state, problem = self.restore(like), None
            except DamagedCheckpoint as error:
                state, problem = None, error
            self._agree({f"a checkpoint of step {step} that can be read": state is not None})
            if state is not None:
                return state
            if len(self._manager.all_steps()) == 1:
                raise FpganError(f"{problem}; there is none: remove {self._manager.directory} to begin anew") from problem
            if is_main():
                place = _set_aside(self._manager.directory, step)
                report(f"the checkpoint of step {step:,} cannot be read; moved it to {place}, going on from the one before")
            self._agree({})
            self._manager.close()
            self._manager = self._open()  # orbax takes the layout of all checkpoints from the newest one when it opens them
        return None

    def close(self) -> None:
        """Waits until everything is on disk.

        Raises:
          FpganError: the last save cannot be written.
        """
        with self._quiet, self._telling_of_writes():
            self._manager.wait_until_finished()
            self._manager.close()

    @contextlib.contextmanager
    def _telling_of_writes(self) -> Iterator[None]:
        """Turns what the block raises because the disk is full, or the like, into one line."""
        try:
            yield
        except Exception as error:
            why = os_reason(error)
            if why is None or isinstance(error, FpganError):
                raise
            place = self._workdir / "checkpoints" / ("" if self._saving is None else str(self._saving))
            raise FpganError(f"{place}: cannot be written ({why}), mend that; {resume_hint(self._workdir)}") from error

    def _agree(self, facts: dict) -> None:
        """Waits for the other processes of a run, which have to see the same."""
        group = runtime.process_group()
        if group:
            group.barrier(facts)


def _ignore_closed_loops() -> None:
    """Keeps from the terminal what tensorstore's threads say when one of several reads or writes at once has failed.

    The failure itself is raised; the others then find their event loop closed, where nobody can catch that.
    """
    former = sys.unraisablehook
    if getattr(former, "ignores_closed_loops", False):
        return

    def hook(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            former(unraisable)

    hook.ignores_closed_loops = True
    sys.unraisablehook = hook
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


def _set_aside(checkpoints: Path, step: int) -> Path:
    """Moves a checkpoint to a name beside the others' folder that no other has, and returns that."""
    folder = Path(checkpoints).parent / "damaged"
    folder.mkdir(exist_ok=True)
    number = 0
    while (place := folder / f"{step}-{number}").exists():
        number += 1
    return Path(checkpoints, str(step)).rename(place)


def last_step(workdir: str | os.PathLike) -> int | None:
    """Returns the newest complete checkpoint's step, or None; reads names only, as it may be called from any thread."""
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


def _as_dict(state: TrainState) -> dict:
    """Returns the state as nested dicts; orbax writes names, and named tuples would come back as dicts."""
    fields = {name: getattr(state, name) for name in state.__dataclass_fields__}
    return fields | {"optimizer": {name: moments._asdict() for name, moments in state.optimizer.items()}}
