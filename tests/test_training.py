"""The training run as a whole: kills, pre-emption, NaN, changed configs, export."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import fpgan
from fpgan.distributed import devices
from fpgan.errors import FpganError
from fpgan.model.format import save_model
from fpgan.training import loop, step
from fpgan.training.checkpoint import Checkpoints
from fpgan.training.export import export
from fpgan.training.logs import keep_until
from fpgan.training.state import init_state
from fpgan.training.step import Phase

TINY = Path(tiny.__file__)
STEPS = 24


def start(workdir, *overrides):
    """Starts `fpgan train` with the tiny config on one device, as a process of its own."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0",
                   "PYTHONPATH": os.pathsep.join([str(TINY.parents[1]), str(TINY.parent)])}
    code = "import sys, fpgan.cli; sys.exit(fpgan.cli.main())"
    command = [sys.executable, "-c", code, "train", "--config", str(TINY), "--workdir", str(workdir), *overrides]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def wait_for_step(process, step):
    """Reads the process's output until its log shows a step, or it ends."""
    seen = []
    for line in process.stdout:
        seen.append(line)
        if "k images" in line and float(line.split("%")[0]) >= 100 * step / STEPS:
            break
    return "".join(seen)


def final_state(workdir):
    state = Checkpoints(workdir).restore(init_state(tiny.config()))
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}


