"""Images that are not the model's: names, ranges, and the art of other RoboHash sets."""

import numpy as np
import pytest

from fpgan.data.robohash import ROBOHASH_SETS, render_cats
from fpgan.data.sources import Files, Subset, open_other
from fpgan.errors import FpganError
from fpgan.evaluation import suites as evaluation
from fpgan.io.images import encode_png

R = 16


@pytest.mark.parametrize("name", sorted(set(ROBOHASH_SETS) - {"robohash_cats"}))
def test_other_robohash_art_is_composed_reproducibly(name):
    source = open_other(name, R)
    images = source.read(np.array([0, 1, 2, 10_000]))
    assert images.shape == (4, R, R, 3) and images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == 4
    np.testing.assert_array_equal(source.read(np.array([10_000]))[0], images[3])
    assert len(source) > 1_000_000 and "CC-BY-3.0" in source.licence
    share_of_white = (images == 255).all(axis=-1).mean()
    assert 0.02 < share_of_white < 0.98  # something is drawn, and not all over


def test_a_range_counts_from_its_start():
    unseen = open_other("robohash_cats[50000:]", R)
    assert unseen.name == "robohash_cats[50000:]" and len(unseen) == 360_000 - 50_000
    np.testing.assert_array_equal(unseen.read(np.array([3, 9])), render_cats(np.array([50_003, 50_009]), R))
    assert len(open_other("robohash_cats[:70]", R)) == 70
    assert len(open_other("robohash_monsters[10:30]", R)) == 20
    for empty in "robohash_cats[360000:]", "robohash_cats[20:10]":
        with pytest.raises(FpganError, match="no such images; robohash_cats has 360000"):
            open_other(empty, R)


def test_paths_come_before_ranges(tmp_path):
    folder = tmp_path / "photos[1:2]"
    folder.mkdir()
    for i in range(3):
        image = np.full((20, 30, 3), 50 * i, np.uint8)
        (folder / f"{i}.png").write_bytes(encode_png(image))
    assert isinstance(open_other(str(folder), R), Files)
    last = open_other(f"{folder}[2:]", R)
    assert isinstance(last, Subset) and len(last) == 1 and (last.read(np.array([0])) == 100).all()
    with pytest.raises(FpganError):
        open_other("nowhere", R)


def test_evaluate_tests_all_of_them(monkeypatch):
    class Guesser:
        name, hash, resolution, n_bits = "guesser", "0" * 16, R, 16

        def generate_float(self, fingerprints, seeds, *, batch_size):
            return np.random.default_rng(0).uniform(-1, 1, (len(np.atleast_1d(seeds)), R, R, 3)).astype(np.float32)

        def generate(self, fingerprints, seeds, *, batch_size):
            return (self.generate_float(fingerprints, seeds, batch_size=batch_size) * 127 + 128).astype(np.uint8)

        def decode(self, images):
            return images[:, :4, :4, 0].reshape(len(images), 16).astype(np.float32) - 100

    monkeypatch.setattr("fpgan.model.model.load", lambda name: Guesser())
    names = ["robohash_cats[50000:]", "robohash_monsters"]
    settings = evaluation.Settings(count=30, n_users=50)
    results = evaluation.evaluate_named("guesser", "robohash_cats", settings, data_options={"take": 100}, others=names)
    assert list(results["false_attribution"]) == ["robohash_cats", *names]
    assert all(found["images"] == 30 for found in results["false_attribution"].values())
    with pytest.raises(FpganError, match="'robohash_cats' are given twice"):
        evaluation.evaluate_named("guesser", "robohash_cats", settings, others=["robohash_cats"])
