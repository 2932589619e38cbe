"""The model that ships: it must not get worse than its card says, and the demo must attribute its images."""

import json
from pathlib import Path

import numpy as np
import pytest

import fpgan
from fpgan.attribution import attribute, from_fingerprints, issue
from fpgan.cli.demo import EDITS, run_demo, summarise
from fpgan.data.robohash import render_cats
from fpgan.errors import FpganError
from fpgan.io.images import encode_png, read_image
from fpgan.model import DEFAULT_MODEL
from fpgan.model.format import SHIPPED
from fpgan.perturbations.registry import apply

COUNT = 256


@pytest.fixture(scope="module")
def model():
    return fpgan.load()


@pytest.fixture(scope="module")
def logits(model):
    """Of PNGs with fingerprints that nobody has seen before."""
    bits = np.random.default_rng().integers(0, 2, (COUNT, model.n_bits), np.uint8)
    images = model.generate(bits, np.random.default_rng().integers(0, 2**32, COUNT, np.uint32))
    stored = np.stack([read_image(encode_png(image))[0] for image in images])
    np.testing.assert_array_equal(stored, images)
    return bits, model.decode(stored)


def test_bits_are_read_as_well_as_the_card_says(model, logits):
    bits, read = logits
    accuracy = ((read > 0) == bits).mean()
    card = model.info["metrics"]["bit_accuracy"]["png"]["value"]
    assert card > 0.995 and accuracy > 0.993


def test_every_image_finds_its_user_among_many(model, logits):
    bits, read = logits
    registry = issue([f"user{i}" for i in range(1000)])
    makers = [f"maker{i}" for i in range(COUNT)]
    everybody = from_fingerprints([*registry.users, *makers], np.concatenate([registry.bits, bits]))
    verdicts = attribute(read, everybody)
    right = np.mean([v.user == f"maker{i}" for i, v in enumerate(verdicts)])
    assert right == 1
    assert not any(v.user and v.user != f"maker{i}" for i, v in enumerate(verdicts))


def test_training_images_belong_to_nobody(model):
    registry = issue([f"user{i}" for i in range(1000)])
    verdicts = attribute(model.decode(render_cats(np.arange(500), model.resolution)), registry)
    assert not any(v.user for v in verdicts)


def test_images_of_different_latents_differ_more_than_those_of_different_fingerprints(model):
    bits = np.random.default_rng(0).integers(0, 2, (8, model.n_bits), np.uint8)
    one_latent = model.generate(bits, 1).astype(float)
    one_print = model.generate(bits[0], np.arange(8)).astype(float)
    assert one_print.std(axis=0).mean() > 2 * one_latent.std(axis=0).mean()


def test_the_package_is_small_and_says_where_its_art_comes_from(model):
    assert sum(p.stat().st_size for p in SHIPPED.rglob("*") if p.is_file()) < 30e6
    assert "CC-BY" in json.dumps(model.info["training"])
    assert "David Revoy" in (SHIPPED / model.name / "README.md").read_text()


def test_the_demo_attributes_its_images_and_no_others(tmp_path):
    lines = []
    rows = run_demo(tmp_path / "demo", DEFAULT_MODEL, 1e-6, lines.append)
    places = [Path(row.file).relative_to(tmp_path / "demo").parts for row in rows]
    right = {"images": [], "edited": [], "not_ours": []}
    for row, (kind, owner, *_) in zip(rows, places, strict=True):
        right[kind].append(row.verdict.user == (None if kind == "not_ours" else owner))
    assert [len(found) for found in right.values()] == [24, 24 * len(EDITS), 12]
    assert all(right["images"]) and all(right["not_ours"]) and np.mean(right["edited"]) > 0.9
    table = "\n".join(summarise(rows, tmp_path / "demo"))
    assert all(name in table for name in ("alice (8)", "bob (8)", "carol (8)", "photos", "training images", "after flip"))
    assert (tmp_path / "demo" / "edited" / "bob" / "sheet.png").is_file()
    picture, _ = read_image(tmp_path / "demo" / "picture.png")
    assert min(picture.shape[:2]) > 100
    assert all(Path(row.file).is_file() for row in rows)
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]


def test_the_demo_leaves_other_folders_alone(tmp_path):
    (tmp_path / "mine").write_text("a file")
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "picture.png").write_text("of my own")
    for place in (tmp_path, tmp_path / "mine", tmp_path / "album"):
        with pytest.raises(FpganError, match="is no earlier demo"):
            run_demo(place, "robohash32", 1e-6, print)
    assert (tmp_path / "mine").read_text() == "a file"
    assert (tmp_path / "album" / "picture.png").read_text() == "of my own"


@pytest.mark.parametrize("name", ["robohash32", "robohash32_immunised", "robohash64"])
def test_the_card_is_of_this_model(name):
    model = fpgan.load(name)
    assert model.info["metrics"]["model"]["hash"] == model.info["hash"] == model.hash


def test_what_is_flipped_in_a_model_that_ships_is_noticed(tmp_path):
    for path in (SHIPPED / "robohash32").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[len(weights) // 2] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    with pytest.raises(FpganError, match="hash"):
        fpgan.load(tmp_path).hash  # noqa: B018


def test_the_immunised_model_survives_what_its_card_says():
    model = fpgan.load("robohash32_immunised")
    rng = np.random.default_rng()
    bits = rng.integers(0, 2, (64, model.n_bits), np.uint8)
    images = model.generate(bits, rng.integers(0, 2**32, 64, np.uint32))
    for spec, least in (("png", 0.998), ("jpeg:82", 0.89), ("noise:9", 0.94), ("blur:1.1", 0.92), ("crop:0.95", 0.87)):
        assert ((model.decode(apply(spec, images)) > 0) == bits).mean() > least, spec
    assert "David Revoy" in (SHIPPED / model.name / "README.md").read_text()
