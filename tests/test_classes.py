"""Classes in training: from subfolders to labels, to the conditional networks, to a model that is asked for a class."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image

from fpgan.data.folder import list_own_images
from fpgan.data.pipeline import stream
from fpgan.data.prepare import prepare
from fpgan.data.prepared import read_description
from fpgan.data.sources import open_source
from fpgan.distributed.devices import AXIS
from fpgan.errors import FpganError
from fpgan.training import loop, step
from fpgan.training.export import export
from fpgan.training.state import init_state

NAMES = ("bird", "cat", "dog")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Settings of a prepared folder with 20 images of each of three classes, grey levels of their own."""
    pytest.importorskip("tensorflow_datasets")
    folder = tmp_path_factory.mktemp("classes")
    for label, name in enumerate(NAMES):
        (folder / "photos" / name / "inner").mkdir(parents=True)
        for number in range(20):
            path = folder / "photos" / name / ("inner" * (number % 2)) / f"{number:02}.png"
            Image.fromarray(np.full((8, 8, 3), 60 * label + number, np.uint8)).save(path)
    settings = dict(name="folder", path=str(folder / "photos"), data_dir=str(folder / "data"))
    assert prepare(settings, 8).images == 60
    assert prepare(settings, 8).nothing_to_do
    return settings


def config(data, **fields):
    return tiny.config(data=data | dict(count=0), network=dict(label_size=3), **fields)


def test_subfolders_become_classes_and_stay_beside_their_images(data, monkeypatch):
    monkeypatch.setattr("fpgan.data.sources._CHUNK", 7)
    source = open_source(data, 8)
    assert source.classes == NAMES
    order = np.random.default_rng(0).permutation(60)
    np.testing.assert_array_equal(source.labels(order), source.read(order)[:, 0, 0, 0] // 60)
    part = open_source(data | {"split": "train[30:]"}, 8)
    np.testing.assert_array_equal(part.labels(np.arange(30)), part.read(np.arange(30))[:, 0, 0, 0] // 60)
    images, labels = next(stream(source, 16, 0, labeled=True))
    np.testing.assert_array_equal(labels, images[:, 0, 0, 0] // 60)


def test_images_beside_the_subfolders_have_no_classes(data, tmp_path):
    photos = Path(data["path"])
    mixed = tmp_path / "mixed"
    for name in ("a/00.png", "b/01.png", "02.png"):
        (mixed / name).parent.mkdir(parents=True, exist_ok=True)
        (mixed / name).write_bytes((photos / "cat" / "00.png").read_bytes())
    settings = data | {"path": str(mixed)}
    prepare(settings, 8)
    source = open_source(settings, 8)
    assert source.classes == () and len(source) == 3
    with pytest.raises(FpganError, match="has no classes; expected .* a subfolder for each class"):
        source.labels(np.arange(3))


def test_a_set_that_an_older_version_prepared_without_classes_is_prepared_again(data, tmp_path, monkeypatch):
    settings = data | {"data_dir": str(tmp_path)}
    with monkeypatch.context() as patch:
        patch.setattr("fpgan.data.prepare.list_own_images",
                      lambda *given: dataclasses.replace(list_own_images(*given), classes=()))
        assert prepare(settings, 8).images == 60
        assert open_source(settings, 8).classes == ()
    report = prepare(settings, 8)
    assert not report.nothing_to_do and open_source(settings, 8).classes == NAMES
    assert read_description(report.folder)[1]["classes"] == 3


def test_another_number_of_classes_is_refused(data, tmp_path):
    with pytest.raises(FpganError, match="label_size is 2, but there are 3 classes of folder: bird, cat, dog; set it to 3"):
        loop.train(tiny.config(data=data | dict(count=0), network=dict(label_size=2)), tmp_path)
    with pytest.raises(FpganError, match="label_size is 2, but there are 0 classes: expected a set of TFDS .*; set it to 0"):
        loop.train(tiny.config(network=dict(label_size=2)), tmp_path)


def on_one_device(function):
    run = jax.pmap(function, axis_name=AXIS, devices=jax.devices()[:1])
    return jax.tree.map(lambda x: np.asarray(x[0]), run(jnp.zeros(1)))


def test_real_and_generated_images_come_with_their_classes(data):
    settings, source = config(data), open_source(data, 8)
    setup = step.Setup(settings, 32, True)
    whole = jnp.asarray(source.load_all()), jnp.asarray(source.labels(np.arange(60)))
    images, labels = on_one_device(lambda _: step.draw_reals(setup, jnp.int32(3), whole, None))
    assert labels.shape == (32, 3)
    np.testing.assert_array_equal(labels.argmax(axis=1), np.round((images[:, 0, 0, 0] + 1) * 127.5) // 60)
    drawn = on_one_device(lambda _: step.draw_inputs(setup, init_state(settings), 0, 32)["labels"])
    assert drawn.shape == (32, 3) and (drawn.sum(axis=1) == 1).all() and (drawn.sum(axis=0) > 3).all()
    without = step.Setup(tiny.config(), 32, True)
    assert on_one_device(lambda _: step.draw_inputs(without, init_state(tiny.config()), 0, 32)["labels"]) is None


@pytest.mark.parametrize("resident", [True, False])
def test_a_conditional_model_is_trained_resumed_and_asked_for_a_class(data, tmp_path, resident):
    objective = dict(path_length=0.0, r1_gamma=1.0, r1_interval=2)
    settings = config(data | dict(resident=resident), total_images=96, objective=objective, every=dict(grid=0, log=1))
    state = loop.train(settings, tmp_path / "run")
    before = init_state(settings)
    for network, place in (("generator", ("mapping", "label_concat")), ("discriminator", ("output",))):
        old, new = before.params[network], state.params[network]
        for name in place:
            old, new = old[name], new[name]
        changed = np.abs(np.asarray(new["weight"]) - np.asarray(old["weight"]))
        rows = changed.max(axis=1 if network == "generator" else 0)
        assert rows.shape == (3,) and (rows > 1e-4).all()  # every class has learned
    model = export(tmp_path / "run", tmp_path / "model")
    assert model.info["training"]["classes"] == list(NAMES)
    images = model.generate_float("a5", 1, labels=[0, 1, 2])
    assert len({image.tobytes() for image in images}) == 3
