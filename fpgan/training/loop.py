"""The training loop, and only the loop: data in, steps, logs, sample grids, checkpoints, each when it is due."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import ml_collections
import numpy as np

from fpgan.data.sources import ImageSource, open_source
from fpgan.distributed import runtime
from fpgan.distributed.devices import is_main, pmap, replicate, shard, unreplicate
from fpgan.distributed.preemption import StopFlag
from fpgan.distributed.profiler import StepTrace
from fpgan.errors import FpganError, reason
from fpgan.io.files import NoLocks, locked
from fpgan.training.checkpoint import Checkpoints, last_step, resume_hint
from fpgan.training.config import check_batch, flatten
from fpgan.training.logs import Log
from fpgan.training.monitor import open_monitor, write_grids
from fpgan.training.state import (
    STAGE_INTERVAL,
    TrainState,
    init_state,
    params_from_model,
    state_from_fork,
    state_from_params,
)
from fpgan.training.step import Phase, phases
from fpgan.training.workdir import next_history, pin_dataset, write_config, write_history


class TrainingDiverged(FpganError):
    """A loss or a parameter is no longer finite."""


def train(config: ml_collections.ConfigDict, workdir: str | Path, report: Callable[[str], None] = lambda line: None, *,
          fork: str | Path | None = None, extend: bool = False, trace: StepTrace | None = None) -> TrainState:
    """Trains, or continues to train, in a working directory.

    Killed anywhere and called again with the same arguments, it ends with the same parameters as a run that was never
    interrupted. On SIGTERM it saves and returns early, and the signal stays ignored. Several processes call it inside
    `runtime.run`.

    Args:
      config: the training config.
      workdir: holds config.json, checkpoints/, metrics.jsonl and the sample grids.
      report: is given each line of progress.
      fork: the working directory of a run from whose newest state this one begins, with other weights for instance.
      extend: go on with more images than the run was begun with also after its learning rates have begun to fall.
      trace: of some of the steps; none without it.

    Returns:
      The last state, unreplicated.

    Raises:
      FpganError: for bad settings or data; TrainingDiverged on NaN, with the step and the term named.
    """
    report = report if is_main() else lambda line: None
    stop, workdir = StopFlag(), Path(workdir)
    try:
        check_batch(config, jax.device_count())
        with locking(workdir, report):
            run = set_up(config, workdir, report, fork, extend)
            run.images = trace.follow(run.images, run.start) if trace else run.images
            with telling_where_to_resume(workdir), closing(run):
                loop(run, config.every, stop)
    finally:
        stop.restore()
    done = int(run.saved.step)
    report(f"{'stopped' if done < run.last else 'finished'} at step {done:,} of {run.last:,}; saved in {workdir}")
    return run.saved


@dataclasses.dataclass
class Run:
    """What a run works with, and its state.

    Attributes:
      start, last: steps done before, and in the end.
      state: a TrainState on the devices.
      saved: the same, unreplicated, as it was last restored or saved.
      phases: of a step, compiled.
      staged: whether the curriculum lets the image terms in and out.
      image_terms: whether they are in.
      images: gives what the phases of each step take as images.
      monitor: measures a replicated state.
      draw: draws the sample grids of an unreplicated state.
      checkpoints, log: where states and scalars go.
    """

    start: int
    last: int
    state: TrainState
    saved: TrainState
    phases: list[Phase]
    staged: bool
    image_terms: bool
    images: Iterator
    monitor: Callable[[TrainState], dict[str, float]]
    draw: Callable[[TrainState], object]
    checkpoints: Checkpoints
    log: Log

    def step(self, number: int) -> dict:
        """Runs the phases of a step that are due; returns their scalars, arrays [devices]."""
        images, scalars = next(self.images), {}
        if self.staged and number % STAGE_INTERVAL == 0:
            self.image_terms = bool(unreplicate(self.state.image_terms))
        for phase in self.phases:
            if number % phase.interval == 0 and phase.image_terms in (None, self.image_terms):
                self.state, logged = phase.run(self.state, images)
                scalars |= logged
        return scalars

    def flush(self) -> None:
        """Writes the log so far; raises TrainingDiverged if a scalar in it is not finite."""
        bad = self.log.flush()
        if bad:
            step, term = bad
            raise TrainingDiverged(f"{term} is not finite at step {step}; the last checkpoint is intact. "
                                   "Lower the learning rates, or raise objective.r1_gamma, in a new --workdir")

    def save(self) -> None:
        """Saves the state; raises TrainingDiverged if a parameter is not finite."""
        state = unreplicate(self.state)
        for name, tree in state.params.items():
            if not all(np.isfinite(x).all() for x in jax.tree.leaves(tree)):
                raise TrainingDiverged(f"the parameters of the {name} are not finite at step {int(state.step)}; "
                                       "the last checkpoint is intact")
        self.checkpoints.save(state)
        self.saved = state


def loop(run: Run, every: ml_collections.ConfigDict, stop: StopFlag) -> None:
    """Runs the steps, and after each what is due: measurement, log, checkpoint, sample grids.

    Args:
      run: is moved on.
      every: the config's `every`, intervals in steps.
      stop: asked after each step; a run that is stopped saves, but neither measures nor draws for that.
    """
    for number in range(run.start, run.last):
        with jax.transfer_guard("disallow"):  # what moves between host and devices in a step says so
            scalars = run.step(number)
        done, last = number + 1, number + 1 == run.last
        measured = run.monitor(run.state) if due(every.evaluate, done, last) else {}
        end = last or stop.agreed(number)
        run.log.add(done, scalars, measured)
        save = due(every.checkpoint, done, end)
        if save or measured or due(every.log, done, end):
            run.flush()
        if save:
            run.save()
        if due(every.grid, done, last):
            run.draw(unreplicate(run.state))
        if end:
            break


def due(every: int, done: int, end: bool) -> bool:
    """Returns whether something that happens every so many steps (0: never), and in the end, is to happen after `done`
    steps.
    """
    return every > 0 and (end or done % every == 0)


def set_up(config: ml_collections.ConfigDict, workdir: Path, report: Callable[[str], None], fork: str | Path | None = None,
           extend: bool = False) -> Run:
    """Opens data, checkpoints and log, makes the state, and compiles the phases; what the user can mend is told here."""
    history = next_history(workdir, config, fork, extend) if is_main() else []
    source = open_source(config.data, config.network.resolution)
    report(f"data: {len(source):,} images of {source.name} at {source.resolution}x{source.resolution}; "
           f"licence: {source.licence}")
    if source.note:
        report(source.note)
    check_classes(config, source)
    check_sameness(config, workdir, source, fork)
    checkpoints = Checkpoints(workdir, config.keep.newest, config.keep.every)
    state = first_state(config, checkpoints, report, fork)
    monitor = open_monitor(config, source)
    if is_main():  # nothing stands in the way of a run any more that could not be mended and tried again
        pin_dataset(workdir, source, labeled=config.network.label_size > 0)
        write_history(workdir, history)
        write_config(workdir, config)
    if fork:
        checkpoints.save(state)
    draw = functools.partial(write_grids, workdir, config, source)
    if config.every.grid:
        draw(state)
    start, last = int(state.step), config.total_images // config.batch_size
    return Run(start, last, replicate(state), state,
               compile_phases(phases(config, config.batch_size // jax.device_count(), config.data.resident)),
               config.curriculum.bits_first, bool(state.image_terms), real_batches(config, source, start), monitor, draw,
               checkpoints, Log(workdir, start, last, config.batch_size, report))


def check_classes(config: ml_collections.ConfigDict, source: ImageSource) -> None:
    """Raises FpganError if a model with classes has others than the data."""
    size, names = config.network.label_size, source.classes
    if size and size != len(names):
        told = f"classes of {source.name}: {', '.join(names[:5])}{', ...' * (len(names) > 5)}" if names else (
            "classes: expected a set of TFDS with the feature 'label', or a folder with a subfolder for each")
        raise FpganError(f"network.label_size is {size}, but there are {len(names)} {told}; set it to "
                         f"{len(names)}" + " (0: without classes)" * bool(names))


def check_sameness(config: ml_collections.ConfigDict, workdir: Path, source: ImageSource, fork: str | Path | None) -> None:
    """Ends a run whose processes differ in what has to be the same: config, data, and the checkpoints they see."""
    group = runtime.process_group()
    if group:
        group.hint = functools.partial(resume_hint, workdir)
        seen = {"number of images": len(source), "last checkpoint in --workdir": last_step(workdir),
                "last checkpoint in --fork": fork and last_step(fork)}
        local = ("data.data_dir", "data.path", "data.workers")
        group.barrier({key: value for key, value in flatten(config).items() if key not in local} | seen)


@contextlib.contextmanager
def locking(workdir: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Keeps a second run out of a working directory, by a lock of process 0; where there are no locks, says so."""
    with contextlib.ExitStack() as stack:
        if is_main():
            try:
                stack.enter_context(locked(workdir / ".lock", wait=False))
            except NoLocks:
                report(f"{workdir} is on a file system without locks; see to it that no second run is started in it")
        yield


