"""All devices of a process share a batch: the same bytes for any number of them, and few images need no large program."""

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
from fpgan.model import programs
from fpgan.model.model import from_params
from fpgan.networks.parameters import init_params

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
