"""Scaling: the bytes in compiled programs are those of the parameters, counted by hand; rows and table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax import lax

from fpgan.benchmarks import scaling
from fpgan.benchmarks.bench import bench, table
from fpgan.benchmarks.program_text import all_reduced_bytes
from fpgan.benchmarks.timing import Settings, compile_training
from fpgan.errors import FpganError


def compiled_text(function, *shapes):
    devices = jax.devices()[:4]
    inputs = [jnp.zeros((4, *shape), dtype) for shape, dtype in shapes]
    return jax.pmap(function, axis_name="i", devices=devices).lower(*inputs).compile().as_text()


def test_bytes_of_a_program_by_hand():
    text = compiled_text(lambda x, y: (lax.pmean(x, "i"), lax.psum(y, "i"), x.sum() * y.sum()),
                         ((3, 5), jnp.float32), ((7,), jnp.int32))
    assert all_reduced_bytes(text) == 4 * (3 * 5 + 7)
    assert all_reduced_bytes(compiled_text(lambda x: x * 2, ((3, 5), jnp.float32))) == 0


def test_bytes_of_every_form_that_an_all_reduce_has():
    lines = {
        "  %all-reduce.1 = f32[8,3]{1,0} all-reduce(f32[8,3]{1,0} %x), replica_groups={{0,1}}, to_apply=%add": 96,
        "  %a = (f32[2]{0}, bf16[4,2]{1,0:T(8,128)}, pred[3]{0}) all-reduce(%x, %y, %z), to_apply=%add": 8 + 16 + 3,
        "  %b = (f32[2]{0}, /*index=1*/f32[4]{0}) all-reduce(%x, /*index=1*/%y), to_apply=%add": 24,
        "  ROOT %r = f32[] all-reduce(f32[] %x), channel_id=1": 4,
        "  %s = f32[10]{0} all-reduce-start(f32[10]{0} %x)\n  %d = f32[10]{0} all-reduce-done(f32[10]{0} %s)": 40,
        "  %g = f32[10]{0} get-tuple-element(%all-reduce.1), index=0": 0,
        "  %h = f32[10]{0} all-gather(f32[5]{0} %x)": 0,
    }
    for text, size in lines.items():
        assert all_reduced_bytes(text) == size, text
    assert all_reduced_bytes("\n".join(lines)) == sum(lines.values())


def bytes_of(*trees):
    return sum(np.asarray(x).nbytes for tree in trees for x in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def results():
    settings = Settings(batches=(32,), repeats=2, devices=(1, 8))
    patch = pytest.MonkeyPatch()
    patch.setattr("fpgan.benchmarks.bench.provenance", lambda command: {
        "device": {"name": "CPU", "platform": "cpu", "count": 8}, "versions": {"jax": "0"}})
    yield bench(["scaling"], tiny.network(), settings, training=tiny.config())
    patch.undo()


@pytest.mark.slow
def test_each_phase_exchanges_the_gradients_of_what_it_trains_and_its_scalars(results):
    from fpgan.training.state import init_state

    params = init_state(tiny.config()).params
    alone, eight = results["scaling"]["rows"]
    assert alone["all_reduced_bytes"] == 0 and (alone["devices"], eight["devices"]) == (1, 8)
    expected = {"generator": bytes_of(params["generator"], params["decoder"]), "path_length": bytes_of(params["generator"]),
                "discriminator": bytes_of(params["discriminator"]), "r1": bytes_of(params["discriminator"])}
    assert set(expected) == set(eight["phases"])
    work = {w["name"]: w for w in results["scaling"]["predictions"]["work"]}
    for name, size in expected.items():
        assert work[name]["reduced_bytes"] == size
        scalars = eight["phases"][name]["all_reduced_bytes"] - size
        # What a regulariser does not depend on, such as the biases of the image layers, has no gradient to exchange.
        constant = 0 if name in ("generator", "discriminator") else 64
        assert -constant < scalars <= 16 * 4 and scalars % 4 == 0, (name, scalars)
    assert eight["all_reduced_bytes"] == pytest.approx(
        sum(phase["all_reduced_bytes"] / phase["interval"] for phase in eight["phases"].values()))


@pytest.mark.slow
def test_rows_and_table(results):
    part = results["scaling"]
    for row in part["rows"]:
        assert 0 < row["fastest"] <= row["slowest"] and row["step_seconds"] > 0
        assert row["step_seconds"] == pytest.approx(sum(p["seconds"] / p["interval"] for p in row["phases"].values()))
    text = table(results)
    assert max(map(len, text.splitlines())) <= 100
    assert "PREDICTED, not measured" in text and "v5p-128" in text and "measured, 32 images per step" in text


@pytest.mark.slow
def test_flops_are_counted_without_compiling_as_they_are_after_it():
    config = tiny.config()
    config.batch_size = 8
    counted = {work.name: work.flops for work in scaling.count_work(config, 8)}
    programs, intervals = compile_training(config, 0, jax.local_devices()[:1])
    assert intervals == {"generator": 1, "path_length": 4, "discriminator": 1, "r1": 16}
    for name, program in programs.items():
        assert counted[name] == pytest.approx(program.flops, rel=0.3), name


@pytest.mark.parametrize("settings, message", [
    (Settings(batches=(12,)), "does not split over 2 devices"), (Settings(devices=(99,), batches=(99 * 4,)), "there are 8"),
    (Settings(devices=(0,)), "at least 1"), (Settings(devices=(), utilization=1.5), "utilization is 1.5"),
    (Settings(devices=(), device_batch=3), "multiple of 4")])
def test_senseless_wishes_are_refused(settings, message):
    with pytest.raises(FpganError, match=message):
        bench(["scaling"], tiny.network(), settings, training=tiny.config())


def test_a_training_config_is_needed():
    with pytest.raises(FpganError, match="give --config"):
        bench(["scaling"], tiny.network(), Settings())
