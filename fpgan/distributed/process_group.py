"""The processes of one run, held together: they meet, they stop at the same step, and they end together.

Every process holds one TCP connection to the hub, a thread of process 0. Whatever a process is doing when it dies, its
connection closes, so that the others need not wait in a collective operation for it; a host that vanishes is missed by TCP's
own keep-alive after half a minute. Nothing is sent while a run goes well, and no device is involved.

Messages are JSON objects, one on a line:

    to the hub    hello   the token of this run, number and host of the process
                  meet    facts that must be the same in all processes; `last`: nothing follows
                  stop    wants to stop                      step   the answer to ask: the newest step that was begun
                  fail    an error that ends the run
    from the hub  met     all processes have met             ask    which step have you begun? begin no other
                  stop    all stop after this step           end    end now, with this exit code
"""

import asyncio
import contextlib
import json
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import NoReturn

LOST = 75  # exit code after another process was lost: EX_TEMPFAIL of sysexits.h, "try again"
_QUIET, _BETWEEN, _TRIES = 10, 5, 4  # seconds of silence before TCP asks, between its questions, and how many go unanswered
_CAUSES = "(killed, out of memory, or its host went down)"
_LIMIT = 2**22  # bytes in a line
_VERDICT = 10.0  # seconds in which a lost process, and the end it brings, becomes known to the others


