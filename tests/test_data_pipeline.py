"""The input pipeline: order, resume, shares and worker processes."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from fpgan.data.pipeline import stream
from fpgan.data.shuffle import shuffled_index
from fpgan.data.sources import ImageSource
from fpgan.distributed.devices import AXIS
from fpgan.errors import FpganError
from fpgan.training.step import Setup, draw_reals

SIZE = 50


class Numbers(ImageSource):
    """Image i is filled with the grey level i."""

    def __init__(self):
        super().__init__("numbers", "none", 4, SIZE)

    def read(self, indices):
        return np.broadcast_to(np.asarray(indices, np.uint8)[:, None, None, None], (len(indices), 4, 4, 3)).copy()


def levels(iterator, steps):
    """Takes some batches: grey levels [steps, batch]."""
    return np.stack([next(iterator)[:, 0, 0, 0] for _ in range(steps)])


def test_batches_follow_the_keyed_order():
    batches = stream(Numbers(), 8, seed=5)
    first = next(batches)
    assert first.shape == (8, 4, 4, 3) and first.dtype == np.uint8
    seen = np.concatenate([first[:, 0, 0, 0], levels(batches, 24).ravel()])
    np.testing.assert_array_equal(seen, shuffled_index(5, np.arange(200), SIZE))
    for epoch in seen.reshape(4, SIZE):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(SIZE))


def test_a_resumed_stream_continues_the_old_one():
    whole = levels(stream(Numbers(), 8, seed=5), 20)
    np.testing.assert_array_equal(levels(stream(Numbers(), 8, seed=5, start_step=13), 7), whole[13:])
    assert (levels(stream(Numbers(), 8, seed=6), 20) != whole).any()


def test_processes_share_every_batch():
    whole = levels(stream(Numbers(), 8, seed=5), 20)
    shares = [levels(stream(Numbers(), 8, seed=5, process_index=p, process_count=4), 20) for p in range(4)]
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), whole)
    with pytest.raises(FpganError, match="multiple"):
        stream(Numbers(), 8, seed=5, process_count=3)


def test_a_run_reads_on_with_another_number_of_processes():
    seen = []
    for count, start, steps in ((1, 0, 5), (2, 5, 9), (4, 14, 11)):
        shares = [levels(stream(Numbers(), 8, 5, start, p, count), steps) for p in range(count)]
        assert all(len(set(batch)) == 8 // count for share in shares for batch in share[:1])
        seen.append(np.concatenate(shares, axis=1).ravel())
    epochs = np.concatenate(seen).reshape(4, SIZE)
    np.testing.assert_array_equal(epochs.ravel(), shuffled_index(5, np.arange(200), SIZE))
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(SIZE), (4, 1)))


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_resident_images_are_picked_in_the_same_order(devices):
    setup = Setup(tiny.config(seed=5, batch_size=8), 8 // devices, resident=True)
    pick = jax.pmap(lambda step, images: draw_reals(setup, step, images, None)[0], AXIS, in_axes=(0, None),
                    devices=jax.devices()[:devices])
    whole = levels(stream(Numbers(), 8, seed=5), 20)
    for step in (0, 7, 19):
        picked = np.asarray(pick(np.full(devices, step), Numbers().load_all()))[:, :, 0, 0, 0].ravel()
        np.testing.assert_array_equal(np.round((picked + 1) * 127.5), whole[step])


def test_workers_end_with_the_process_that_was_killed():
    code = ("import os, multiprocessing, test_data_pipeline as t\n"
            "if __name__ == '__main__':\n"
            "    batches = t.stream(t.Numbers(), 8, seed=5, workers=1); next(batches)\n"
            "    print(multiprocessing.active_children()[0].pid, flush=True); os.kill(os.getpid(), 9)")
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, text=True,
                          stdout=subprocess.PIPE) as process:
        assert int(process.stdout.readline())
        process.communicate(timeout=120)  # the worker has the output open as well, until it ends
        assert process.returncode == -9


def test_the_order_does_not_depend_on_the_workers():
    whole = levels(stream(Numbers(), 8, seed=5), 23)
    by_workers = stream(Numbers(), 8, seed=5, start_step=4, workers=2)
    np.testing.assert_array_equal(levels(by_workers, 19), whole[4:])
