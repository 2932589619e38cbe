"""Model files: what is saved comes back; what is damaged is refused; one program makes every instance."""

import json

import jax
import numpy as np
import pytest
import tiny

import fpgan
from fpgan.errors import FpganError
from fpgan.fingerprint import Fingerprint
from fpgan.model import format, programs
from fpgan.model.model import from_params
from fpgan.networks.alignment import Aligner
from fpgan.networks.parameters import init_params

CONFIG = tiny.network(noise="none")


@pytest.fixture(scope="module")
def model():
    return from_params(CONFIG, init_params(CONFIG, jax.random.key(1)), {"name": "tiny", "training": {"data": "none"}})


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_a_saved_model_computes_the_same_bytes(model, saved):
    loaded = fpgan.load(saved)
    prints = [Fingerprint.random(8) for _ in range(5)]
    images = model.generate(prints, range(5), batch_size=4)
    assert images.shape == (5, 8, 8, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(images, loaded.generate(prints, range(5), batch_size=4))
    np.testing.assert_array_equal(model.decode(images), loaded.decode(images))
    assert (loaded.hash, loaded.name, loaded.info["training"]) == (model.hash, "tiny", {"data": "none"})


def test_a_new_field_of_the_architecture_changes_no_hash():
    """The hash is in every manifest: that of a given model must never change."""
    shapes = {"generator": {"a": {"weight": np.arange(6, dtype=np.float32).reshape(2, 3)}}, "decoder": {"b": np.ones(1)}}
    assert from_params(CONFIG, shapes, {}).hash == "d1f7d9331c8c6314"
    assert from_params(tiny.network(noise="none", style_size=9), shapes, {}).hash != "d1f7d9331c8c6314"


def test_the_hash_is_written_down_compared_and_computed_only_when_asked_for(model, saved, monkeypatch):
    path = saved / "config.json"
    info = json.loads(path.read_text())
    assert info["hash"] == model.hash == fpgan.load(saved).hash
    path.write_text(json.dumps({key: value for key, value in info.items() if key != "hash"}))  # as older versions wrote it
    assert fpgan.load(saved).hash == model.hash
    other = from_params(CONFIG, jax.tree.map(lambda x: x + 1, model.params), {"name": "other"})
    other.save(saved.parent / "other")
    path.write_text(json.dumps(info))
    (saved.parent / "other" / "model.safetensors").replace(saved / "model.safetensors")
    with pytest.raises(FpganError, match=f"tells the hash {model.hash}, but .* have {other.hash}; .*copy or export"):
        fpgan.load(saved)
    monkeypatch.setattr("fpgan.model.model.model_hash", None)
    lazy = from_params(CONFIG, model.params, {})
    assert lazy.generate("a5", 1).shape == (1, 8, 8, 3)  # no hash for a grid or a measurement of a run
    with pytest.raises(TypeError):
        lazy.hash  # noqa: B018


def test_saving_again_replaces_the_model_and_keeps_files_beside_it(model, saved):
    (saved / "README.md").write_text("card")
    model.save(saved)
    assert (saved / "README.md").read_text() == "card" and fpgan.load(saved).hash == model.hash
    assert sorted(p.name for p in saved.parent.iterdir()) == ["tiny"]
    (saved.parent / "other").mkdir()
    with pytest.raises(FpganError, match="no model directory"):
        model.save(saved.parent / "other")


def test_metrics_are_recorded_beside_the_parameters(model, saved):
    format.record_metrics(saved, {"bit_accuracy": 0.5})
    loaded = fpgan.load(saved)
    assert loaded.info["metrics"] == {"bit_accuracy": 0.5} and loaded.hash == model.hash and loaded.name == "tiny"


@pytest.fixture
def aligned(saved):
    """The saved model, given an aligner that has learned nothing."""
    network = Aligner(8, 64, 16, 8)
    params = network.init(jax.random.key(5), np.zeros((1, 8, 8, 3)))["params"]
    format.save_aligner(saved, params, format.about_aligner(network) | {"images": 64}, {"search_thresholds": {"fast": 0.9}})
    return saved


def test_an_aligner_lies_beside_the_model_and_changes_no_hash(model, saved, aligned, tmp_path):
    bytes_before = format.params_bytes(model.params)
    loaded = fpgan.load(aligned)
    assert loaded.hash == model.hash and (aligned / "model.safetensors").read_bytes() == bytes_before
    assert model.aligner is None and loaded.aligner[0] == Aligner(8, 64, 16, 8) and loaded.info["aligner"]["images"] == 64
    assert (loaded.evenness_threshold(), loaded.evenness_threshold("none")) == (0.9, None)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    poses = loaded.locate(images, batch_size=4)
    assert poses.shape == (5, 3, 3) and not np.allclose(poses, np.eye(3))
    loaded.save(tmp_path / "copy")
    again = fpgan.load(tmp_path / "copy")
    assert again.info["aligner"] == loaded.info["aligner"]  # with its hash
    np.testing.assert_array_equal(again.locate(images, batch_size=4), poses)
    model.save(aligned)  # a model without one takes the place of all of it
    assert fpgan.load(aligned).aligner is None and not (aligned / "aligner.safetensors").exists()
    with pytest.raises(FpganError, match="model tiny has no aligner; add one"):
        fpgan.load(aligned).locate(images)


def test_a_model_reads_pictures_at_their_places(model):
    images = model.generate(np.eye(8, dtype=np.uint8)[:4], range(4))
    mirror = np.tile(np.diag([-1.0, 1, 1]), (4, 1, 1))
    np.testing.assert_allclose(model.decode(images[:, :, ::-1], poses=mirror), model.decode(images), rtol=1e-3, atol=1e-3)
    read = model.read(images)
    assert read.alignment.search == "none"
    np.testing.assert_array_equal(read.logits, model.decode(images, batch_size=4))
    assert model.read(images, "fast").logits.shape == (4, 8)


@pytest.mark.parametrize("damage, message", [
    (lambda d: (d / "aligner.safetensors").unlink(), "cannot read"),
    (lambda d: (d / "aligner.safetensors").write_bytes((d / "aligner.safetensors").read_bytes()[:-7]), "or is damaged"),
    (lambda d: (d / "aligner.safetensors").write_bytes((d / "model.safetensors").read_bytes()), "not the aligner that"),
    (lambda d: edit_aligner(d, features=9), "does not fit its config.json"),
    (lambda d: edit_aligner(d, size=12), "the aligner's size is 12; expected a power of two"),
    (lambda d: edit_aligner(d, size=16), "the aligner's size is 16, that of the images 8"),
    (lambda d: edit_aligner(d, size=1024), "expected"), (lambda d: edit_aligner(d, hash=None), "hash"),
    (lambda d: edit(d, search_thresholds={"fast": "high"}), "search_thresholds"),
])
def test_a_damaged_aligner_gives_one_line(aligned, damage, message):
    damage(aligned)
    with pytest.raises(FpganError, match=message) as caught:
        fpgan.load(aligned)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage, message", [
    (lambda d: (d / "model.safetensors").write_bytes((d / "model.safetensors").read_bytes()[:-7]), "damaged or truncated"),
    (lambda d: (d / "model.safetensors").write_bytes(b""), "damaged or truncated"),
    (lambda d: (d / "model.safetensors").unlink(), "cannot read"),
    (lambda d: (d / "config.json").write_text("{"), "damaged"),
    (lambda d: edit(d, format_version=99), "upgrade fpgan"),
    (lambda d: edit(d, network=CONFIG.to_dict() | {"latent_size": 5}), "does not fit its config.json: array 'decoder"),
    (lambda d: edit(d, network=CONFIG.to_dict() | {"warp": 5}), "unknown network field 'warp'"),
    (lambda d: edit(d, network=CONFIG.to_dict() | {"fingerprint_bits": 4}), "fingerprint_bits is 4, expected 8 to 512"),
])
def test_a_damaged_model_gives_one_line(saved, damage, message):
    damage(saved)
    with pytest.raises(FpganError, match=message) as caught:
        fpgan.load(saved)
    assert "\n" not in str(caught.value)


