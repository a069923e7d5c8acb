"""SIGTERM is remembered inside the context and acts as before outside it."""

import os
import signal

from mrt_jax.training.preemption import catch_sigterm


def test_sigterm_is_remembered():
    before = signal.getsignal(signal.SIGTERM)
    with catch_sigterm() as stop:
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
    assert signal.getsignal(signal.SIGTERM) == before
