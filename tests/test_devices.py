"""All devices of a process share a batch: the same bytes for any number of them, and few images need no large program."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from fake_model import N_BITS, FakeModel

from fpgan.attribution.registry import issue
from fpgan.distributed import devices
from fpgan.errors import FpganError
from fpgan.generation.generate import generate_set
from fpgan.io.images import encode_png
from fpgan.model import poses, programs, reading
from fpgan.model.model import from_params, load
from fpgan.networks.alignment import Aligner
from fpgan.networks.parameters import init_params
from fpgan.perturbations import apply

CONFIG = tiny.network(noise="random")
COUNTS = (1, 2, 3, 8)


@pytest.fixture(scope="module")
def model():
    return from_params(CONFIG, init_params(CONFIG, jax.random.key(1)), {})


def test_any_number_of_devices_gives_the_same_bytes(model):
    bits = np.random.default_rng(0).integers(0, 2, (37, 8), np.uint8)
    images = [model.generate(bits, range(37), batch_size=4, devices=count) for count in COUNTS]
    logits = [model.decode(images[0], batch_size=4, devices=count) for count in COUNTS]
    for other in range(1, len(COUNTS)):
        np.testing.assert_array_equal(images[other], images[0])
        np.testing.assert_array_equal(logits[other], logits[0])
    np.testing.assert_array_equal(model.generate(bits, range(37), batch_size=4), images[0])
    with pytest.raises(FpganError, match="9 devices are asked for; this process has 8"):
        model.decode(images[0], devices=9)


@pytest.fixture(scope="module")
def aligned(model):
    """The model with an aligner that has learned nothing, so that each image is looked for somewhere."""
    network = Aligner(8, 64, 16, 8)
    params = network.init(jax.random.key(5), np.zeros((1, 8, 8, 3)))["params"]
    return dataclasses.replace(model, aligner=(network, jax.tree.map(lambda array: 3 * array, params)))


def test_a_search_gives_the_same_bytes_on_any_number_of_devices_and_in_any_company(aligned, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (21, 8, 8, 3), np.uint8)
    monkeypatch.setattr(poses, "grids", lambda resolution: (poses.turns()[:3],))
    monkeypatch.setattr(reading, "_BELL", 1.0)  # no image is clearly right
    monkeypatch.setattr(reading, "_deviation", lambda n_bits: 0.0)  # and the most even of many poses need not be more even

    def read(rows, count):
        monkeypatch.setattr("fpgan.model.model.local_devices", lambda _=None: devices.local_devices(count))
        found = aligned.read(images[rows], "full", batch_size=8, exact=True)
        return found.logits, found.alignment.poses
    logits, places = read(np.arange(21), 1)
    assert (np.abs(places - np.eye(3)).max(axis=(1, 2)) > 0.01).sum() > 10
    for rows, count in ((np.arange(21), 8), (np.arange(21)[::-1], 1), (np.array([3, 11, 17]), 2)):
        found = read(rows, count)
        np.testing.assert_array_equal(found[0], logits[rows])
        np.testing.assert_array_equal(found[1], places[rows])


def test_each_device_gets_a_batch_and_holds_the_parameters_once(model, monkeypatch):
    shapes = []
    plain = programs.decode_fn(CONFIG)
    monkeypatch.setattr(programs, "decode_fn",
                        lambda config: lambda params, images: shapes.append(images.shape) or plain(params, images))
    programs.decode_program.cache_clear()
    model.decode(np.zeros((40, 8, 8, 3), np.uint8), batch_size=4, devices=8)
    programs.decode_program.cache_clear()
    assert shapes == [(4, 8, 8, 3)]  # traced once, with the share of a device
    eight, four = (jax.tree.leaves(model._params_on("decoder", devices.local_devices(count))) for count in (8, 4))
    for array, part in zip(eight, four, strict=True):
        assert array.sharding.is_fully_replicated and len(array.addressable_shards) == 8
        places = {shard.device: shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards}
        parts = {shard.device: shard.data.unsafe_buffer_pointer() for shard in part.addressable_shards}
        assert len(parts) == 4 and parts.items() <= places.items()


@pytest.mark.parametrize("batch_size, count, least, expected", [
    (60_000, 2, 1, 2), (60_000, 2, 16, 16), (64, 100, 1, 64), (64, 33, 1, 64), (64, 17, 16, 32), (8, 1, 16, 8),
    (64, 0, 1, 1)])
def test_few_images_need_no_large_batch(batch_size, count, least, expected):
    assert programs.fitting_batch(batch_size, count, least) == expected


def test_two_images_are_not_padded_to_a_batch_of_60000(model, monkeypatch):
    sizes = []
    monkeypatch.setattr("fpgan.model.model.in_batches", lambda program, arrays, size, shape: sizes.append(size) or
                        programs.in_batches(program, arrays, size, shape))
    model.decode(model.generate("0f", [1, 2], batch_size=60_000), batch_size=60_000)
    assert sizes == [16, 2]


def test_a_batch_that_no_machine_holds_is_refused(model, tmp_path):
    for call in (lambda: model.generate("0f", [1], batch_size=10**12),
                 lambda: model.decode(np.zeros((1, 8, 8, 3)), batch_size=10**12),
                 lambda: generate_set(FakeModel(), issue(["a"], N_BITS), tmp_path / "set", per_user=1, seed=0,
                                      batch_size=2 * 10**9)):
        with pytest.raises(FpganError, match="its images alone take .* GB; expected at most"):
            call()
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("container", ["files", "array_record"])
def test_a_set_has_the_same_bytes_with_any_number_of_devices(container, tmp_path):
    registry = issue(["alice", "bob"], N_BITS)
    sets = []
    for count in (1, 3, 8):
        folder = tmp_path / str(count)
        generate_set(FakeModel(), registry, folder, per_user=21, seed=5, batch_size=4, shard_size=19, container=container,
                     devices=count)
        sets.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert sets[0] == sets[1] == sets[2] and len(sets[0]) > 3


SCRIPT = """
import sys
import numpy as np
import fpgan
model = fpgan.load()
images = model.generate("5b83d0e03bd8602d29549acd8054045f", range(21), batch_size=5)
np.savez(sys.argv[1], images=images, logits=model.decode(images, batch_size=5))
"""


@pytest.mark.slow
def test_the_shipped_model_gives_the_same_bytes_on_1_and_on_8_devices(tmp_path):
    results = []
    for count in (1, 8):
        environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
                                    "PYTHONPATH": str(Path(__file__).parents[1])}
        subprocess.run([sys.executable, "-c", SCRIPT, tmp_path / f"{count}.npz"], env=environment, check=True)
        results.append(np.load(tmp_path / f"{count}.npz"))
    for name in ("images", "logits"):
        np.testing.assert_array_equal(results[0][name], results[1][name])


SEARCHING = """
import sys
import numpy as np
import fpgan
from fpgan.decoding import decode_files
out, *files = sys.argv[1:]
model = fpgan.load("robohash32_immunised")
rows = {search: list(decode_files(model, files, batch_size=8, search=search)) for search in ("fast", "full")}
np.savez(out, **{search: [row.logits for row in found] for search, found in rows.items()},
         **{f"{search} undone": [row.undone for row in found] for search, found in rows.items()})
