"""The training loop, and only the loop: data in, steps, logs, sample grids, checkpoints."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from fpgan.data.sources import open_source
from fpgan.distributed import runtime
from fpgan.distributed.devices import is_main, pmap, replicate, shard, unreplicate
from fpgan.distributed.preemption import StopFlag
from fpgan.distributed.profiler import StepTrace
from fpgan.errors import FpganError
from fpgan.networks.config import NetworkConfig
from fpgan.training.checkpoint import Checkpoints, check_config, last_step, resume_hint, settle_data, write_config
from fpgan.training.config import check_batch, flatten
from fpgan.training.logs import Log
from fpgan.training.monitor import Monitor, write_grids
from fpgan.training.state import STAGE_INTERVAL, TrainState, init_state, params_from_model, state_from_params
from fpgan.training.step import phases


class TrainingDiverged(FpganError):
    """A loss or a parameter is no longer finite."""


def train(config, workdir: str | Path, report: Callable[[str], None] = lambda line: None, *,
          trace: StepTrace | None = None) -> TrainState:
    """Trains, or continues to train, in a working directory.

    Killed anywhere and called again with the same arguments, it ends with the same parameters as a run that was never
    interrupted. On SIGTERM it saves and returns early, and the signal stays ignored. Several processes call it inside
    `runtime.together`.

    Args:
      config: the training config.
      workdir: holds config.json, checkpoints/, metrics.jsonl and the sample grids.
      report: is given each line of progress.
      trace: of some of the steps; none without it.

    Returns:
      The last state, unreplicated.

    Raises:
      FpganError: for bad settings or data; TrainingDiverged on NaN, with the step and the term named.
    """
    stop = StopFlag()
    try:
        return _train(config, Path(workdir), report, stop, trace)
    finally:
        stop.restore()


def _train(config, workdir: Path, report: Callable[[str], None], stop: StopFlag,
           trace: StepTrace | None) -> TrainState:
    """As train, with SIGTERM already noted."""
    report = report if is_main() else lambda line: None
    network = NetworkConfig.from_dict(config.network.to_dict())
    devices = jax.device_count()
    check_batch(config, devices)
    if is_main():
        check_config(workdir, config)
    source = open_source(config.data)
    report(f"data: {len(source):,} images of {source.name} at {source.resolution}x{source.resolution}; "
           f"licence: {source.licence}")
    if source.note:
        report(source.note)
    check_sameness(config, workdir, source)
    checkpoints = Checkpoints(workdir, config.keep.newest, config.keep.every)
    state = first_state(config, network, checkpoints, report)
    if is_main():  # nothing stands in the way of a run any more that could not be mended and tried again
        settle_data(workdir, source)
        write_config(workdir, config)
    start, last = int(state.step), config.total_images // config.batch_size
    images = real_batches(config, source, start)
    images = trace.follow(images, start) if trace else images
    draw = functools.partial(write_grids, workdir, network, source=source, seed=config.seed)
    draw(state)
    monitor = Monitor(config, network, source)
    steps = compile_phases(phases(config, network, config.batch_size // devices, config.data.resident))
    log = Log(workdir, start, last, config.batch_size, report)
    image_terms = bool(state.image_terms)
    replicated = replicate(state)
    with closing(checkpoints, log):
        for step in range(start, last):
            scalars = {}
            batch = next(images)
            if config.curriculum.bits_first and step % STAGE_INTERVAL == 0:
                image_terms = bool(unreplicate(replicated.image_terms))
            for phase in steps:
                if step % phase.interval == 0 and phase.image_terms in (None, image_terms):
                    replicated, logged = phase.run(replicated, batch)
                    scalars |= logged
            measured = monitor(step + 1, replicated)
            log.add(step + 1, scalars, measured)
            done = step + 1 == last or stop.agreed(step)
            if done or (step + 1) % config.every.checkpoint == 0 or (step + 1) % config.every.log == 0 or measured:
                flush(log)
            if done or (step + 1) % config.every.checkpoint == 0:
                state = save(checkpoints, replicated)
            if step + 1 == last or (step + 1) % config.every.grid == 0:
                draw(unreplicate(replicated))
            if done:
                break
    report(f"{'stopped' if int(state.step) < last else 'finished'} at step {int(state.step):,} of {last:,}; "
           f"saved in {workdir}")
    return state


def check_sameness(config, workdir: Path, source) -> None:
    """Ends a run whose processes differ in what has to be the same: config, data, and the checkpoints they see."""
    fleet = runtime.fleet()
    if fleet:
        fleet.hint = functools.partial(resume_hint, workdir)
        seen = {"number of images": len(source), "last checkpoint in --workdir": last_step(workdir)}
        local = ("data.data_dir", "data.path", "data.workers")
        fleet.meet({key: value for key, value in flatten(config).items() if key not in local} | seen)


@contextlib.contextmanager
def closing(checkpoints: Checkpoints, log: Log):
    """Waits in the end until the last save is on disk.

    Not after an error in one process of several, which would wait for the others, as they for it.
    """
    alike = True
    try:
        yield
    except TrainingDiverged:
        raise
    except BaseException:
        alike = not runtime.fleet()
        raise
    finally:
        if alike:
            checkpoints.close()
        log.close()


def first_state(config, network: NetworkConfig, checkpoints: Checkpoints, report) -> TrainState:
    """The newest checkpoint of this run, if there is one; else the model `init_from`, if given; else a fresh start."""
    state = init_state(config, network)
    if checkpoints.latest is None:
        if config.init_from:
            state = state_from_params(config, params_from_model(config.init_from, network, state.params))
            report(f"starting from the model {config.init_from}")
        counts = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in state.params.items()}
        report("parameters: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))
        return state
    state = checkpoints.restore(state)
    report(f"continuing at step {int(state.step):,}")
    return state


def real_batches(config, source, start: int):
    """Iterates over what the phases take as images: the whole set, on the devices, or batch after batch."""
    if config.data.resident:
        images = replicate(source.load_all())
        while True:
            yield images
    from fpgan.data.pipeline import stream

    batches = stream(source, config.batch_size, config.seed, start, jax.process_index(), jax.process_count(),
                     config.data.workers)
    for batch in batches:
        yield shard(batch)


def compile_phases(listed) -> list:
    """The phases, each mapped over the devices as one program."""
    return [dataclasses.replace(phase, run=pmap(phase.run)) for phase in listed]


def flush(log: Log) -> None:
    """Writes the log so far; raises TrainingDiverged if a scalar in it is not finite."""
    bad = log.flush()
    if bad:
        step, term = bad
        raise TrainingDiverged(f"{term} is not finite at step {step}; the last checkpoint is intact. "
                               "Lower the learning rates, or raise objective.r1_gamma, in a new --workdir")


def save(checkpoints: Checkpoints, replicated: TrainState) -> TrainState:
    """Saves the state if all parameters are finite, and returns it unreplicated."""
    state = unreplicate(replicated)
    for name, tree in state.params.items():
        if not all(np.isfinite(x).all() for x in jax.tree.leaves(tree)):
            raise TrainingDiverged(f"the parameters of the {name} are not finite at step {int(state.step)}; "
                                   "the last checkpoint is intact")
    checkpoints.save(state)
    return state
