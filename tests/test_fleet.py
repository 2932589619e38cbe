"""The fleet without JAX: several connections to one hub, in threads of this process."""

import socket
import threading
import time

import pytest

from fpgan.distributed import process_group


class Crew:
    """Processes that are only threads: what each of them said at its end, and with which codes they ended."""

    def __init__(self, count):
        self.said, self.codes = {i: [] for i in range(count)}, []
        self.hub = process_group.Hub(count, "token")
        self.all = [process_group.Fleet(("127.0.0.1", self.hub.port), "token", i, self.said[i].append,
                                        self.hub if i == 0 else None)
                    for i in range(count)]

    def exit(self, code):
        self.codes.append(code)
        threading.Event().wait()  # for ever: this thread does nothing more

    def everywhere(self, do):
        """Calls do(fleet) for all at once, and waits for as many as come back within a second."""
        threads = [threading.Thread(target=do, args=(one,), daemon=True) for one in self.all]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        return threads

    def await_ends(self, count):
        deadline = time.time() + 60
        while len(self.codes) < count and time.time() < deadline:
            time.sleep(0.01)
        return sorted(self.codes)


@pytest.fixture
def crew(monkeypatch):
    monkeypatch.setattr(process_group, "_VERDICT", 0.2)
    crews = []

    def start(count):
        crews.append(Crew(count))
        monkeypatch.setattr(process_group.os, "_exit", crews[0].exit)
        return crews[0]
    return start


def cut(one):
    one._socket.shutdown(socket.SHUT_RDWR)


def test_nobody_goes_on_before_all_have_met(crew):
    crew = crew(3)
    came = []

    def meet(one):
        time.sleep(0.3 * one._process)
        one.meet({"batch_size": 8})
        came.append(time.time())
    began = time.time()
    crew.everywhere(meet)
    assert len(came) == 3 and min(came) - began > 0.55 and not crew.codes


def test_different_facts_end_all_and_are_named_once(crew):
    crew = crew(3)
    for one in crew.all:
        facts = {"seed": 0, "batch_size": 8 if one._process < 2 else 16}
        threading.Thread(target=one.meet, args=(facts,), daemon=True).start()
    assert crew.await_ends(3) == [2, 2, 2]
    assert len(crew.said[0]) == 1 and "process 2" in crew.said[0][0] and not crew.said[1] + crew.said[2]
    assert "has batch_size = 16, process 0 has 8" in crew.said[0][0]


def test_all_stop_at_the_same_step_that_nobody_has_begun(crew):
    crew = crew(4)
    stopped = {}

    def train(one):
        for step in range(100, 2000):
            time.sleep(0.001 * (1 + one._process))  # they run far apart: the slowest is at a quarter of the fastest
            if one._process == 2 and step >= 110:
                one.ask_to_stop()
            if one.stops(step):
                stopped[one._process] = step
                return
    crew.everywhere(train)
    assert len(stopped) == 4 and len(set(stopped.values())) == 1 and 110 < stopped[0] < 1999, stopped


@pytest.mark.parametrize("count, lost", [(2, 1), (4, 2)])
def test_a_lost_process_ends_the_others_with_one_message(crew, count, lost):
    crew = crew(count)
    crew.all[0].hint = lambda: "the last saved step is 7"
    crew.everywhere(lambda one: one.meet())
    cut(crew.all[lost])
    assert crew.await_ends(count) == [process_group.LOST] * count
    assert len(crew.said[0]) == 1 and crew.said[0][0].endswith("; the last saved step is 7")
    assert f"process {lost} ({socket.gethostname()}) was lost" in crew.said[0][0]
    assert not any(crew.said[i] for i in range(1, count) if i != lost)


def test_the_loss_of_process_0_is_told_by_all_others(crew):
    crew = crew(3)
    crew.everywhere(lambda one: one.meet())

    def die():  # what the system does with the connections of a dead process, all at once
        for writer in list(crew.hub._members.values()):
            writer.transport.abort()

    crew.hub._loop.call_soon_threadsafe(die)
    assert crew.await_ends(3) == [process_group.LOST] * 3
    assert all("process 0 was lost" in crew.said[i][0] and "run the same command again" in crew.said[i][0] for i in (1, 2))


@pytest.mark.parametrize("culprit", [0, 2])
def test_an_error_ends_all_and_process_0_tells_it_once(crew, culprit):
    crew = crew(3)
    crew.everywhere(lambda one: one.meet())
    threading.Thread(target=crew.all[culprit].fail, args=(2, "disk full"), daemon=True).start()
    assert crew.await_ends(3) == [2, 2, 2]
    prefix = "" if culprit == 0 else f"process 2 ({socket.gethostname()}): "
    assert crew.said == {0: [prefix + "disk full"], 1: [], 2: []}


def test_after_the_last_meeting_connections_may_close(crew):
    crew = crew(2)
    crew.everywhere(lambda one: one.meet(last=True))
    for one in crew.all:
        cut(one)
    time.sleep(0.3)
    assert not crew.codes and not crew.said[0] + crew.said[1]


def test_strangers_are_not_heard(crew):
    crew = crew(2)
    guess = b'{"token": "guess", "process": 1, "host": "x"}\n{"kind": "fail", "code": 2, "text": "boo"}\n'
    for words in (guess, b"GET /\n", b""):
        with socket.create_connection(("127.0.0.1", crew.hub.port)) as stranger:
            stranger.sendall(words)
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(1) == b""
    crew.everywhere(lambda one: one.meet())
    assert not crew.codes
