"""The cats: compositing against a plain per-pixel one, and against the package's own assembly."""

import importlib.util

import numpy as np
import pytest
from PIL import Image
from robohash import Robohash

from fpgan.data import robohash
from fpgan.errors import FpganError

R = 32  # one resolution for all tests: scaling the parts is the slow step


def test_compositing_is_the_over_operator():
    layers = robohash.CATS.scaled_parts(R)
    cats = np.array([[0, 0, 0, 0, 0], [14, 9, 14, 9, 15], [3, 7, 2, 5, 11]])
    for image, chosen in zip(robohash.CATS.compose(cats, R), cats, strict=True):
        for y, x in np.ndindex(R, R):
            colour = np.ones(3)
            for layer, part in zip(layers, chosen, strict=True):
                *rgb, alpha = layer[part, :, y, x].astype(np.float64)
                colour = np.array(rgb) + (1 - alpha) * colour
            assert np.abs(image[y, x] - 255 * colour).max() <= 0.501


def test_scaled_parts_are_premultiplied():
    for layer in robohash.CATS.scaled_parts(R):
        assert layer.dtype == np.float32 and layer.shape[1:] == (4, R, R)
        assert layer.min() >= 0 and layer.max() <= 1 + 1e-5
        assert (layer[:, :3] <= layer[:, 3:] + 1e-5).all()


def assemble(word):
    """Returns the package's own cat for a word, on white, scaled to R, and the numbers of its parts."""
    hashed = Robohash(word)
    parts = np.array([[number % count for number, count in zip(hashed.hasharray[4:9], robohash.LAYERS, strict=True)]])
    hashed.assemble("set4", sizex=1024, sizey=1024)
    white = Image.new("RGBA", (1024, 1024), "white")
    white.alpha_composite(hashed.img.convert("RGBA"))
    return np.asarray(white.convert("RGB").resize((R, R), Image.Resampling.HAMMING)).astype(float), parts


@pytest.mark.parametrize("word", ["alpha", "gamma", "delta"])
def test_cats_look_as_the_package_assembles_them(word):
    theirs, parts = assemble(word)
    ours = robohash.CATS.compose(parts, R)[0].astype(float)
    assert np.abs(ours - theirs).mean() < 2.5  # the package treats translucent edges a little differently
    for layer in range(5):  # any other part is further away, so that the test would notice
        other = parts.copy()
        other[0, layer] = (other[0, layer] + 1) % robohash.LAYERS[layer]
        wrong = robohash.CATS.compose(other, R)[0].astype(float)
        assert np.abs(wrong - theirs).mean() > np.abs(ours - theirs).mean()


def test_layers_lie_in_the_package_s_order(monkeypatch):
    theirs, parts = assemble("alpha")
    ours = robohash.CATS.compose(parts, R)[0].astype(float)
    reverse = tuple(reversed(robohash.CATS.scaled_parts(R)))
    monkeypatch.setattr(robohash.LayeredSet, "scaled_parts", lambda self, resolution: reverse)
    wrong = robohash.CATS.compose(parts[:, ::-1], R)[0].astype(float)
    assert np.abs(wrong - theirs).mean() > 3 * np.abs(ours - theirs).mean()


def test_numbers_name_different_cats_for_ever():
    parts = robohash.CATS.parts(np.arange(robohash.COMBINATIONS))
    assert len(np.unique(np.ravel_multi_index(parts.T, robohash.LAYERS))) == robohash.COMBINATIONS
    assert robohash.CATS.parts([0, 1, 2, 360_000]).tolist() == [
        [0, 8, 6, 3, 9], [11, 8, 6, 2, 3], [11, 1, 1, 6, 14], [14, 1, 3, 7, 13]]


def test_rendering_does_not_depend_on_the_company():
    together = robohash.render_cats([5, 6, 7], R)
    assert together.dtype == np.uint8 and together.shape == (3, R, R, 3)
    np.testing.assert_array_equal(together[1], robohash.render_cats(6, R)[0])
    assert (together[0] != together[1]).any()
    assert (together[:, 0, -1] == 255).all()  # the corner is white


def test_errors_say_what_to_do(monkeypatch):
    with pytest.raises(FpganError, match="expected 8 to 1024"):
        robohash.render_cats(0, 4)
    robohash.part_files.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FpganError, match=r"fpgan\[demo\]"):
        robohash.CATS.check(R)
