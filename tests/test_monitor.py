"""Measurements during training: what they say, and that they change nothing."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax import lax

from fpgan.data.sources import open_source
from fpgan.distributed import devices
from fpgan.errors import FpganError
from fpgan.evaluation.distances import frechet_distance, moments
from fpgan.evaluation.features import average_pixels
from fpgan.model.model import from_params
from fpgan.training import loop
from fpgan.training.monitor import Monitor, open_monitor
from fpgan.training.state import averaged_params, init_state
from fpgan.training.step import Phase

EVALUATED = ["eval_accuracy", "eval_psnr", "eval_frechet_pixels_8"]


def config(**fields):
    every = dict(evaluate=3, log=2, checkpoint=4)
    return tiny.config(total_images=8 * 32, every=every, evaluation=dict(images=60), **fields)


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def measured(workdir):
    return [[r["step"], *(r[name] for name in EVALUATED)] for r in records(workdir) if "eval_accuracy" in r]


def leaves(state):
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}


def drift(*args):
    """A phase that takes no time to compile: parameters, and their averages, follow the step and the images."""
    def run(state, images):
        by = 1 + 0.01 * jnp.sin(state.step + lax.pmean(images.astype(jnp.float32).mean(), devices.AXIS))
        params = jax.tree.map(lambda x: x * by, state.params)
        ema = jax.tree.map(lambda mean, x: 0.9 * mean + 0.1 * x, state.ema, {name: params[name] for name in state.ema})
        return state.replace(step=state.step + 1, params=params, ema=ema), {"accuracy": by}
    return (Phase("drift", 1, run),)


@pytest.fixture
def drifting(monkeypatch):
    monkeypatch.setattr(loop, "phases", drift)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "phases", drift)
        return workdir, leaves(loop.train(config(), workdir))


def assert_the_same_bits(ours, theirs):
    for name, value in theirs.items():
        np.testing.assert_array_equal(value, ours[name], err_msg=name)


def test_training_is_the_same_bits_with_and_without_measuring(watched, tmp_path, drifting):
    unwatched = leaves(loop.train(tiny.config(total_images=8 * 32), tmp_path))
    assert_the_same_bits(unwatched, watched[1])
    start = leaves(init_state(tiny.config()))
    assert any((value != start[name]).any() for name, value in unwatched.items() if "ema" in name)
    assert not measured(tmp_path)


@pytest.mark.slow
def test_real_training_is_the_same_bits_with_and_without_measuring(tmp_path):
    unwatched, watched = (leaves(loop.train(settings, tmp_path / name)) for settings, name in (
        (tiny.config(total_images=8 * 32), "unwatched"), (config(), "watched")))
    assert_the_same_bits(unwatched, watched)


def test_what_is_measured_stands_beside_its_step(watched):
    assert [row[0] for row in measured(watched[0])] == [3, 6, 8]  # every third, and the last
    assert [r["step"] for r in records(watched[0])] == [2, 3, 4, 6, 8]
    for _, accuracy, similarity, distance in measured(watched[0]):
        assert 0 < accuracy < 1 and 0 < similarity < 80 and distance > 0
    assert all(r["accuracy"] > 0 for r in records(watched[0]))  # the means of training are still there


def test_a_resumed_run_measures_the_same(watched, tmp_path, monkeypatch, drifting):
    agreed = loop.StopFlag.agreed
    monkeypatch.setattr(loop.StopFlag, "agreed", lambda self, step: step == 4)
    assert int(loop.train(config(), tmp_path).step) == 5
    monkeypatch.setattr(loop.StopFlag, "agreed", agreed)
    assert_the_same_bits(leaves(loop.train(config(), tmp_path)), watched[1])
    assert measured(tmp_path) == measured(watched[0])


def test_measuring_may_be_switched_on_in_a_used_directory(tmp_path, monkeypatch, drifting):
    monkeypatch.setattr(loop.StopFlag, "agreed", lambda self, step: step == 1)
    loop.train(tiny.config(total_images=8 * 32), tmp_path)
    assert not measured(tmp_path)
    loop.train(config(), tmp_path)  # no complaint about a changed config
    assert measured(tmp_path)


@pytest.mark.parametrize("ema_decoder", [True, False])
def test_the_numbers_are_those_of_the_moving_averages(ema_decoder):
    settings = config(ema_decoder=ema_decoder)
    state = init_state(settings)
    state = state.replace(ema=jax.tree.map(lambda x: 1.5 * x, state.ema))
    source = open_source(settings.data, 8)
    monitor = Monitor(settings, source)
    result = monitor(devices.replicate(state))

    params = averaged_params(settings, state)
    decoder = np.asarray(jax.tree.leaves(params["decoder"])[-1])
    np.testing.assert_array_equal(decoder, jax.tree.leaves((state.ema if ema_decoder else state.params)["decoder"])[-1])
    model = from_params(tiny.network(), params, {})
    images = model.generate(monitor._bits, monitor._seeds)
    right = (model.decode(images) > 0) == (monitor._bits > 0)
    assert result["eval_accuracy"] == pytest.approx(right.mean())
    reals = np.stack([source[i] for i in range(64)])
    full = frechet_distance(moments(average_pixels(images)), moments(average_pixels(reals)))
    assert result["eval_frechet_pixels_8"] == pytest.approx(full, rel=0.2)  # 60 of the 64 real images
    assert open_monitor(tiny.config(), source)(None) == {}  # every.evaluate is 0


def test_bad_settings_are_told_before_training():
    one = config(data=dict(count=1))
    with pytest.raises(FpganError, match="has 1 images; expected 2 or more"):
        Monitor(one, open_source(one.data, 8))
    colours = config()
    colours.evaluation.features = "colours"
    with pytest.raises(FpganError, match="no features named 'colours'"):
        Monitor(colours, open_source(colours.data, 8))
