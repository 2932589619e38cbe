"""Training over real processes: the same result as one process, whatever happens to one of them.

The networks are real where numbers are compared, and two numbers each (light.py) where processes are killed.
"""

import shutil
import socket
import time

import light
import numpy as np
import pytest
import tiny
from processes import LIGHT, WHOLE, finish, losses, run, saved, start

from fpgan.distributed.process_group import LOST, listen
from fpgan.training.state import init_state

pytestmark = pytest.mark.slow

STEPS = 8
# Without the larger epsilon, Adam would turn rounding errors of vanishing gradients into whole steps.
REAL = (f"total_images={32 * STEPS}", "optimizer.epsilon=1e-3")
LONG = ("total_images=1280", "data.resident=false")  # 40 steps


BARE = ("objective.path_length=0", "objective.r1_gamma=0")  # half as much to compile, in four processes at once


def real_state(workdir, step=STEPS):
    return saved(workdir, step, init_state(tiny.config()))


def assert_alike(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-5, err_msg=str(name))


@pytest.mark.parametrize("count, devices, objective, resident", [(2, 4, (), "true"), (4, 2, BARE, "false")])
def test_several_processes_learn_what_one_learns(tmp_path, count, devices, objective, resident):
    one, several = tmp_path / "one", tmp_path / "several"
    run(WHOLE, one, 1, 8, *REAL, *objective)
    run(WHOLE, several, count, devices, *REAL, *objective, f"data.resident={resident}")
    assert {(STEPS, "discriminator"), (1, "accuracy")} <= losses(one).keys()
    assert ("r1" in {name for _, name in losses(several)}) == (objective != BARE)
    assert_alike(losses(several), losses(one))
    start_state = init_state(tiny.config()).params["generator"]["synthesis"]["b8"]["conv"]["weight"]
    trained = real_state(one)[".params['generator']['synthesis']['b8']['conv']['weight']"]
    assert np.abs(trained - np.asarray(start_state)).max() > 5e-3
    assert_alike(real_state(several), real_state(one))

    shutil.rmtree(several / "checkpoints" / str(STEPS))  # and one process goes on where they were
    assert f"continuing at step {STEPS // 2}" in run(WHOLE, several, 1, 8, *REAL, *objective)
    assert_alike(real_state(several), real_state(one))


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The light run that nothing happens to, in one process."""
    workdir = tmp_path_factory.mktemp("light") / "calm"
    assert "finished at step 40 of 40" in run(LIGHT, workdir, 1, 8, *LONG)
    return light_state(workdir)


def light_state(workdir):
    return saved(workdir, 40, light.init_state(None))


def only_message(output):
    lines = [line for text in output for line in text.splitlines() if "error:" in line]
    assert len(lines) == 1 and not any("Traceback" in text for text in output), "\n\n".join(output)
    return lines[0]


@pytest.mark.parametrize("victim, count, devices", [(2, 4, 1), (0, 2, 2)])
def test_a_killed_process_ends_all_and_the_same_command_goes_on(calm, tmp_path, victim, count, devices):
    codes, output = finish(start(LIGHT, tmp_path, count, devices, *LONG, FAULT=f"{victim} 15 kill", PACE="0.1"))
    ended = time.time()
    struck = float(output[victim].split("struck at ")[1].split()[0])
    others = [i for i in range(count) if i != victim]
    told = [line for i in (others if victim == 0 else [0]) for line in output[i].splitlines() if "error: process" in line]
    assert codes[victim] == -9 and all(codes[i] in (LOST, -6) for i in others), "\n\n".join(output)
    assert f"process {victim} " in told[0] and "was lost" in told[0] and "the last saved step is " in told[0]
    assert "run the same command again" in told[0] and len(told) == (len(others) if victim == 0 else 1)
    print(f"process {victim} of {count} killed: all ended after {ended - struck:.2f} s; {codes}")
    assert ended - struck < 60

    output = run(LIGHT, tmp_path, count, devices, *LONG)
    assert "continuing at step " in output and "finished at step 40 of 40" in output
    assert_alike(light_state(tmp_path), calm)


def test_a_process_that_hangs_ends_the_run_by_jax_itself(tmp_path):
    waiting, hanging = processes = start(LIGHT, tmp_path, 2, 1, *LONG, FAULT="1 5 hang")
    try:
        waiting.wait(timeout=300)
        ended = time.time()
    finally:
        hanging.kill()
        codes, output = finish(processes)
    assert codes[0] == -6 and "unhealthy (stopped sending heartbeats)" in output[0], output
    took = ended - float(output[1].split("struck at ")[1].split()[0])
    print(f"process 1 of 2 hung: the other ended after {took:.0f} s")
    assert took < 60


def test_preemption_of_one_saves_on_all_and_any_number_of_processes_goes_on(calm, tmp_path):
    codes, output = finish(start(LIGHT, tmp_path, 2, 2, *LONG, FAULT="1 5 terms", PACE="0.1"))
    assert codes == [0, 0] and "stopped at step " in output[0] and "Traceback" not in output[0] + output[1], output
    step = int(output[0].split("stopped at step ")[1].split()[0])
    assert 6 <= step <= 12 and (tmp_path / "checkpoints" / str(step)).is_dir()
    half = tmp_path / "checkpoints" / f"{step + 1}.orbax-checkpoint-tmp"  # a save that a kill cut off
    shutil.copytree(tmp_path / "checkpoints" / str(step) / "default", half / "default")

    output = run(LIGHT, tmp_path, 4, 1, *LONG, FAULT="3 20 term", PACE="0.1")
    assert f"continuing at step {step}" in output and "stopped at step 2" in output and not half.exists()
    assert "finished at step 40" in run(LIGHT, tmp_path, 1, 8, *LONG)
    assert_alike(light_state(tmp_path), calm)
    assert {s for s, _ in losses(tmp_path)} == set(range(1, 41))


@pytest.mark.parametrize("fault, code, told", [
    ("1 data error", 2, "process 1 ({host}): the moon is full"),
    ("0 3 disk", 2, "metrics.jsonl: No space left on device; nothing was saved yet; run the same command again to begin "
     "anew")])
def test_an_error_in_one_ends_all_at_once_and_is_told_once(tmp_path, fault, code, told):
    codes, output = finish(start(LIGHT, tmp_path, 2, 1, *LONG, FAULT=fault))
    assert codes == [code, code], output
    assert only_message(output) == "fpgan train: error: " + told.format(host=socket.gethostname())


def test_a_bug_in_one_ends_all_and_shows_its_traceback(tmp_path):
    codes, output = finish(start(LIGHT, tmp_path, 2, 1, *LONG, FAULT="1 7 bug"))
    assert codes == [1, 1] and "ZeroDivisionError: one of those" in output[1] and "Traceback" not in output[0]
    assert "error: process 1 " in output[0] and "ZeroDivisionError: one of those" in output[0]


def test_a_meeting_place_that_is_in_use_is_named(tmp_path):
    with listen(0) as busy:
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        first, second = start(LIGHT, tmp_path, 2, 1, *LONG, address=address)
        codes, output = finish([first])
        second.kill()
    assert codes == [2] and f"process 0 cannot meet the others at {address} (Address already in use" in only_message(output)


def test_processes_with_different_settings_are_refused(tmp_path):
    codes, output = finish(start(LIGHT, tmp_path, 2, 1, *LONG, own=lambda i: [f"seed={i}"]))
    assert codes == [2, 2]
    assert f"process 1 ({socket.gethostname()}): seed is 1 here and 0 in process 0;" in only_message(output)
