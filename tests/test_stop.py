"""The notice of pre-emption, in one process."""

import gc
import os
import signal

import pytest

from fpgan.distributed.preemption import StopFlag


@pytest.fixture(autouse=True)
def no_garbage_collection():
    """A KeyboardInterrupt in one of JAX's callbacks of the garbage collector would be swallowed there."""
    was = gc.isenabled()
    gc.disable()
    yield
    if was:
        gc.enable()


@pytest.fixture
def flag():
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # in a shell's background it is
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    flag = StopFlag()
    yield flag
    flag.restore()
    after = {number: signal.getsignal(number) for number in before}
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.signal(signal.SIGINT, ignored)
    assert (before == after) == (not flag.raised)


def test_sigterm_stops_at_once_and_what_follows_is_ignored(flag):
    assert not flag.agreed(3)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)
        assert flag.agreed(4)


def test_ctrl_c_alone_interrupts(flag):
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert not flag.agreed(3)


def test_an_ignored_ctrl_c_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        flag = StopFlag()
        os.kill(os.getpid(), signal.SIGINT)
        flag.restore()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