class Hub:
    """The centre of the star: who is there, what they have said."""

    def __init__(self, count: int, token: str):
        """Begins to listen, in a thread, for `count` processes that know the token."""
        self._count, self._token = count, token
        self._members: dict[int, asyncio.StreamWriter] = {}
        self._hosts: dict[int, str] = {}
        self._facts: dict[int, dict] = {}
        self._steps: dict[int, int] = {}
        self._asked = self._over = False
        self._alone = threading.Event()
        listener = listen(0, count)
        self.port = listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=listener, limit=_LIMIT))
        threading.Thread(target=self._loop.run_forever, name="fleet hub", daemon=True).start()

    def wait_alone(self, seconds: float) -> None:
        """Waits until only process 0 is left, but no longer than this."""
        self._alone.wait(seconds)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Listens to one process until its connection closes."""
        process = None
        try:
            hello = json.loads(await reader.readline() or "{}")
            if hello.get("token") != self._token:  # a stranger
                return
            process = hello["process"]
            _keep_alive(writer.get_extra_info("socket"))
            self._hosts[process], self._members[process] = hello["host"], writer
            while line := await reader.readline():
                message = json.loads(line)
                getattr(self, f"_take_{message.pop('kind')}")(process, **message)
        except (OSError, ValueError):  # cut off in the middle of a line
            pass
        finally:
            writer.close()
            if process is not None:
                self._gone(process)

    def _gone(self, process: int) -> None:
        self._members.pop(process, None)
        if not self._members.keys() - {0}:
            self._alone.set()
        self._end(LOST, f"process {process} ({self._hosts[process]}) was lost {_CAUSES}")

    def _take_meet(self, process: int, facts: dict, last: bool) -> None:
        self._facts[process] = facts
        if len(self._facts) < self._count:
            return
        for other, theirs in sorted(self._facts.items()):
            for key, value in self._facts[0].items():
                if theirs.get(key) != value:
                    return self._end(2, f"process {other} ({self._hosts[other]}) has {key} = {theirs.get(key)!r}, process 0 "
                                     f"has {value!r}; expected the same in all: one command, the same versions and "
                                     "data, and one --workdir that all of them share")
        self._facts = {}
        self._over = last
        self._tell(kind="met", last=last)

    def _take_stop(self, process: int) -> None:
        if not self._asked:
            self._asked = True
            self._tell(kind="ask")

    def _take_step(self, process: int, step: int) -> None:
        self._steps[process] = step
        if len(self._steps) == self._count:
            self._tell(kind="stop", step=max(self._steps.values()) + 1)

    def _take_fail(self, process: int, code: int, text: str) -> None:
        self._end(code, text if process == 0 else f"process {process} ({self._hosts[process]}): {text}")

    def _end(self, code: int, text: str) -> None:
        if not self._over:
            self._over = True
            self._tell(kind="end", code=code, text=text)

    def _tell(self, **message) -> None:
        for writer in self._members.values():
            writer.write(_line(message))


class Fleet:
    """A process's connection to all others of its run.

    Attributes:
      hint: gives the end of the message about a lost process: what to do now.
    """

    def __init__(self, address: tuple[str, int], token: str, process: int, say: Callable[[str], None],
                 hub: Hub | None = None):
        """Connects.

        Args:
          address: host and port of the hub.
          token: that of the hub.
          process: this one's number.
          say: is given the message with which the run ends: in process 0, or in all if that is lost.
          hub: the hub, in process 0.

        Raises:
          OSError: if there is no way to the address.
        """
        self.hint: Callable[[], str] = lambda: "run the same command again"
        self._process, self._say, self._hub = process, say, hub
        self._socket = socket.create_connection(address, timeout=60)
        self._socket.settimeout(None)
        _keep_alive(self._socket)
        self._sending, self._ending, self._agreeing = threading.Lock(), threading.Lock(), threading.Lock()
        self._step, self._stop_at, self._asked, self._over = -1, None, False, False
        self._meetings = queue.SimpleQueue()
        self._send(token=token, process=process, host=socket.gethostname())
        threading.Thread(target=self._listen, name="fleet", daemon=True).start()

    def meet(self, facts: dict | None = None, last: bool = False) -> None:
        """Waits until all processes have come here; ends the run if their facts (as JSON) differ from those of process 0.

        Args:
          facts: name -> value.
          last: this process says nothing after this; its connection may close.
        """
        self._send(kind="meet", facts=facts or {}, last=last)
        self._meetings.get()

    def ask_to_stop(self) -> None:
        """Asks for a step after which all processes stop."""
        if not self._asked:
            self._asked = True
            self._send(kind="stop")

    def stops(self, step: int) -> bool:
        """Whether all processes stop after this step; every process asks at every step, and none waits for a device.

        While the processes agree, which takes one message each way, the answer waits for the result.
        """
        with self._agreeing:
            self._step = step
            return self._stop_at is not None and step >= self._stop_at

    def fail(self, code: int, text: str) -> NoReturn:
        """Ends the run, in all processes, with this exit code and this message."""
        self._send(kind="fail", code=code, text=text)
        time.sleep(_VERDICT)  # the listening thread ends this process
        self._end(code, text, everywhere=True)

    def await_verdict(self) -> None:
        """Waits as long as it may take to learn of a lost process, which ends this one."""
        time.sleep(_VERDICT)

    def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError), self._socket.makefile() as lines:
            for line in lines:
                message = json.loads(line)
                getattr(self, f"_hear_{message.pop('kind')}")(**message)
        if not self._over:
            self._end(LOST, f"process 0 was lost {_CAUSES}", everywhere=True)

    def _hear_met(self, last: bool) -> None:
        self._over = last
        self._meetings.put(None)

    def _hear_ask(self) -> None:
        self._agreeing.acquire()  # holds up the next step until all know the last one
        self._send(kind="step", step=self._step)

    def _hear_stop(self, step: int) -> None:
        self._stop_at = step
        self._agreeing.release()

    def _hear_end(self, code: int, text: str) -> None:
        self._end(code, text, everywhere=False)

    def _end(self, code: int, text: str, everywhere: bool) -> NoReturn:
        """Ends this process at once: its main thread may wait for a device for ever."""
        self._ending.acquire()  # for good: one thread, one message
        if everywhere or self._process == 0:
            self._say(f"{text}; {self.hint()}" if code == LOST else text)
        if self._hub:
            self._hub.wait_alone(_VERDICT / 2)  # JAX aborts, noisily, in processes that outlive process 0
        os._exit(code)

    def _send(self, **message) -> None:
        with self._sending, contextlib.suppress(OSError):  # a broken connection is the listening thread's business
            self._socket.sendall(_line(message))


def listen(port: int, backlog: int = 1) -> socket.socket:
    """Opens a port on all addresses of this host; 0: one that is free.

    Raises:
      OSError: if another program has it.
    """
    dual = socket.has_dualstack_ipv6()
    return socket.create_server(("", port), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual,
                                backlog=backlog)


def _line(message: dict) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _keep_alive(connection: socket.socket) -> None:
    """Lets the system notice by itself when the other host is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in (("TCP_KEEPIDLE", _QUIET), ("TCP_KEEPINTVL", _BETWEEN), ("TCP_KEEPCNT", _TRIES)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
