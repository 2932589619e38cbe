"""Reading images that may have been moved: searches decided by the image alone, and p-values that they leave exact."""

import json

import numpy as np
import pytest
from linear_model import LinearModel

from fpgan.attribution import attribute, issue, pool
from fpgan.attribution.search import blocks
from fpgan.attribution.statistics import matches
from fpgan.attribution.verdict import NO_FINGERPRINT, NOBODY, UNREGISTERED, explain
from fpgan.decoding import DecodeJob, decode
from fpgan.errors import FpganError
from fpgan.io.images import encode_png, read_whole
from fpgan.model import poses, reading
from fpgan.model.programs import fitting_batch
from fpgan.networks.alignment import CORNERS, project
from fpgan.perturbations import apply, homography


def accuracy(model, images, bits, search):
    return ((model.read(images, search).logits > 0) == bits).mean()


@pytest.fixture(scope="module")
def bits():
    return np.random.default_rng(1).integers(0, 2, (24, 64)).astype(np.uint8)


def test_each_search_finds_what_it_looks_for(bits):
    model = LinearModel()
    images = model.generate(bits, range(24))
    shares = {spec: [accuracy(model, apply(spec, images), bits, search) for search in reading.SEARCHES]
              for spec in ("png", "flip", "turn:1", "shift:1,0", "flip+shift:0,-1")}
    assert shares["png"] == [1.0, 1.0, 1.0]
    for spec in ("flip", "turn:1"):
        assert shares[spec][0] < 0.6 and shares[spec][1:] == [1.0, 1.0]
    for spec in ("shift:1,0", "flip+shift:0,-1"):
        assert max(shares[spec][:2]) < 0.75 and shares[spec][2] > 0.98


def test_an_aligner_is_believed_where_the_logits_are_more_even(bits):
    images = LinearModel().generate(bits, range(24))
    moved, pose = apply("shift:1,0", images), homography("shift:1,0", (8, 8))
    model = LinearModel(places=pose)
    read = model.read(moved)  # its own search
    assert read.alignment.search == "fast" and read.alignment.undone == 24 * ["shifted by (1, 0) pixels"]
    np.testing.assert_array_equal(read.logits, model.decode(moved, poses=np.tile(pose, (24, 1, 1))))
    assert model.read(images).alignment.undone == 24 * [""]  # wrong here, and the logits say so
    np.testing.assert_array_equal(model.read(images).logits, model.decode(images))
    near = LinearModel(places=poses.placed(1, 1, 0.1, 0))  # 0.4 of a pixel
    near.read(images)
    assert near.decoded == 24  # so near the identity that nothing is looked up


def test_a_full_search_also_looks_near_an_answer_that_is_a_little_wrong(bits, monkeypatch):
    monkeypatch.setattr(poses, "grids", lambda resolution: ())
    images = LinearModel(16).generate(bits, range(24))
    pixels = 2 / 16
    model = LinearModel(16, places=poses.placed(1, 1, 2 * pixels - 1.5 * pixels, 0))  # it lies 2 to the right
    moved = apply("shift:2,0", images)
    assert accuracy(model, moved, bits, "fast") < 0.75 and accuracy(model, moved, bits, "full") > 0.95
    assert reading.poses_tried(model, "full") == 1 + 1 + 26


def test_an_image_that_is_clearly_right_is_not_searched_for(bits):
    model = LinearModel()
    model.read(model.generate(bits, range(24)), "full")
    assert model.decoded == 24 * reading.poses_tried(model, "fast")
    assert reading.poses_tried(model, "none") == 1 and reading.poses_tried(model, "full") > 500


