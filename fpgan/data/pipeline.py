"""The input pipeline: batches in the order of `shuffle.py`, read ahead by grain on threads or processes."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import threading
from typing import TYPE_CHECKING

from fpgan.data.shuffle import batch_indices
from fpgan.errors import missing_extra

if TYPE_CHECKING:
    from fpgan.data.sources import ImageSource

_STEPS = 2**31 - 1
_AHEAD = 4  # batches read ahead


def read_batch(step: int, source: ImageSource, batch_size: int, seed: int, process_index: int, process_count: int,
               labeled: bool = False):
    """Reads one process's share of the batch of one step: uint8 [batch_size // process_count, R, R, 3], with its classes."""
    indices = batch_indices(seed, step, batch_size, len(source), process_index, process_count)
    return (source.read(indices), source.labels(indices)) if labeled else source.read(indices)


def stream(source: ImageSource, batch_size: int, seed: int, start_step: int = 0, process_index: int = 0,
           process_count: int = 1, workers: int = 0, labeled: bool = False):
    """Yields the training batches of one process, for ever.

    Sample i of the global batch of step s is image `shuffled_index(seed, s * batch_size + i, len(source))`:
    the stream has no state, so a run is resumed by start_step alone, the batches do not depend on the
    number of workers, and the shares of all processes together make the same global batches as one process
    alone.

    Args:
      source: an ImageSource.
      batch_size: images per step over all processes, a multiple of process_count.
      seed: int in [0, 2^32).
      start_step: the step of the first batch.
      process_index: this process's number, in [0, process_count).
      process_count: how many processes share each batch.
      workers: how many extra processes read images; 0 reads on threads of this one.
      labeled: give the classes beside the images.

    Returns:
      Iterator of uint8 [batch_size // process_count, R, R, 3], or of pairs of that and int32 [batch_size // process_count].

    Raises:
      FpganError: if the processes cannot share the batch, or grain is not installed.
    """
    batch_indices(seed, start_step, batch_size, len(source), process_index, process_count)  # refuse now
    try:
        import grain
    except ModuleNotFoundError as error:
        raise missing_extra(error.name, "train") from error
    read = functools.partial(read_batch, source=source, batch_size=batch_size, seed=seed,
                             process_index=process_index, process_count=process_count, labeled=labeled)
    batches = grain.MapDataset.range(start_step, _STEPS).map(read).to_iter_dataset(
        grain.ReadOptions(num_threads=1 if workers else 2, prefetch_buffer_size=_AHEAD))
    if workers:
        _mark_flags_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=_AHEAD)
        batches = batches.mp_prefetch(options, worker_init_fn=_end_with_parent)
    return iter(batches)


def _end_with_parent(index, count):
    """Lets a worker end when the process that it reads for is gone, however that ended, rather than wait for ever."""
    del index, count

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which tells it in one line

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _mark_flags_as_parsed():
    """Lets grain hand absl's flags to its workers, which it refuses while nobody has parsed them."""
    from absl import flags
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
