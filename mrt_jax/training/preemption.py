"""SIGTERM as a request to save and stop, not as the end."""

import contextlib
import signal
from collections.abc import Iterator


class StopRequest:
    """Whether the run has been asked to stop.

    Attributes:
        asked: SIGTERM has arrived.
    """

    def __init__(self) -> None:
        self.asked = False


@contextlib.contextmanager
def catch_sigterm() -> Iterator[StopRequest]:
    """Within it, SIGTERM sets the request's flag; afterwards it acts as before."""
    request = StopRequest()

    def ask(signal_number: int, frame: object) -> None:
        request.asked = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)