def edit(directory, **fields):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def edit_aligner(directory, **fields):
    edit(directory, aligner=json.loads((directory / "config.json").read_text())["aligner"] | fields)


def test_an_unknown_name_lists_what_ships():
    with pytest.raises(FpganError, match="no model 'nonesuch'"):
        fpgan.load("nonesuch")


def test_batches_of_any_size_differ_by_at_most_one_grey_level(model):
    bits = np.random.default_rng(0).integers(0, 2, (9, 8), np.uint8)
    seeds = np.arange(9)
    whole = model.generate(bits, seeds, batch_size=9).astype(int)
    for size in (1, 4, 16):
        assert np.abs(model.generate(bits, seeds, batch_size=size) - whole).max() <= 1
    parts = np.concatenate([model.generate(bits[part], seeds[part], batch_size=4) for part in (slice(4), slice(4, None))])
    np.testing.assert_array_equal(parts, model.generate(bits, seeds, batch_size=4))


def test_one_compilation_serves_a_thousand_fingerprints(monkeypatch):
    traces = []
    original = programs.Generator.__call__
    monkeypatch.setattr(programs.Generator, "__call__", lambda *args: traces.append(1) or original(*args))
    config = tiny.network(noise="none", fingerprint_bits=16)
    program = jax.jit(programs.generate_fn(config))
    params = init_params(config, jax.random.key(0))["generator"]
    traces.clear()
    rng = np.random.default_rng(0)
    bits = rng.permutation(np.unique(rng.integers(0, 2, (1200, 16)), axis=0))[:1000].astype(np.float32)
    assert len(bits) == 1000
    for start in range(0, 1000, 8):
        program(params, bits[start:start + 8], np.arange(start, start + 8, dtype=np.uint32))
    assert len(traces) == 1


def test_images_of_instances_and_latents_differ(model):
    bits = np.eye(8, dtype=np.uint8)
    floats = model.generate_float(bits, 7)
    assert len(np.unique(floats.reshape(8, -1), axis=0)) == 8
    assert len(np.unique(model.generate_float(bits[0], range(8)).reshape(8, -1), axis=0)) == 8


@pytest.mark.parametrize("call, message", [
    (lambda m: m.generate(np.zeros((3, 8), np.uint8), [1, 2]), "3 fingerprints and 2 seeds"),
    (lambda m: m.generate("00", [-1]), "expected integers in"),
    (lambda m: m.generate("00", 1.5), "expected one integer"),
    (lambda m: m.generate("0000", 1), "8"),
    (lambda m: m.generate("00", 1, batch_size=0), "batch size 0"),
    (lambda m: m.decode(np.zeros((2, 16, 16, 3), np.uint8)), "expected \\(N, 8, 8, 3\\)"),
    (lambda m: m.decode(np.zeros((2, 8, 8, 3), np.int32)), "as uint8"),
])
def test_bad_arguments_are_named(model, call, message):
    with pytest.raises(FpganError, match=message):
        call(model)


def test_no_images_give_no_rows(model):
    assert model.generate(np.zeros((0, 8), np.uint8), []).shape == (0, 8, 8, 3)
    assert model.decode(np.zeros((0, 8, 8, 3), np.uint8)).shape == (0, 8)


def test_import_is_lazy():
    import subprocess
    import sys

    code = "import sys, fpgan; print([m for m in ('jax', 'numpy', 'flax') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
