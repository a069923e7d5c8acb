"""SIGTERM, and Ctrl-C, as a request to save and stop, not as the end."""

import contextlib
import signal
import sys
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Whether the run has been asked to stop.

    Attributes:
        asked: a signal has arrived; of several processes it tells nothing.
    """

    def __init__(self) -> None:
        self.asked = False

    def stops_at(self, step: int) -> bool:
        """Whether the run is to end behind this many steps.

        Several processes call this after each step, and all of them get the same answer: JAX's
        preemption service, which has SIGTERM then, agrees on a step that none of them has passed.
        """
        if jax.process_count() == 1:
            return self.asked
        return multihost_utils.reached_preemption_sync_point(step)


@contextlib.contextmanager
def catch_sigterm() -> Iterator[StopRequest]:
    """Within it, SIGTERM and a first SIGINT are requests to stop; afterwards they act as before.

    Of several processes: within it and since they have joined; afterwards SIGTERM ends a process.
    """
    request = StopRequest()
    if jax.process_count() > 1:
        try:
            yield request
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return

    def ask(signal_number: int, frame: object) -> None:
        request.asked = True
        if signal_number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])  # A second one ends it at once.
            print('\nstopping behind this step; again to end at once', file=sys.stderr)

    before = {
        number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
