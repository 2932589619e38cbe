"""Traces of what devices and threads do, in the format of jax.profiler, which XProf, TensorBoard and Perfetto show."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

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
