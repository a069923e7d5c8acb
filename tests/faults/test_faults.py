"""A run survives SIGKILL and SIGTERM, and its metrics do not show it."""

import os
import signal
import sys

import pytest

from tests.faults.kill import (
    compare_stopped_with_whole,
    metrics_without_clocks,
    run_stopped,
    run_whole,
)

STEPS = 30
COMMAND = [sys.executable, '-m', 'tests.faults.tiny_run', '--workdir={workdir}']


@pytest.fixture(scope='module')
def env() -> dict[str, str]:
    """One device as in a plain run, and every compiled program kept from one start to the next."""
    return os.environ | {'XLA_FLAGS': '', 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}


@pytest.fixture(scope='module')
def whole(tmp_path_factory, env):
    """The workdir of a run left alone."""
    workdir = tmp_path_factory.mktemp('whole')
    steps, _ = run_whole(COMMAND, workdir, env)
    assert steps == STEPS
    return workdir


def test_killed_at_random_moments(tmp_path, env):
    strikes = compare_stopped_with_whole(COMMAND, tmp_path, kills=4, seed=1, env=env)
    assert len(strikes) == 4 and any(0 < strike.steps < STEPS for strike in strikes)
    assert 'save' in {strike.phase for strike in strikes}


def test_sigterm_loses_no_step_and_exits_with_0(tmp_path, env, whole):
    strikes = run_stopped(
        COMMAND, tmp_path, kills=2, seed=0, steps=STEPS, step_seconds=0.02,
        number=signal.SIGTERM, env=env,
    )
    assert all(0 < strike.steps == strike.resumes_at < STEPS for strike in strikes)
    assert metrics_without_clocks(tmp_path) == metrics_without_clocks(whole)
