"""The search over all users against one plain matrix product, in every way in which work is cut."""

import numpy as np
import pytest

from fpgan.attribution import search as module
from fpgan.attribution.search import scores, search


def drawn(users, n_bits, images, seed=0):
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (users, n_bits), dtype=np.uint8)
    return np.packbits(bits, axis=1), rng.integers(-63, 64, (images, n_bits)).astype(np.int8)


def plain(packed, decisions, needed, keep):
    for image, column in enumerate(scores(packed, decisions).T):
        order = np.lexsort((np.arange(len(column)), -column))
        count = min(max(keep, int((column >= needed[image]).sum())), len(column))
        yield order[:count], column[order[:count]]


@pytest.mark.parametrize("users, n_bits, images, keep", [
    (1, 128, 1, 1), (5, 13, 3, 10), (40_000, 128, 3, 1), (40_000, 100, 70, 2), (17, 64, 150, 3), (66_000, 128, 2, 4),
    (66_000, 104, 1, 1), (66_000, 8, 4, 5), (70_000, 512, 1, 1)])
def test_it_finds_what_a_plain_product_finds(users, n_bits, images, keep):
    packed, decisions = drawn(users, n_bits, images)
    everybody = scores(packed, decisions)  # [N, M]
    needed = np.sort(everybody, axis=0)[-min(users, 7)] if images % 2 else everybody.max(axis=0) + 1
    found = search(packed, decisions, needed, keep)
    assert len(found) == images
    for hits, (places, best) in zip(found, plain(packed, decisions, needed, keep), strict=True):
        assert (hits.places == places).all() and (hits.scores == best).all()


def test_the_largest_scores_fit():
    packed = np.packbits(np.array([[1] * 512, [0] * 512], np.uint8), axis=1)
    hits, = search(packed, np.full((1, 512), 63, np.int8), np.array([-(512 * 63)]))
    assert hits.places.tolist() == [0, 1] and hits.scores.tolist() == [512 * 63, -512 * 63]
    many = np.repeat(packed, module._MANY_USERS, axis=0)  # tables of two bytes
    hits, = search(many, np.full((1, 512), 63, np.int8), np.array([512 * 63 + 1]), keep=2)
    assert hits.places.tolist() == [0, 1] and hits.scores.tolist() == [512 * 63] * 2


@pytest.mark.parametrize("bytes_at_once", [1, 2])
def test_of_equal_users_the_first_is_found_across_blocks(bytes_at_once):
    block = module._USERS_AT_ONCE[bytes_at_once]
    packed, decisions = drawn(3 * block, 64, 2 if bytes_at_once == 2 else 5)
    twin = np.packbits(decisions[1] > 0)
    places = [block - 1, block, 2 * block + 5]
    packed[places] = twin
    total = int(np.abs(decisions[1].astype(int)).sum())
    best = search(packed, decisions, np.full(len(decisions), 64 * 63 + 1))[1]
    assert best.places.tolist() == places[:1] and best.scores.tolist() == [total]
    assert search(packed, decisions, np.full(len(decisions), total), keep=1)[1].places.tolist() == places


def test_it_takes_views_and_no_images():
    packed, decisions = drawn(1000, 128, 2)
    wide = np.concatenate([packed, packed], axis=1)[:, :16]
    assert (search(wide, decisions, [9999] * 2)[0].places == search(packed, decisions, [9999] * 2)[0].places).all()
    assert search(packed, decisions[:0], np.zeros(0, int)) == []
