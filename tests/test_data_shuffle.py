"""The order of images: a bijection per epoch, the same for NumPy and JAX, shared without gaps or repeats."""

import jax
import numpy as np
import pytest

from fpgan.data.shuffle import batch_indices, shuffled_index
from fpgan.errors import FpganError


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 4099])
def test_every_epoch_holds_every_image_once(size):
    for seed in (0, 1, 2**32 - 1):
        for epoch in (0, 1, 2**32 - 1):
            order = shuffled_index(seed, (np.uint32(epoch), np.arange(size, dtype=np.uint32)), size)
            np.testing.assert_array_equal(np.sort(order), np.arange(size))


def test_epochs_and_seeds_differ():
    orders = [shuffled_index(seed, epoch * 500 + np.arange(500), 500) for seed in (0, 1) for epoch in (0, 1)]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert np.mean(one == other) < 0.03  # by chance 1 in 500


def test_every_place_gets_every_image_equally_often():
    size, epochs = 6, 6000
    order = shuffled_index(3, np.arange(epochs * size), size).reshape(epochs, size)
    counts = np.stack([np.bincount(column, minlength=size) for column in order.T])
    expected = epochs / size
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 60  # (6 - 1)^2 = 25 degrees of freedom: 60 has p = 1e-4
    neighbours = (order[:, 1:].astype(int) - order[:, :-1]) % size
    assert abs(np.mean(neighbours == 1) - 1 / (size - 1)) < 0.02


def test_numpy_equals_jax_under_jit():
    size = 1237
    epoch = np.array([0, 5, 2**32 - 1], np.uint32)[:, None]
    offset = np.arange(size, dtype=np.uint32)[None]
    jitted = jax.jit(lambda seed, epoch, offset: shuffled_index(seed, (epoch, offset), size))
    on_device = jitted(np.uint32(12), epoch, offset)
    assert on_device.dtype == np.uint32 and isinstance(on_device, jax.Array)
    np.testing.assert_array_equal(np.asarray(on_device), shuffled_index(12, (epoch, offset), size))


def test_position_and_pair_agree_beyond_32_bits():
    size, epoch = 999, 2**30
    positions = epoch * size + np.arange(size)
    pair = (np.full(size, epoch, np.uint32), np.arange(size, dtype=np.uint32))
    np.testing.assert_array_equal(shuffled_index(4, positions, size), shuffled_index(4, pair, size))


def test_the_order_is_the_one_that_old_runs_had():
    assert shuffled_index(0, np.arange(8), 100).tolist() == [99, 40, 66, 87, 12, 56, 69, 13]
    assert int(shuffled_index(0, 7, 100)) == 13  # a single position, as Python's int


def test_shares_make_up_the_global_batch():
    size, batch = 50, 12
    for step in (0, 3, 4, 1000):  # step 4 runs over the end of an epoch
        together = [batch_indices(9, step, batch, size, process, 3) for process in range(3)]
        np.testing.assert_array_equal(np.concatenate(together), batch_indices(9, step, batch, size))


def test_shares_are_disjoint_and_complete_in_every_epoch():
    size, batch, processes = 48, 12, 4
    for epoch in range(3):
        steps = range(epoch * size // batch, (epoch + 1) * size // batch)
        seen = np.concatenate([batch_indices(1, s, batch, size, p, processes) for s in steps for p in range(processes)])
        np.testing.assert_array_equal(np.sort(seen), np.arange(size))


def test_wrong_shares_are_refused():
    with pytest.raises(FpganError, match="multiple of the number of processes"):
        batch_indices(0, 0, 10, 100, 0, 4)
    with pytest.raises(FpganError, match="expected 0 to 1"):
        batch_indices(0, 0, 10, 100, 2, 2)
    with pytest.raises(FpganError, match="is the data set empty"):
        shuffled_index(0, 0, 0)
