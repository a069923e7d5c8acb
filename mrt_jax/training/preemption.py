"""SIGTERM as a request to save and stop, not as the end."""

import contextlib
import signal
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Whether the run has been asked to stop.

    Attributes:
        asked: SIGTERM has arrived; of several processes it tells nothing.
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
    """Within it, SIGTERM is a request to stop; afterwards it acts as before.

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

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)
