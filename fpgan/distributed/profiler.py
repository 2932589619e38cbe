"""Traces of what devices and threads do, in the format of jax.profiler, which XProf, TensorBoard and Perfetto show."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

from fpgan.errors import FpganError, reason

_HOST_LEVEL = 2  # what XLA and the runtime say of themselves; calls of Python would be thousands of events a step


def start_trace(folder: str | os.PathLike) -> None:
    """Starts to record a trace, which `stop_trace` writes below a folder.

    Raises:
      FpganError: the folder cannot be written, or a trace is being recorded.
    """
    import jax

    options = jax.profiler.ProfileOptions()
    options.host_tracer_level, options.python_tracer_level = _HOST_LEVEL, 0
    try:
        os.makedirs(folder, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise OSError("no permission")
        jax.profiler.start_trace(os.fspath(folder), profiler_options=options)
    except (OSError, RuntimeError) as error:
        raise FpganError(f"{os.fspath(folder)}: no trace can be recorded there ({reason(error)})") from error


def stop_trace() -> None:
    """Ends the recording and writes it."""
    import jax

    jax.profiler.stop_trace()


@contextlib.contextmanager
def tracing(folder: str | os.PathLike) -> Iterator[None]:
    """Records a trace while the block runs."""
    start_trace(folder)
    try:
        yield
    finally:
        stop_trace()


def step(name: str, number: int):
    """Returns a context that is a step of this name and number in a trace; outside one it does nothing."""
    import jax

    return jax.profiler.StepTraceAnnotation(name, step_num=number)


class StepTrace:
    """A trace of some steps of a run, each named by its number; to be used as a context, which ends it whatever happens.

    Attributes:
      folder: where it is written.
      first, stop: the first step, and the one behind the last.
    """

    def __init__(self, folder: str | os.PathLike, first: int, stop: int):
        self.folder, self.first, self.stop = folder, first, stop
        self._recording = False
        self.written = False

    def follow(self, batches: Iterable, start: int) -> Iterator:
        """Yields what a loop takes for its steps, from step `start` on; a step lasts until the next one is asked for."""
        for number, batch in enumerate(batches, start):
            if number == self.first:
                start_trace(self.folder)
                self._recording = True
            if number == self.stop:
                self._end()
            with step("step", number) if self._recording else contextlib.nullcontext():
                yield batch

    def __enter__(self) -> StepTrace:
        return self

    def __exit__(self, *_) -> None:
        self._end()

    def _end(self) -> None:
        """Writes the trace, with what the devices still have to do."""
        if not self._recording:
            return
        import jax

        self._recording = False
        with jax.transfer_guard("allow"):
            for device in jax.local_devices():  # work on a device is done in the order in which it came
                (jax.device_put(0.0, device) + 1).block_until_ready()
        stop_trace()
        self.written = True


def parse_steps(text: str) -> tuple[int, int]:
    """Parses FIRST:STOP, such as 100:110 for the steps 100 to 109; raises FpganError for anything else."""
    first, colon, stop = text.partition(":")
    if not (colon and first.isdecimal() and stop.isdecimal() and int(first) < int(stop)):
        raise FpganError(f"{text!r} are no steps; expected FIRST:STOP, such as 100:110 for the steps 100 to 109")
    return int(first), int(stop)
