"""The processes of one run, held together: they compare facts, they stop at the same step, and they end together.

What they tell each other goes through the coordination service of jax.distributed: its key-value store, in which the first
word under a key counts, and its barriers with a time limit. The service alone would notice a dead process late and end the
others without a word of ours (docs/processes.md has the measurement). So each process also holds a TCP connection to
process 0 over which nothing is sent: the system closes it when one of the two dies, whatever the other is doing; a host that
vanishes is missed by TCP's own keep-alive after half a minute.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from fpgan.distributed.environment import PATIENCE, Process

LOST = 75  # exit code after another process was lost: EX_TEMPFAIL of sysexits.h, "try again"
_QUIET, _BETWEEN, _TRIES = 10, 5, 4  # seconds of silence before TCP asks, between its questions, and how many go unanswered
_CAUSES = "(killed, out of memory, or its host went down)"
VERDICT = 10.0  # seconds in which a lost process, and the end it brings, becomes known to the others
_MINUTE, _DAY = 60_000, 86_400_000  # milliseconds


class ProcessGroup:
    """A process's place among all processes of its run.

    Attributes:
      hint: gives the end of the message about a lost process: what to do now.
    """

    def __init__(self, process: Process, store, say: Callable[[str], None]):
        """Connects to process 0, or waits until all others have connected.

        Args:
          process: this one.
          store: JAX's client of the coordination service, which all of them have joined.
          say: is given the message with which the run ends: in process 0, or in all if that is lost.

        Raises:
          OSError, RuntimeError: if there is no way to process 0, or it does not say where it waits.
        """
        self.hint: Callable[[], str] = lambda: "run the same command again"
        self._process, self._store, self._say = process, store, say
        self._name = f"process {process.index} ({socket.gethostname()})"
        self._ending, self._agreeing = threading.Lock(), threading.Lock()
        self._compared, self._step, self._stop_at, self._asked, self._over = 0, -1, None, False, False
        self._lifelines = self._accept() if process.index == 0 else [self._connect()]
        self._listeners = [_start(self._listen, key, hear) for key, hear in (("end", self._end), ("stop", self._agree))]

    def barrier(self, facts: dict) -> None:
        """Waits until all processes have come here; ends the run if their facts (as JSON) differ from those of process 0."""
        self._compared += 1
        key, ours = f"fpgan/facts/{self._compared}", json.dumps(facts)
        if self._process.index == 0:
            self._store.key_value_set(key, ours)
        ours, first = json.loads(ours), json.loads(self._store.blocking_key_value_get(key, _DAY))
        for name, value in first.items():
            if ours.get(name) != value:
                self.fail(2, f"{name} is {ours.get(name)!r} here and {value!r} in process 0; expected the same in all: one "
                          "command, the same versions and data, and one --workdir that all of them share")
        self._store.wait_at_barrier(key, _DAY)

    def agree_to_stop(self, step: int, wanted: bool) -> bool:
        """Returns whether all processes stop after this step; every process asks at every step.

        They stop after the first step that none of them has begun when one wants to. No device is involved: only while the
        processes agree does the answer wait for the others.
        """
        if wanted and not self._asked:
            self._asked = True
            self._tell("stop", {})
        with self._agreeing:
            self._step = step
            return self._stop_at is not None and step >= self._stop_at

    def fail(self, code: int, text: str) -> NoReturn:
        """Ends the run, in all processes, with this exit code and this message."""
        text = text if self._process.index == 0 else f"{self._name}: {text}"
        self._tell("end", {"code": code, "text": text})
        time.sleep(VERDICT)  # the listening thread ends this process
        self._end(code, text, everywhere=True)

    def finish(self) -> None:
        """Waits until all processes have come here; from then on each may end when it likes."""
        self._store.wait_at_barrier("fpgan/over", _DAY)
        self._over = True
        for key in ("end", "stop"):
            self._tell(key, None)
        for listener in self._listeners:  # a thread that waits in JAX when Python ends would bring it down
            listener.join()

    def _accept(self) -> list[threading.Thread]:
        """Takes the connections of all other processes, in process 0; a token keeps strangers out."""
        lifelines, token = {}, secrets.token_hex(16)
        with listen(0, self._process.count) as listener:
            self._store.key_value_set("fpgan/lifeline", json.dumps([listener.getsockname()[1], token]))
            while len(lifelines) < self._process.count - 1:
                line = listener.accept()[0]
                theirs, _, name = _hello(line).partition(" ")
                if secrets.compare_digest(theirs, token):
                    lifelines[name] = _start(self._hold, line, name)
                else:
                    line.close()
        return list(lifelines.values())

    def _connect(self) -> threading.Thread:
        """Connects to process 0, where JAX's coordinator is too."""
        port, token = json.loads(self._store.blocking_key_value_get("fpgan/lifeline", PATIENCE * 1000))
        host = self._process.coordinator.rsplit(":", 1)[0].strip("[]")
        line = socket.create_connection((host, port), timeout=VERDICT)
        line.sendall(f"{token} {self._name}\n".encode())
        return _start(self._hold, line, "process 0")

    def _hold(self, line: socket.socket, name: str) -> None:
        """Waits until the connection to the process of this name closes."""
        with contextlib.suppress(OSError), line:
            _keep_alive(line)
            line.recv(1)
        end = {"code": LOST, "text": f"{name} was lost {_CAUSES}"}
        if self._process.index == 0:
            self._tell("end", end)
        elif not self._over:
            self._end(**end, everywhere=True)

    def _tell(self, key: str, message: dict | None) -> None:
        """Gives a message to all processes, if it is the first under this key."""
        with contextlib.suppress(RuntimeError):  # it is not, or process 0 is lost, which the connection to it will show
            self._store.key_value_set(f"fpgan/{key}", json.dumps(message))

    def _listen(self, key: str, hear: Callable) -> None:
        """Waits for the message under a key; None: there will be none."""
        try:
            message = json.loads(self._store.blocking_key_value_get(f"fpgan/{key}", 1000 * _DAY))
        except RuntimeError:  # process 0 is lost
            return
        if message is not None:
            hear(**message)

    def _agree(self) -> None:
        """Holds up the next step until all know the last one."""
        with self._agreeing:
            self._store.key_value_set(f"fpgan/step/{self._process.index}", str(self._step))
            self._store.wait_at_barrier("fpgan/stopping", _MINUTE)
            self._stop_at = 1 + max(int(step) for _, step in self._store.key_value_dir_get("fpgan/step/"))

    def _end(self, code: int, text: str, everywhere: bool = False) -> NoReturn:
        """Ends this process at once: its main thread may wait for a device for ever."""
        self._ending.acquire()  # for good: one thread, one message
        if everywhere or self._process.index == 0:
            self._say(f"{text}; {self.hint()}" if code == LOST else text)
        if self._process.index == 0:  # JAX aborts, noisily, in processes that outlive process 0
            deadline = time.monotonic() + VERDICT / 2
            for lifeline in self._lifelines:
                lifeline.join(max(0.0, deadline - time.monotonic()))
        os._exit(code)


def listen(port: int, backlog: int = 1) -> socket.socket:
    """Opens a port on all addresses of this host; 0: one that is free.

    Raises:
      OSError: if another program has it.
    """
    dual = socket.has_dualstack_ipv6()
    return socket.create_server(("", port), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual,
                                backlog=backlog)


def _start(function: Callable, *args) -> threading.Thread:
    thread = threading.Thread(target=function, args=args, name="fpgan process group", daemon=True)
    thread.start()
    return thread


def _hello(line: socket.socket) -> str:
    """Reads the first line from a new connection; empty if none comes soon."""
    line.settimeout(VERDICT)
    with contextlib.suppress(OSError, ValueError), line.makefile() as text:
        return text.readline(1024).rstrip("\n")
    return ""


def _keep_alive(line: socket.socket) -> None:
    """Lets the system notice by itself when the other host is gone."""
    line.settimeout(None)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", _QUIET), ("TCP_KEEPINTVL", _BETWEEN), ("TCP_KEEPCNT", _TRIES)):
        if hasattr(socket, name):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