"""


@pytest.mark.slow
def test_the_shipped_aligner_gives_the_same_bytes_on_1_and_on_8_devices_and_in_any_company(tmp_path):
    images = load("robohash32_immunised").generate("5b83d0e03bd8602d29549acd8054045f", range(21))
    for first, spec in enumerate(("flip", "shift:5,-3", "crop_as_is:0.8", "rotate:4+jpeg:80")):
        for i in range(first, 20, 5):
            (tmp_path / f"{i:02}.png").write_bytes(encode_png(apply(spec, images[i:i + 1])[0]))
    for i in (4, 9, 14, 19, 20):
        (tmp_path / f"{i:02}.png").write_bytes(encode_png(images[i]))
    (tmp_path / "21.png").write_bytes(encode_png(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)))
    files, results = sorted(tmp_path.glob("*.png")), []
    for count, rows in ((1, range(22)), (8, range(22)), (1, range(21, 9, -1))):
        environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
                                    "PYTHONPATH": str(Path(__file__).parents[1])}
        out = tmp_path / f"{len(results)}.npz"
        subprocess.run([sys.executable, "-c", SEARCHING, out, *(files[i] for i in rows)], env=environment, check=True)
        results.append({name: array[np.argsort(rows)] for name, array in np.load(out).items()})
    one, eight, few = results
    assert (one["fast undone"] != "").sum() > 10 and len(one["fast"]) == 22
    for name in one:
        np.testing.assert_array_equal(eight[name], one[name])
        np.testing.assert_array_equal(few[name], one[name][10:])
