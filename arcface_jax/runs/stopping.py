"""Requests to stop: Ctrl-C, and the signal that precedes a pre-emption."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils


class Stopped(Exception):  # noqa: N818 - asked for, not an error
    """The run was asked to stop by `signal_number`; its last checkpoint is at `step`."""

    def __init__(self, step: int, signal_number: int) -> None:
        super().__init__(step, signal_number)
        self.step = step
        self.signal_number = signal_number


_ANSWER = b"\nStopping after this step, with a checkpoint; once more stops at once, without.\n"


class StopRequest:
    """Whether somebody asked the run to stop, and by which signal."""

    def __init__(self) -> None:
        self._signal_number = 0

    def ask(self, number: int, frame: FrameType | None) -> None:
        """A signal handler: the first signal asks, and says so; the second interrupts at once."""
        if self._signal_number:
            raise KeyboardInterrupt
        self._signal_number = number
        # Not print, whose buffer the interrupted code may be writing.
        os.write(2, _ANSWER)

    def agreed(self) -> int:
        """The signal that any process of the run received, 0 for none; the same answer in all
        of them.
        """
        if jax.process_count() == 1:
            return self._signal_number
        return int(np.max(multihost_utils.process_allgather(np.int32(self._signal_number))))


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turns the first Ctrl-C or termination signal into a request; the second interrupts at
    once.
    """
    request = StopRequest()
    previous = {
        number: signal.signal(number, request.ask) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
