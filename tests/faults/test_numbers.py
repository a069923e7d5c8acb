"""Gradients that are not finite and a policy that runs away end the run before they are saved."""

import dataclasses

import jax
import numpy as np
import pytest

from mrt_jax.errors import DivergedError, NonFiniteError
from mrt_jax.manifest import find_damage
from mrt_jax.training.loop import run_loop
from tests.faults.kill import metrics_without_clocks
from tests.faults.tiny_run import loop_config, make_trainer
from tests.faults.watched_run import checkpoint_steps, last_line

STEPS, FAULT_AT, KEPT = 9, 4, 3


def assert_goes_on(trainer, workdir, whole):
    assert checkpoint_steps(workdir) == [KEPT]
    assert find_damage(workdir / 'checkpoints' / str(KEPT)) is None
    whole.mkdir()
    for folder in (workdir, whole):
        run_loop(trainer, loop_config(STEPS), folder)
    assert metrics_without_clocks(workdir) == metrics_without_clocks(whole)


def test_gradients_that_are_not_finite(tmp_path):
    def spoil(batch, number):
        if number < FAULT_AT or healed:
            return batch
        return batch.replace(advantages_BT=np.full_like(batch.advantages_BT, np.nan))

    healed = False
    trainer = make_trainer(STEPS, spoil)
    workdir = tmp_path / 'run'
    workdir.mkdir()
    said = '2 updates in a row .* not finite, the last at step 6; the checkpoint of step 3 in .*run'
    with pytest.raises(NonFiniteError, match=said):
        run_loop(trainer, loop_config(STEPS), workdir)
    line = last_line(workdir)
    assert line['loss'] is None and line['skipped'] == 1
    healed = True
    assert_goes_on(trainer, workdir, tmp_path / 'whole')


def test_a_policy_that_runs_away(tmp_path):
    trainer = make_trainer(STEPS)

    def step(state, number):
        if number == FAULT_AT:
            state = state.replace(params=jax.tree.map(lambda x: 30 * x, state.params))
        return trainer.step(state, number)

    workdir = tmp_path / 'run'
    workdir.mkdir()
    with pytest.raises(DivergedError, match='at step 5, above max_kl=20; the checkpoints in .*run'):
        run_loop(dataclasses.replace(trainer, step=step), loop_config(STEPS), workdir)
    assert last_line(workdir)['kl'] > 20
    assert_goes_on(trainer, workdir, tmp_path / 'whole')
