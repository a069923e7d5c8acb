"""SIGTERM is remembered inside the context and acts as before outside it."""

import os
import signal

import pytest

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


def test_a_second_interrupt_ends_at_once(capsys):
    # Processes in the background may ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), catch_sigterm() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.signal(signal.SIGINT, before) == signal.default_int_handler
    assert 'again to end at once' in capsys.readouterr().err