@contextlib.contextmanager
def telling_where_to_resume(workdir: Path) -> Iterator[None]:
    """Adds to an error that ends a run, such as a full disk, where the run can go on."""
    try:
        yield
    except (FpganError, OSError) as error:
        if isinstance(error, TrainingDiverged) or "run the same command again" in str(error):
            raise
        place = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        raise FpganError(f"{place}{reason(error)}; {resume_hint(workdir)}") from error


@contextlib.contextmanager
def closing(run: Run) -> Iterator[None]:
    """Waits in the end until the last save is on disk.

    Not after an error in one process of several, which would wait for the others, as they for it.
    """
    alike = True
    try:
        yield
    except TrainingDiverged:
        raise
    except BaseException:
        alike = not runtime.process_group()
        raise
    finally:
        if alike:
            run.checkpoints.close()
        run.log.close()


def first_state(config: ml_collections.ConfigDict, checkpoints: Checkpoints, report: Callable[[str], None],
                fork: str | Path | None = None) -> TrainState:
    """Returns the newest checkpoint of this run; without one that of `fork`, the model `init_from`, or a fresh start."""
    fresh = init_state(config)
    state = checkpoints.restore_newest(fresh, report)
    if state is not None:
        report(f"continuing at step {int(state.step):,}")
        return state
    if fork:
        others = Checkpoints(fork, read_only=True)
        state = state_from_fork(config, others.restore(fresh))
        others.close()
        report(f"going on from step {int(state.step):,} of {fork}")
        return state
    if config.init_from:
        fresh = state_from_params(config, params_from_model(config, fresh.params))
        report(f"starting from the model {config.init_from}")
    counts = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in fresh.params.items()}
    report("parameters: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    return fresh


def real_batches(config: ml_collections.ConfigDict, source: ImageSource, start: int) -> Iterator:
    """Yields what the phases take as images: the whole set, on the devices, or batch after batch from a step on."""
    labeled = bool(config.network.label_size)
    if config.data.resident:
        images = source.load_all()
        images = replicate((images, source.labels(np.arange(len(source)))) if labeled else images)
        while True:
            yield images
    from fpgan.data.pipeline import stream

    batches = stream(source, config.batch_size, config.seed, start, jax.process_index(), jax.process_count(),
                     config.data.workers, labeled)
    for batch in batches:
        yield jax.tree.map(shard, batch)


def compile_phases(listed: tuple[Phase, ...]) -> list[Phase]:
    """Returns the phases, each mapped over the devices as one program."""
    return [dataclasses.replace(phase, run=pmap(phase.run)) for phase in listed]
