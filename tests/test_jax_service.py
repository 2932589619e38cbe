"""Why fpgan does not leave the end of a run to JAX's coordination service: what the service does when it is left alone.

Each of these is a reason for something in process_group.py, runtime.py or preemption.py; where one fails with a newer JAX,
that may have become superfluous. `pytest -m slow -s tests/test_jax_service.py` prints the times of docs/processes.md.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ABORTED = -signal.SIGABRT


@pytest.fixture
def start(tmp_path):
    """Starts processes, waits until all of them have met: processes, and their files of output."""
    processes = []

    def start(count, *options):
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        outputs = [tmp_path / f"{i}.log" for i in range(count)]
        for i, output in enumerate(outputs):
            with output.open("w") as file:
                command = [sys.executable, Path(__file__).with_name("jax_service.py"), str(i), str(count), address, *options]
                processes.append(subprocess.Popen(command, stdout=file, stderr=file, env={
                    **os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}))
        until(lambda: all("ready" in output.read_text() for output in outputs), 120)
        return processes, outputs
    yield start
    for process in processes:
        process.kill()
        process.wait()


def until(true, seconds):
    """Waits until it is true; how long that took."""
    began = time.time()
    while not true():
        assert time.time() - began < seconds
        time.sleep(0.02)
    return time.time() - began


def kill_and_wait(processes, victim, number=signal.SIGKILL):
    """Sends a signal to one; the exit codes of the others, and how long the last one took to end."""
    time.sleep(3)
    processes[victim].send_signal(number)
    others = [process for process in processes if process is not processes[victim]]
    took = until(lambda: all(process.poll() is not None for process in others), 60)
    print(f"{number.name} of process {victim}: the others ended after {took:.2f} s")
    return [process.returncode for process in others], took


@pytest.mark.parametrize("victim, number, least, most", [
    (0, signal.SIGKILL, 0, 5), (1, signal.SIGKILL, 5, 30), (1, signal.SIGSTOP, 5, 30)])
def test_a_lost_process_makes_jax_abort_the_others(start, victim, number, least, most):
    processes, _ = start(3)
    codes, took = kill_and_wait(processes, victim, number)
    assert codes == [ABORTED] * 2 and least < took < most


@pytest.mark.parametrize("victim", [0, 1])
def test_a_callback_of_ours_cannot_be_called(start, victim):
    processes, outputs = start(2, "callback")
    codes, _ = kill_and_wait(processes, victim)
    assert codes == [ABORTED] and "bad_cast" in outputs[1 - victim].read_text()


def test_recoverable_processes_learn_of_a_loss_by_heartbeats(start):
    processes, outputs = start(3, "recoverable")
    time.sleep(3)
    processes[1].kill()
    took = until(lambda: all("lost at" in outputs[i].read_text() for i in (0, 2)), 60)
    print(f"SIGKILL of process 1, recoverable: the live nodes were known after {took:.2f} s")
    assert took > 5


def test_ctrl_c_after_sigterm_is_not_held_back(start):
    processes, outputs = start(2, "preemption")
    time.sleep(3)
    processes[1].send_signal(signal.SIGTERM)
    time.sleep(0.02)
    processes[1].send_signal(signal.SIGINT)
    until(lambda: "KeyboardInterrupt" in outputs[1].read_text(), 30)


def test_a_notice_before_the_first_step_of_a_resumed_run_is_lost(start):
    processes, outputs = start(2, "preemption")
    processes[1].send_signal(signal.SIGTERM)  # in the two seconds before the first step
    until(lambda: all(process.poll() is not None for process in processes), 120)
    assert not any("sync point" in output.read_text() for output in outputs)
    assert "SIGTERM caught" in outputs[1].read_text()