def records(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "whole"
    process = start(workdir)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return workdir


def test_a_run_killed_anywhere_ends_with_the_same_bits(uninterrupted, tmp_path):
    workdir = tmp_path / "killed"
    process = start(workdir)  # first SIGTERM: saves, and exits with 0
    wait_for_step(process, 3)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0 and "stopped at step" in output, output
    stopped = Checkpoints(workdir).latest
    assert 3 <= stopped < STEPS

    process = start(workdir)  # then SIGKILL at a random moment
    output = wait_for_step(process, random.randint(stopped + 5, STEPS - 4))
    assert f"continuing at step {stopped}" in output
    time.sleep(random.random() / 4)
    process.kill()
    process.communicate(timeout=300)

    process = start(workdir)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0 and "finished at step 24" in output, output
    whole, killed = final_state(uninterrupted), final_state(workdir)
    assert whole.keys() == killed.keys() and any("mu" in name for name in whole)
    for name in whole:
        np.testing.assert_array_equal(whole[name], killed[name], err_msg=name)
    assert whole[".step"] == STEPS and whole[".path_length_mean"] > 0
    assert records(workdir)[-1] == records(uninterrupted)[-1]
    assert [r["step"] for r in records(workdir)] == sorted({r["step"] for r in records(workdir)})


def test_the_run_leaves_logs_and_pictures(uninterrupted):
    last = records(uninterrupted)[-1]
    assert last["step"] == STEPS and last["images"] == STEPS * 32
    assert {"adversarial", "latent", "fingerprint", "consistency", "discriminator", "accuracy"} <= last.keys()
    names = {p.name for p in (uninterrupted / "grids").iterdir()}
    assert names == {"reals.png"} | {f"{s}-{g}.png" for s in ("0000000", "0000024")
                                     for g in ("random", "one_latent", "one_fingerprint")}


def test_the_same_command_after_the_end_changes_nothing(uninterrupted):
    before = final_state(uninterrupted)
    process = start(uninterrupted)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0 and "finished at step 24" in output, output
    for name, value in final_state(uninterrupted).items():
        np.testing.assert_array_equal(before[name], value)


def test_another_config_in_a_used_directory_is_refused(uninterrupted):
    process = start(uninterrupted, "optimizer.beta2=0.5")
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 2 and "was begun with optimizer.beta2 = 0.99, now it is 0.5" in output
    assert "Traceback" not in output


def test_export_gives_a_model_of_the_moving_averages(uninterrupted, tmp_path):
    model = export(uninterrupted, tmp_path / "exported", dtype="float32")
    state = final_state(uninterrupted)
    weight = np.asarray(model.params["generator"]["synthesis"]["b8"]["conv"]["weight"])
    np.testing.assert_array_equal(weight, state[".ema['generator']['synthesis']['b8']['conv']['weight']"])
    assert model.info["training"]["images_seen"] == STEPS * 32 and "CC-BY" in model.info["training"]["licence"]
    assert fpgan.load(tmp_path / "exported").decode(model.generate("a5", [1, 2])).shape == (2, 8)
    with pytest.raises(FpganError, match="no training run"):
        export(tmp_path, tmp_path / "none")


def test_a_run_can_start_from_a_model(uninterrupted, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "phases", lambda *args: counting_phase(-1, ""))
    model = export(uninterrupted, tmp_path / "model")
    params = init_state(tiny.config()).params
    both = dict(model.params) | {"discriminator": params["discriminator"]}
    save_model(tmp_path / "with_discriminator", model.config, both, {})
    for name in ("model", "with_discriminator"):
        state = loop.train(tiny.config(init_from=str(tmp_path / name), total_images=64), tmp_path / f"from_{name}")
        jax.tree.map(np.testing.assert_array_equal, state.params, jax.tree.map(np.asarray, both))
    with pytest.raises(FpganError, match="network.style_size is 16, there 8"):
        loop.train(tiny.config(init_from=str(tmp_path / "model"), network=dict(style_size=16)), tmp_path / "other")


def counting_phase(bad_step, poison):
    """A phase that only counts, and at one step gives a scalar or a parameter that is not a number."""
    def run(state, images):
        bad = state.step == bad_step
        loss = jnp.where(bad & (poison == "scalar"), jnp.nan, 1.0)
        factor = jnp.where(bad & (poison == "params"), jnp.nan, 1.0)
        params = state.params | {"decoder": jax.tree.map(lambda x: x * factor, state.params["decoder"])}
        return state.replace(step=state.step + 1, params=params), {"some_loss": loss}
    return (Phase("counting", 1, run),)


@pytest.mark.parametrize("poison, message", [("scalar", "some_loss is not finite at step 11"),
                                             ("params", "parameters of the decoder are not finite at step 12")])
def test_nan_stops_the_run_and_names_step_and_term(tmp_path, monkeypatch, poison, message):
    monkeypatch.setattr(loop, "phases", lambda *args: counting_phase(10, poison))
    with pytest.raises(loop.TrainingDiverged, match=message):
        loop.train(tiny.config(every=dict(log=3)), tmp_path)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest == 8
    state = checkpoints.restore(init_state(tiny.config()))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def test_the_newest_checkpoints_are_kept_and_every_nth(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "phases", lambda *args: counting_phase(-1, ""))
    loop.train(tiny.config(keep=dict(newest=2, every=8)), tmp_path)
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [8, 16, 20, 24]


def test_resident_and_streamed_training_see_the_same_images(tmp_path, monkeypatch):
    def counting_and_discriminator(*args):
        return *counting_phase(-1, ""), next(p for p in step.phases(*args) if p.name == "discriminator")

    monkeypatch.setattr(loop, "phases", counting_and_discriminator)
    trained = [loop.train(tiny.config(data=dict(resident=resident), total_images=32 * 3), tmp_path / str(resident))
               for resident in (True, False)]
    a, b = (jax.tree.leaves(state.params["discriminator"]) for state in trained)
    start = jax.tree.leaves(init_state(tiny.config()).params["discriminator"])
    assert max(np.abs(x - y).max() for x, y in zip(a, start, strict=True)) > 1e-3
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_a_batch_that_does_not_split_is_refused(tmp_path):
    with pytest.raises(FpganError, match="batch_size 12 does not split over 8 devices.*multiple of 32"):
        loop.train(tiny.config(batch_size=12), tmp_path)
    assert not list(tmp_path.iterdir())


def test_metrics_lose_what_will_be_written_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    keep_until(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_replicated_trees_come_back():
    tree = {"a": jnp.arange(3.0), "b": jnp.int32(7)}
    copies = devices.replicate(tree)
    assert copies["a"].shape == (8, 3) and copies["b"].shape == (8,)
    back = devices.unreplicate(copies)
    np.testing.assert_array_equal(back["a"], tree["a"])
    assert back["b"] == 7
    parts = devices.shard(np.arange(16 * 3).reshape(16, 3))
    assert parts.shape == (8, 2, 3) and [s.data.shape for s in parts.addressable_shards] == [(1, 2, 3)] * 8


def test_a_step_moves_nothing_between_host_and_devices_that_does_not_say_so(tmp_path, monkeypatch):
    def run(state, images):
        return state.replace(step=state.step + 1), {"grey": jnp.mean(images.astype(jnp.float32))}

    monkeypatch.setattr(loop, "phases", lambda *args: (Phase("looking", 1, run),))
    settings = tiny.config(data=dict(resident=False), total_images=64)
    assert int(loop.train(settings, tmp_path / "explicit").step) == 2
    monkeypatch.setattr(loop, "shard", lambda batch: batch.reshape(8, -1, *batch.shape[1:]))
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        loop.train(settings, tmp_path / "silent")


def test_a_mistake_leaves_no_config_behind_that_the_right_command_differs_from(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "phases", lambda *args: counting_phase(-1, ""))
    for mistake in (dict(init_from=str(tmp_path / "none")), dict(data=dict(name="folder", path=str(tmp_path / "none")))):
        with pytest.raises(FpganError):
            loop.train(tiny.config(**mistake), tmp_path / "run")
    assert int(loop.train(tiny.config(), tmp_path / "run").step) == 24


def test_a_run_of_an_older_version_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "phases", lambda *args: counting_phase(-1, ""))
    loop.train(tiny.config(), tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    fields["objective.discriminator_noise"] = fields.pop("objective.instance_noise")
    path.write_text(json.dumps({key: value for key, value in fields.items() if key != "network.decoder_linear_gain"}))
    loop.train(tiny.config(export=dict(strength=1.0, readout_images=2000)), tmp_path)  # nor does what follows training count
    with pytest.raises(FpganError, match="begun with network.decoder_linear_gain = 8.0, now it is 2.0"):
        loop.train(tiny.config(network=dict(decoder_linear_gain=2.0)), tmp_path)
    path.write_text("{")
    with pytest.raises(FpganError, match="config.json: cannot be read"):
        loop.train(tiny.config(), tmp_path)


def test_a_model_that_means_something_else_by_its_parameters_is_no_start(tmp_path):
    state = init_state(tiny.config())
    save_model(tmp_path / "model", tiny.network(), dict(state.ema), {})
    with pytest.raises(FpganError, match="network.decoder_linear_gain is 2.0, there 8.0"):
        loop.train(tiny.config(init_from=str(tmp_path / "model"), network=dict(decoder_linear_gain=2.0)), tmp_path / "run")
