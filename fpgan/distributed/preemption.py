"""Stopping early and well: the notice of pre-emption, in all processes at the same step."""

import signal

from fpgan.distributed import runtime


class StopFlag:
    """Notes SIGTERM, so that the loop can save and end. From then on Ctrl-C is ignored: the save is on its way."""

    def __init__(self):
        """Takes over SIGTERM and SIGINT."""
        self.raised = False
        self._previous = {number: signal.signal(number, handler)
                          for number, handler in ((signal.SIGTERM, self._note), (signal.SIGINT, self._interrupt))}

    def agreed(self, step: int) -> bool:
        """Returns whether to stop after this step; asked at every step.

        One process stops at once. Several agree on the first step that none of them has begun, wherever the signal came;
        this needs no device, so nobody waits for one.
        """
        group = runtime.process_group()
        return group.agree_to_stop(step, self.raised) if group else self.raised

    def restore(self) -> None:
        """Puts the former handlers back; not after a notice: the process is to end, and well, however often it is told."""
        if not self.raised:
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    def _note(self, *_):
        self.raised = True

    def _interrupt(self, *details):
        former = self._previous[signal.SIGINT]
        if not self.raised and callable(former):  # not if the shell wants it ignored
            former(*details)
