"""The process group in threads of this process: several members at one coordination service of JAX."""

import contextlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from jax._src.lib import _jax

from fpgan.distributed import process_group
from fpgan.distributed.environment import Process

HOST = socket.gethostname()


class Crew:
    """Processes that are only threads: what each of them said at its end, and with which codes they ended."""

    def __init__(self, count, monkeypatch):
        with process_group.listen(0) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.service = _jax.get_distributed_runtime_service(self.address, count)
        self.stores = [_jax.get_distributed_runtime_client(self.address, i) for i in range(count)]
        self.said, self.codes, self.lines = {i: [] for i in range(count)}, [], {}
        hold = process_group.ProcessGroup._hold

        def noted(group, line, name):
            self.lines[group._process.index, int(name.split()[1])] = line
            hold(group, line, name)
        monkeypatch.setattr(process_group.ProcessGroup, "_hold", noted)
        monkeypatch.setattr(process_group.os, "_exit", self.exit)
        self.together(lambda i: self.stores[i].connect())

    def together(self, do):
        """Calls do(i) for all processes at once; their results."""
        with ThreadPoolExecutor(len(self.stores)) as pool:
            return [work.result(timeout=60) for work in [pool.submit(do, i) for i in range(len(self.stores))]]

    def join(self, i):
        process = Process(i, len(self.stores), self.address)
        return process_group.ProcessGroup(process, self.stores[i], self.said[i].append)

    def exit(self, code):
        self.codes.append(code)
        threading.Event().wait()  # for ever: this thread does nothing more

    def await_ends(self):
        deadline = time.time() + 60
        while len(self.codes) < len(self.stores) and time.time() < deadline:
            time.sleep(0.01)
        return self.codes

    def close(self):
        self.together(lambda i: self.stores[i].shutdown())
        self.service.shutdown()


@pytest.fixture
def start(monkeypatch):
    """Starts a crew of so many processes, and joins them unless told otherwise."""
    monkeypatch.setattr(process_group, "VERDICT", 2.0)
    crews = []

    def start(count, joined=True):
        crews.append(Crew(count, monkeypatch))
        crews[0].groups = crews[0].together(crews[0].join) if joined else []
        while joined and len(crews[0].lines) < 2 * (count - 1):  # both ends of each connection
            time.sleep(0.01)
        return crews[0]
    yield start
    crews[0].close()


def aside(function, *args):
    def call():
        with contextlib.suppress(RuntimeError):  # the service is shut down in the end
            function(*args)
    threading.Thread(target=call, daemon=True).start()


def test_nobody_goes_on_before_all_have_come(start):
    crew, came = start(3), []

    def meet(i):
        time.sleep(0.3 * i)
        crew.groups[i].barrier({"batch_size": 8, "shape": (3, 4)})
        came.append(time.time())
    began = time.time()
    crew.together(meet)
    assert min(came) - began > 0.55 and not crew.codes
    crew.together(lambda i: crew.groups[i].barrier({"batch_size": 16}))  # and once more, with other facts


def test_different_facts_end_all_and_are_named_once(start):
    crew = start(3)
    for i in range(3):
        aside(crew.groups[i].barrier, {"seed": 0, "batch_size": 8 if i < 2 else 16})
    assert crew.await_ends() == [2, 2, 2]
    assert not crew.said[1] + crew.said[2] and len(crew.said[0]) == 1
    assert crew.said[0][0].startswith(f"process 2 ({HOST}): batch_size is 16 here and 8 in process 0; expected the same")


def test_all_stop_at_the_same_step_that_nobody_has_begun(start):
    crew = start(4)

    def train(i):
        for step in range(100, 2000):
            time.sleep(0.001 * (1 + i))  # they run far apart: the slowest is at a quarter of the fastest
            if crew.groups[i].agree_to_stop(step, i == 2 and step >= 110):
                return step
    stopped = crew.together(train)
    assert len(set(stopped)) == 1 and 110 < stopped[0] < 1999, stopped
    crew.together(lambda i: crew.groups[i].finish())


def test_a_stop_before_the_first_step_is_kept(start):
    crew = start(2)
    crew.groups[1]._tell("stop", {})
    time.sleep(0.3)
    assert crew.together(lambda i: crew.groups[i].agree_to_stop(1500, False)) == [True, True]


@pytest.mark.parametrize("count, lost", [(2, 1), (4, 2)])
def test_a_lost_process_ends_the_others_with_one_message(start, count, lost):
    crew = start(count)
    crew.groups[0].hint = lambda: "the last saved step is 7"
    crew.lines[lost, 0].shutdown(socket.SHUT_RDWR)
    assert crew.await_ends() == [process_group.LOST] * count
    assert len(crew.said[0]) == 1 and crew.said[0][0].endswith("; the last saved step is 7")
    assert f"process {lost} ({HOST}) was lost" in crew.said[0][0]
    assert not any(crew.said[i] for i in range(1, count) if i != lost)


def test_the_loss_of_process_0_is_told_by_all_others(start, monkeypatch):
    crew = start(3)
    monkeypatch.setattr(crew.groups[0], "_tell", lambda *message: None)  # it is dead
    crew.codes.append(-9)
    for i in (1, 2):
        crew.lines[0, i].shutdown(socket.SHUT_RDWR)
    assert crew.await_ends() == [-9, process_group.LOST, process_group.LOST]
    assert all("process 0 was lost" in crew.said[i][0] and "run the same command again" in crew.said[i][0] for i in (1, 2))


@pytest.mark.parametrize("culprit", [0, 2])
def test_an_error_ends_all_and_process_0_tells_it_once(start, culprit):
    crew = start(3)
    aside(crew.groups[culprit].fail, 2, "disk full")
    assert crew.await_ends() == [2, 2, 2]
    assert crew.said == {0: ["disk full" if culprit == 0 else f"process 2 ({HOST}): disk full"], 1: [], 2: []}


def test_after_the_end_connections_may_close_and_no_thread_waits_in_jax(start):
    crew = start(2)
    crew.together(lambda i: crew.groups[i].finish())
    assert not any(thread.is_alive() for group in crew.groups for thread in group._listeners)
    for line in list(crew.lines.values()):
        with contextlib.suppress(OSError):  # closed by the other side already
            line.shutdown(socket.SHUT_RDWR)
    time.sleep(0.3)
    assert not crew.codes and not crew.said[0] + crew.said[1]


def test_strangers_are_not_heard(start):
    crew = start(2, joined=False)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(crew.join, 0)
        port, _ = json.loads(crew.stores[0].blocking_key_value_get("fpgan/lifeline", 10_000))
        for words in (b"guess process 1 (x)\n", b"GET /\n", b""):
            with socket.create_connection(("127.0.0.1", port)) as stranger:
                stranger.sendall(words)
                stranger.shutdown(socket.SHUT_WR)
                assert stranger.recv(1) == b""
        crew.groups = [crew.join(1), first.result(timeout=60)]
    crew.together(lambda i: crew.groups[i].finish())
    assert not crew.codes