def test_what_is_read_is_a_function_of_the_image_alone(bits):
    model, images = LinearModel(), np.random.default_rng(2).integers(0, 256, (6, 8, 8, 3), np.uint8)
    together, alone = model.read(images, "full"), [model.read(image[None], "full") for image in images]
    np.testing.assert_allclose(together.logits, np.concatenate([one.logits for one in alone]), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(together.alignment.poses, np.concatenate([one.alignment.poses for one in alone]))
    assert len(model.read(images[:0], "full")) == 0 and len(together) == 6


class Rounding(LinearModel):
    """Rounds as compiled programs do: what it finds depends on their size, though not on an image's place in a batch."""

    def decode(self, images, *, poses=None, batch_size=64, exact=False):
        size, parts = fitting_batch(batch_size, len(images), batch_size if exact else 1), []
        for part in blocks(len(images), 64):  # always 64 at once: what BLAS rounds otherwise is not in question here
            rows = np.resize(np.arange(len(images))[part], 64)
            here = None if poses is None else poses[rows]
            parts.append(super().decode(images[rows], poses=here)[:part.stop - part.start])
        return np.concatenate(parts) * np.float32(1 + 1e-6 * size)

    def locate(self, images, *, batch_size=64, exact=False):
        size = fitting_batch(batch_size, len(images), batch_size if exact else 1)
        return super().locate(images) + np.float32(1e-6 * size)


@pytest.mark.parametrize("places", [None, poses.placed(1, 1, 0.25, 0)])
@pytest.mark.parametrize("search", ["fast", "full"])
def test_rows_of_a_search_are_the_same_on_any_devices_and_in_any_company(tmp_path, bits, monkeypatch, search, places):
    """Also where few images of a batch are looked for, and where one of another size is among them."""
    model = Rounding(places=places)
    images = model.generate(bits, range(24))
    for first, spec in enumerate(("flip", "shift:1,0")):
        images[first::3] = apply(spec, images[first::3])
    for i, image in enumerate([*images, *foreign(5), apply("page:0.5", images[:1], 3)[0]]):
        (tmp_path / f"{i:02}.png").write_bytes(encode_png(image))
    files = sorted(map(str, tmp_path.iterdir()))

    def rows(files, devices=1):
        monkeypatch.setattr(decode, "local_devices", lambda: devices * [None])
        return {row.file: (row.logits.tobytes(), row.columns(False)) for row in
                decode.decode_files(model, files, batch_size=4, search=search)}
    found = rows(files)
    assert len(found) == 30 and sum(columns["undone"] is not None for _, columns in found.values()) > 8
    assert rows(files, 8) == found and rows(files[::-1], 2) == found
    for few, is_same in ((files[5:17], True), (files[:3], True), (files[:2], False)):  # two are read by a smaller program
        assert (rows(few) == {name: found[name] for name in few}) == is_same


def foreign(count):
    """Images of no model: coarse blocks, with noise."""
    rng = np.random.default_rng(12)
    coarse = rng.integers(0, 256, (count, 4, 4, 3)).repeat(2, axis=1).repeat(2, axis=2)
    return np.clip(coarse + rng.normal(0, 12, coarse.shape), 0, 255).astype(np.uint8)


def binomial_p(found, n_bits=64):
    """The chi-square test's p-value that matches are Binomial(n_bits, 1/2)."""
    from scipy import stats

    edges = np.r_[-1, np.arange(24, 41), n_bits]
    expected = len(found) * np.diff(stats.binom.cdf(edges, n_bits, 0.5))
    assert expected.min() > 5
    return stats.chisquare(np.histogram(found, edges + 0.5)[0], expected).pvalue


@pytest.mark.parametrize("search, count", [
    ("none", 2_000), ("fast", 2_000), pytest.param("full", 2_000, marks=pytest.mark.slow),
    pytest.param("full", 10_000, marks=pytest.mark.slow)])
def test_over_foreign_images_matches_stay_binomial_and_nobody_is_attributed(search, count):
    model, images, rng = LinearModel(), foreign(count), np.random.default_rng(13)
    logits = np.concatenate([model.read(images[i:i + 500], search).logits for i in range(0, count, 500)])
    # An innocent user's fingerprint for each image: with one for all, matches are as uneven as the decoder is biased.
    innocents = rng.integers(0, 2, logits.shape).astype(np.uint8)
    assert binomial_p(matches(innocents, logits > 0)) > 0.01
    registry = issue([f"user {i}" for i in range(100)], 64)
    assert not any(verdict.users for verdict in attribute(logits, registry, 1e-6))


def test_a_search_that_asked_the_registry_would_not_leave_matches_binomial():
    """What the test above would find, if of the poses tried the one were taken that fits a user best."""
    model, images = LinearModel(), foreign(2_000)
    innocents = np.random.default_rng(13).integers(0, 2, (2_000, 64)).astype(np.uint8)
    tried = [model.decode(images, poses=np.tile(pose, (2_000, 1, 1))) for pose in poses.turns()]
    assert binomial_p(np.max([matches(innocents, logits > 0) for logits in tried], axis=0)) < 1e-9


def test_small_p_values_of_innocents_are_as_frequent_as_they_say_whatever_is_searched():
    model, rng = LinearModel(), np.random.default_rng(5)
    images = rng.integers(0, 256, (300, 8, 8, 3), np.uint8)
    for search in reading.SEARCHES:
        logits, p = model.read(images, search).logits, []
        for _ in range(20):
            innocent = issue(["one"], 64)
            p += [verdict.log10_p for verdict in attribute(logits, innocent, 0.5)]
        for level in (0.5, 0.1, 0.01):
            share, sigma = np.mean(np.array(p) <= np.log10(level)), np.sqrt(level * (1 - level) / len(p))
            assert share <= level + 4 * sigma, (search, level)


def test_p_depends_on_the_logits_and_not_on_how_they_were_found(bits):
    model, registry = LinearModel(), issue(["alice", "bob"], 64)
    images = model.generate(np.stack([registry.fingerprint("bob").bits] * 4), range(4))
    plain, moved = model.read(images, "none"), model.read(apply("turn:1", images), "full")
    for before, after in zip(attribute(plain, registry), attribute(moved, registry), strict=True):
        assert (before.user, after.user) == ("bob", "bob") and before.log10_p == pytest.approx(after.log10_p, abs=0.2)
        assert str(before) == "user bob" and str(after) == "user bob (turned 90 degrees)"


def test_readings_are_attributed_and_pooled_as_they_are(bits):
    model, registry = LinearModel(), issue(["alice", "bob"], 64)
    images = model.generate(np.stack([registry.fingerprint("alice").bits] * 6), range(6))
    moved = np.concatenate([images[:3], apply("flip", images[3:])])
    read = model.read(moved, "fast")
    verdict, = attribute(pool(read), registry)
    assert verdict.user == "alice"
    parts = pool([model.read(moved[:2], "fast"), model.read(moved[2:], "fast")])
    np.testing.assert_allclose(parts, pool(read), rtol=1e-4)
    assert [v.undone for v in attribute([read, read], registry)] == 2 * (3 * [""] + 3 * ["flipped"])


def test_thresholds_belong_to_searches(bits):
    info = {"evenness_threshold": 0.9, "search_thresholds": {"fast": 0.92}}
    model, aligned = LinearModel(info=info), LinearModel(info=info, places=np.eye(3))
    assert [reading.threshold_for(model, search) for search in (None, "none", "fast", "full")] == [0.9, 0.9, 0.92, None]
    assert reading.threshold_for(aligned) == 0.92
    with pytest.raises(FpganError, match="no search 'quick'; expected one of none, fast, full"):
        model.read(np.zeros((1, 8, 8, 3), np.uint8), "quick")


def test_a_job_tells_what_was_undone_and_what_was_searched(tmp_path, bits):
    registry = issue(["alice", "bob"], 64)
    model = LinearModel(info={"evenness_threshold": 0.97, "search_thresholds": {"fast": 0.98}})
    image = model.generate(registry.fingerprint("bob").bits[None], [3])
    stranger = model.generate(bits[:1], [4])
    noise = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    for name, one in (("a", apply("flip", image)), ("b", image), ("c", stranger), ("d", noise)):
        (tmp_path / f"{name}.png").write_bytes(encode_png(one[0]))
    from fpgan.io.listing import image_sources

    def rows(**options):
        job = DecodeJob(model, registry, **options)
        return list(job.rows(image_sources([tmp_path]))), job
    found, job = rows(search="fast")
    assert [str(row.verdict) for row in found] == ["user bob (flipped)", "user bob", UNREGISTERED, NO_FINGERPRINT]
    assert [row.columns(True)["undone"] for row in found] == ["flipped", None, None, None]
    assert "searched: each image as it is, and in the turns of a square" in job.meaning()
    assert job.settings()["search"] == "fast"
    plain, job = rows()
    assert [str(row.verdict) for row in plain] == [NO_FINGERPRINT, "user bob", UNREGISTERED, NO_FINGERPRINT]
    assert "searched: each image as it is" in job.meaning() and "search" not in job.settings()
    full, _ = rows(search="full")
    assert [row.verdict.kind for row in full][2:] == [NOBODY, NOBODY]  # no threshold was calibrated for it
    pooled, _ = rows(search="fast", pool="all")
    assert pooled[0].undone.endswith(" of 4 put in place")
    assert json.loads(json.dumps(job.settings())) == job.settings()


def test_the_meaning_names_what_was_searched():
    registry = issue(["alice"], 64)
    assert explain(registry, 1e-6, 0.9, "here").endswith("searched: here")
    assert NO_FINGERPRINT in explain(registry, 1e-6, 0.9) and NO_FINGERPRINT not in explain(registry, 1e-6, None)


def test_poses_may_be_read_as_places_of_corners(bits):
    model = LinearModel()
    read = model.read(apply("flip", model.generate(bits, range(24))), "fast")
    np.testing.assert_allclose(project(read.alignment.poses, CORNERS)[0], CORNERS * [-1, 1], atol=1e-6)


def test_pages_and_other_sizes_are_searched_in_all_of_the_image(bits):
    """What is left after fitting to the model's size is not enough: of a page, a phone's screen, a stretched picture."""
    images = LinearModel().generate(bits, range(24))
    for spec in ("page:0.5", "phone:1", "scale:2+aspect:1.5"):
        files = [encode_png(image) for image in apply(spec, images, 3)]
        fitted, wholes = zip(*(read_whole(file, 8) for file in files), strict=True)
        model = LinearModel()
        model.locate = lambda _, spec=spec, **__: np.stack([homography(spec, (8, 8), 3, i) for i in range(24)])
        model.aligner = "one that knows"
        read = model.read(np.stack(fitted), "fast", wholes=wholes)
        assert ((read.logits > 0) == bits).mean() > 0.9, spec
        assert ((model.read(np.stack(fitted), "none").logits > 0) == bits).mean() < 0.8, spec
        assert read.logits.shape == (24, 64) and model.read(np.stack(fitted)).logits.shape == (24, 64)
    own, none = read_whole(encode_png(images[0]), 8)
    assert none is None and (own == images[0]).all()
