"""What a working directory survives: a second start, a full disk, a damaged checkpoint, a longer run, a fork."""

import functools
import json
import os
import shutil
import subprocess

import jax
import numpy as np
import pytest
import tiny
from processes import LIGHT

from fpgan.cli.app import main
from fpgan.distributed.work import claim
from fpgan.errors import FpganError, os_reason
from fpgan.io.files import locked
from fpgan.training import loop
from fpgan.training.checkpoint import Checkpoints
from fpgan.training.export import export
from fpgan.training.state import init_state
from fpgan.training.step import Phase
from fpgan.training.workdir import check_config, read_history, write_config


def drifting(state, images):
    """Adds to the decoder what depends on the step alone."""
    params = state.params | {"decoder": jax.tree.map(lambda x: 0.9 * x + 0.01 * state.step, state.params["decoder"])}
    return state.replace(step=state.step + 1, params=params), {"some_loss": state.accuracy}


@functools.cache
def first(bits_first):
    """The state at step 0."""
    return init_state(tiny.config(curriculum=dict(bits_first=bits_first)))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A phase that needs no time to compile, and a first state that is made once."""
    monkeypatch.setattr(loop, "phases", lambda *args: (Phase("drifting", 1, drifting),))
    monkeypatch.setattr(loop, "init_state", lambda config: first(config.curriculum.bits_first))


def config(steps=8, **fields):
    return tiny.config(**{"total_images": 32 * steps, "every": dict(log=2, checkpoint=4, grid=0)} | fields)


def leaves(state):
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}


def assert_same(ours, theirs):
    ours, theirs = leaves(ours), leaves(theirs)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def test_a_second_start_in_a_used_directory_waits_outside(tmp_path):
    loop.train(config(4), tmp_path / "run")
    before = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    with locked(tmp_path / "run" / ".lock"), pytest.raises(FpganError, match="run: another process is at work here"):
        loop.train(config(8), tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == before
    assert int(loop.train(config(8), tmp_path / "run").step) == 8


def test_a_second_export_into_one_directory_is_refused_and_no_lock_stays(tmp_path):
    loop.train(config(4), tmp_path / "run")
    held = claim(tmp_path / ".model.lock")
    with pytest.raises(FpganError, match="model: another process is exporting there"):
        export(tmp_path / "run", tmp_path / "model")
    held.release()
    export(tmp_path / "run", tmp_path / "model")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "run"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False).returncode:
        pytest.skip("mounting takes the rights of root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder, leave):
    """Fills a disk up to so many bytes."""
    free = os.statvfs(folder)
    (folder / "filler").write_bytes(bytes(free.f_bavail * free.f_bsize - leave))


def only_line(text):
    lines = [line for line in text.splitlines() if line]
    assert len(lines) == 1 and len(lines[0]) < 400, text
    return lines[0]


def test_a_disk_that_fills_up_in_training_is_told_in_one_line(small_disk, monkeypatch, capfd):
    (small_disk / "config.py").write_text("import tiny\n\ndef get_config():\n"
                                          "    return tiny.config(every=dict(checkpoint=4, grid=0))\n")
    run = small_disk / "run"
    command = ["train", "--config", str(small_disk / "config.py"), "--workdir", str(run)]
    assert main([*command, "total_images=256"]) == 0
    fill(small_disk, 40_000)
    capfd.readouterr()
    assert main([*command, "total_images=768"]) == 2
    told = only_line(capfd.readouterr().err)
    assert told.startswith(f"fpgan train: error: {run}/checkpoints/12: cannot be written (No space left on device), mend")
    assert f"the last saved step is 8 in {run}; run the same command again" in told
    (small_disk / "filler").unlink()
    assert main([*command, "total_images=768"]) == 0
    assert "continuing at step 8" in capfd.readouterr().out
    fill(small_disk, 0)
    assert main([*command, "total_images=1536"]) == 2
    told = only_line(capfd.readouterr().err)
    assert "No space left on device" in told and str(run) in told


@pytest.mark.slow
def test_a_full_disk_is_one_line_of_a_real_process(small_disk):
    process = subprocess.run([*LIGHT, "train", "--config", tiny.__file__, "--workdir", small_disk / "run", "keep.newest=99",
                              "every.checkpoint=1", "data.resident=false", "total_images=6400"],
                             check=False, capture_output=True, text=True, timeout=300)
    assert process.returncode == 2
    told = only_line(process.stderr)
    assert "cannot be written (No space left on device), mend that; the last saved step is " in told


def test_a_disk_that_fills_up_while_data_is_prepared_is_told_in_one_line(small_disk, capfd):
    pytest.importorskip("tensorflow_datasets")
    fill(small_disk, 100_000)
    command = ["data", "--name", "robohash_cats", "--resolution", "32", "--count", "300", "--data-dir", str(small_disk)]
    assert main(command) == 2
    told = only_line(capfd.readouterr().err)
    assert told.startswith(f"fpgan data: error: {small_disk}/robohash_cats/32px_300/1.0.0: cannot be written")
    assert "No space left on device" in told and "run the same command again" in told
    (small_disk / "filler").unlink()
    assert main(command) == 0 and "300 images" in capfd.readouterr().out


def test_what_the_system_says_is_found_in_exceptions_of_libraries():
    assert os_reason(ValueError("RESOURCE_EXHAUSTED: ... file 11: [os_error_code='28']")) == "No space left on device"
    assert os_reason(RuntimeError("write() failed: No space left on device; writing x")) == "No space left on device"
    assert os_reason(OSError(27, "File too large", "x")) == "File too large"
    assert os_reason(ValueError("shapes do not match")) is None


def damage(checkpoint, name, keep):
    """Cuts short the largest file of a checkpoint that has such a name, or removes a folder of that name."""
    if (checkpoint / name).is_dir() and not keep:
        shutil.rmtree(checkpoint / name)
        return
    path = max((p for p in checkpoint.rglob("*") if p.is_file() and name in p.as_posix()), key=lambda p: p.stat().st_size)
    os.truncate(path, int(keep * path.stat().st_size))


@pytest.mark.parametrize("name, keep", [("ocdbt.process_0/d/", 0.5), ("_METADATA", 0.0), ("default/manifest.ocdbt", 0.3),
                                        ("default", 0.0)])
def test_a_checkpoint_cut_short_is_set_aside_and_the_run_goes_on_from_the_one_before(tmp_path, name, keep):
    whole = loop.train(config(12), tmp_path / "whole")
    loop.train(config(8), tmp_path / "run")
    damage(tmp_path / "run" / "checkpoints" / "8", name, keep)
    lines = []
    assert_same(loop.train(config(12), tmp_path / "run", lines.append), whole)
    moved = tmp_path / "run" / "damaged" / "8-0"
    assert any(f"step 8 cannot be read; moved it to {moved}" in line for line in lines) and moved.is_dir()
    assert any("continuing at step 4" in line for line in lines)
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["12", "8"]


def test_a_run_whose_only_checkpoint_is_damaged_does_not_begin_anew_by_itself(tmp_path):
    loop.train(config(4), tmp_path)
    damage(tmp_path / "checkpoints" / "4", "ocdbt.process_0/d/", 0.5)
    with pytest.raises(FpganError, match="checkpoints/4 cannot be read .*there is none: remove .*checkpoints to begin anew"):
        loop.train(config(8), tmp_path)
    assert (tmp_path / "checkpoints" / "4").is_dir()


def test_a_finished_run_is_trained_longer_for_nothing_while_its_rates_are_constant(tmp_path):
    loop.train(config(4), tmp_path / "run")
    whole = loop.train(config(8), tmp_path / "whole")
    assert_same(loop.train(config(8), tmp_path / "run"), whole)
    assert not (tmp_path / "run" / "history.json").exists()
    with pytest.raises(FpganError, match="begun with total_images = 256, now it is 128"):
        loop.train(config(4), tmp_path / "run")
    decay = dict(decay_images=32 * 4)
    write_config(tmp_path, config(8, optimizer=decay))
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)  # the rates have not begun to fall
    assert check_config(tmp_path, config(16, optimizer=decay)) is None


def test_a_run_whose_rates_have_fallen_says_what_would_change_and_records_it(tmp_path):
    decay = dict(decay_images=32 * 4)
    loop.train(config(8, optimizer=decay), tmp_path / "run")
    with pytest.raises(FpganError, match="fallen since image 128, to 0%; with 320 they would rise again to 50%.*--extend"):
        loop.train(config(10, optimizer=decay), tmp_path / "run")
    assert int(loop.train(config(10, optimizer=decay), tmp_path / "run", extend=True).step) == 10
    entry = {"step": 8, "by": "--extend", "changed": {"total_images": [256, 320]}}
    assert read_history(tmp_path / "run") == [entry]
    loop.train(config(10, optimizer=decay), tmp_path / "run")  # the same command without the flag goes on
    assert read_history(tmp_path / "run") == [entry]
    assert export(tmp_path / "run", tmp_path / "model").info["training"]["history"] == [entry]


def test_a_fork_keeps_the_state_and_records_where_it_is_from(tmp_path):
    parent = loop.train(config(8), tmp_path / "parent")
    forked = config(8, objective=dict(fingerprint=9.0))
    with pytest.raises(FpganError, match="begun with objective.fingerprint = 2.0, now it is 9.0; .*--fork"):
        loop.train(forked, tmp_path / "parent")
    lines = []
    state = loop.train(forked, tmp_path / "child", lines.append, fork=tmp_path / "parent")
    assert any(line == f"going on from step 8 of {tmp_path / 'parent'}" for line in lines)
    assert_same(state, parent)
    entry = {"step": 8, "by": "--fork", "from": str(tmp_path / "parent"), "changed": {"objective.fingerprint": [2.0, 9.0]}}
    assert read_history(tmp_path / "child") == [entry]

    longer = config(12, objective=dict(fingerprint=9.0))
    assert int(loop.train(longer, tmp_path / "child", fork=tmp_path / "parent").step) == 12  # goes on where it is
    third = loop.train(longer, tmp_path / "third", fork=tmp_path / "child")
    assert int(third.step) == 12 and read_history(tmp_path / "third")[0]["history"] == [entry]
    assert export(tmp_path / "third", tmp_path / "model").info["training"]["history"][0]["from"] == str(tmp_path / "child")


@pytest.mark.parametrize("fields, fork, told", [
    (dict(network=dict(style_size=16)), "parent", "cannot fork .*there network.style_size is 8, here 16"),
    (dict(batch_size=64), "parent", "there batch_size is 32, here 64"),
    (dict(total_images=96), "parent", "it has seen 128 images, and total_images is 96; .* set more"),
    ({}, "nowhere", "no training run in .*nowhere"),
    ({}, "child", "is the --workdir itself"),
])
def test_what_cannot_be_forked_is_told(tmp_path, fields, fork, told):
    loop.train(config(4), tmp_path / "parent")
    with pytest.raises(FpganError, match=told):
        loop.train(config(8, **fields), tmp_path / "child", fork=tmp_path / fork)
    loop.train(config(4), tmp_path / "other")
    with pytest.raises(FpganError, match="holds a run that is no fork of"):
        loop.train(config(4), tmp_path / "other", fork=tmp_path / "parent")


def test_a_parent_is_the_same_however_its_path_is_spelt_and_not_needed_any_more(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loop.train(config(4), "parent")
    loop.train(config(4), "child", fork="parent/")
    shutil.rmtree("parent")
    assert int(loop.train(config(8), "child", fork=tmp_path / "parent").step) == 8
    assert int(loop.train(config(8), "child").step) == 8


def test_a_parent_without_a_checkpoint_is_told(tmp_path):
    write_config(tmp_path / "parent", config(4))
    with pytest.raises(FpganError, match="cannot fork .*parent: it has no checkpoint yet"):
        loop.train(config(4), tmp_path / "child", fork=tmp_path / "parent")


@pytest.mark.parametrize("name, content, told", [
    ("config.json", {"batch_size": "32"}, "batch_size is 32; expected a value of type int, such as 16"),
    ("config.json", {"optimizer.beta1": None}, "optimizer.beta1 is None; expected a value of type float"),
    ("config.json", {"optimizer.beta": 1}, "this fpgan does not know 'optimizer.beta'"),
    ("config.json", {"seed": True}, "seed is True; expected a value of type int"),
    ("history.json", {"history": 7}, "history is 7; expected a list"),
    ("history.json", {"history": ["x" * 300]}, "history is .{200}\\.\\.\\.; expected a list"),
    ("history.json", {"history": [{"from": 3}]}, "expected a list of entries"),
])
def test_files_of_a_run_that_were_changed_are_told_in_one_line(tmp_path, name, content, told):
    loop.train(config(4), tmp_path)
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(FpganError, match=told) as error:
        loop.train(config(4), tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path / name) in str(error.value)


def test_a_run_that_holds_nothing_yet_takes_new_arguments(tmp_path):
    decay = dict(decay_images=32 * 4)
    loop.train(config(8, optimizer=decay), tmp_path)
    loop.train(config(10, optimizer=decay), tmp_path, extend=True)
    shutil.rmtree(tmp_path / "checkpoints")
    settings = config(4, data=dict(count=100), objective=dict(fingerprint=9.0))
    lines = []
    assert int(loop.train(settings, tmp_path, lines.append).step) == 4 and not any("continuing" in line for line in lines)
    assert json.loads((tmp_path / "data.json").read_text())["size"] == 100 and read_history(tmp_path) == []
    with pytest.raises(FpganError, match="begun with data.count = 100, now it is 64"):
        loop.train(config(4), tmp_path)


def test_a_run_that_an_older_version_began_goes_on(tmp_path):
    loop.train(config(4), tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    old = {key: value for key, value in fields.items() if not key.startswith("augment.")} | {"data.resolution": 8}
    old["objective.discriminator_noise"] = old.pop("objective.instance_noise")
    old["export.fit_images"] = old.pop("export.readout_images")
    path.write_text(json.dumps(old))
    (tmp_path / ".lock").unlink()
    assert int(loop.train(config(8), tmp_path).step) == 8
    assert json.loads(path.read_text()).keys() == fields.keys()
    path.write_text(json.dumps(old | {"objective.discriminator_noise": 0.5}))
    with pytest.raises(FpganError, match="begun with objective.instance_noise = 0.5, now it is 0.0"):
        loop.train(config(8), tmp_path)


def test_a_fork_without_a_curriculum_has_the_whole_objective(tmp_path):
    parent = loop.train(config(4, curriculum=dict(bits_first=True)), tmp_path / "parent")
    assert float(parent.progress) == 0 and not parent.image_terms
    child = loop.train(config(4), tmp_path / "child", fork=tmp_path / "parent")
    assert float(child.progress) == 2 and child.image_terms
    kept = loop.train(config(4, curriculum=dict(bits_first=True)), tmp_path / "kept", fork=tmp_path / "parent")
    assert_same(kept, parent)


def test_a_fork_that_was_killed_before_its_first_save_begins_again(tmp_path):
    parent = loop.train(config(4), tmp_path / "parent")
    loop.train(config(4), tmp_path / "child", fork=tmp_path / "parent")
    shutil.rmtree(tmp_path / "child" / "checkpoints")
    with pytest.raises(FpganError, match="begun as a fork of .*parent and has no checkpoint yet; give --fork .*parent"):
        loop.train(config(4), tmp_path / "child")  # which would begin anew under a history of a fork
    assert_same(loop.train(config(4), tmp_path / "child", fork=tmp_path / "parent"), parent)
    assert len(json.loads((tmp_path / "child" / "history.json").read_text())["history"]) == 1
    assert Checkpoints(tmp_path / "child", read_only=True).latest == 4
    assert int(Checkpoints(tmp_path / "child", read_only=True).restore(init_state(config())).step) == 4
