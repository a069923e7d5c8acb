"""The loop resumes, saves and stops at the right steps; its steps here only count."""

import dataclasses
import json
import math
import os
import signal

import jax.numpy as jnp
import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from mrt_jax.errors import InputError, NonFiniteError
from mrt_jax.training.loop import LoopConfig, Trainer, run_loop
from mrt_jax.training.state import TrainState


def counting_trainer(steps: int, *, bad: tuple[int, ...] = (), stop_at: int | None = None):
    """A trainer whose parameter is the number of steps, and the list of steps that it ran."""
    ran: list[int] = []
    position = {'total': 0}

    def begin() -> TrainState:
        return TrainState({'count': jnp.float32(0)}, (), jnp.int32(0), jnp.int32(0))

    def step(state: TrainState, number: int):
        ran.append(number)
        position['total'] += number
        if number == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        skipped = number in bad
        state = TrainState(
            {'count': state.params['count'] + (0 if skipped else 1)}, (), state.step + 1,
            state.skipped_in_a_row + 1 if skipped else jnp.int32(0),
        )
        loss = jnp.nan if skipped else 1 / (number + 1)
        return state, {'loss': jnp.float32(loss), 'total': position['total']}

    trainer = Trainer(
        begin=begin, goes_on=lambda done: done < steps, target=begin(), step=step,
        position=lambda: dict(position), restore_position=position.update, shown=('loss',),
    )
    return trainer, ran


def loop_config(steps: int, every: int = 4) -> LoopConfig:
    return LoopConfig(
        num_steps=steps, checkpoint_every=every, keep_checkpoints=2, max_skipped_in_a_row=2
    )


def rows_of(workdir) -> list[dict]:
    rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.endswith('_seconds')} for row in rows]


def saved_steps(workdir) -> list[int]:
    return sorted(int(path.name) for path in (workdir / 'checkpoints').iterdir())


def test_a_run_saves_when_due_and_at_its_end(tmp_path):
    trainer, ran = counting_trainer(10)
    state = run_loop(trainer, loop_config(10), tmp_path)
    assert float(state.params['count']) == 10
    assert ran == list(range(10))
    assert [row['step'] for row in rows_of(tmp_path)] == list(range(1, 11))
    assert saved_steps(tmp_path) == [8, 10]


@pytest.mark.parametrize(
    'bad',
    [dict(max_kl=-1.0), dict(max_kl=math.nan), dict(keep_every=6), dict(keep_best='reward'),
     dict(num_steps=0), dict(max_skipped_in_a_row=0)],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        dataclasses.replace(loop_config(10), **bad)


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    run_loop(counting_trainer(6)[0], loop_config(6), tmp_path)
    before = rows_of(tmp_path)
    trainer, ran = counting_trainer(6)
    assert float(run_loop(trainer, loop_config(6), tmp_path).params['count']) == 6
    assert ran == [] and rows_of(tmp_path) == before


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    stopped, whole = tmp_path / 'stopped', tmp_path / 'whole'
    stopped.mkdir()
    whole.mkdir()
    trainer, ran = counting_trainer(10, stop_at=4)
    assert run_loop(trainer, loop_config(10), stopped) is None
    assert ran[-1] == 4 and saved_steps(stopped) == [4, 5]
    trainer, ran = counting_trainer(10)
    state = run_loop(trainer, loop_config(10), stopped)
    assert ran == [5, 6, 7, 8, 9] and float(state.params['count']) == 10
    run_loop(counting_trainer(10)[0], loop_config(10), whole)
    assert rows_of(stopped) == rows_of(whole)


def test_sigterm_in_the_last_step_ends_the_run_as_usual(tmp_path):
    state = run_loop(counting_trainer(5, stop_at=4)[0], loop_config(5), tmp_path)
    assert float(state.params['count']) == 5 and saved_steps(tmp_path) == [4, 5]


def test_too_many_bad_steps_in_a_row_end_the_run_with_the_last_good_state_kept(tmp_path):
    trainer, ran = counting_trainer(10, bad=(2, 5, 6))
    with pytest.raises(NonFiniteError, match='2 updates in a row.*step 7.*checkpoint of step 4'):
        run_loop(trainer, loop_config(10), tmp_path)
    assert ran[-1] == 6  # A single bad step, 2, did not end it.
    assert rows_of(tmp_path)[2]['loss'] is None
    assert saved_steps(tmp_path) == [4]


def test_a_warning_is_said_once_counted_and_outlives_a_stop(tmp_path, capsys):
    """Three steps in a row without a right answer; the run is stopped behind the second."""

    def hopeless(steps: int, stop_at: int | None = None):
        trainer, _ = counting_trainer(steps, stop_at=stop_at)

        def step(state: TrainState, number: int):
            state, metrics = trainer.step(state, number)
            return state, metrics | {'groups_with_signal': jnp.float32(number in (0, 5))}

        return dataclasses.replace(trainer, step=step)

    stopped, whole = tmp_path / 'stopped', tmp_path / 'whole'
    for workdir in (stopped, whole):
        workdir.mkdir()
    run_loop(hopeless(8), loop_config(8), whole)
    said = [x for x in capsys.readouterr().err.splitlines() if x.startswith('warning')]
    assert len(said) == 1
    assert said[0].startswith('warning at step 4: groups_with_signal is 0 for 3 steps in a row: ')
    assert [row['warnings'] for row in rows_of(whole)] == [0, 0, 0, 1, 1, 0, 0, 0]
    events = EventAccumulator(str(whole), size_guidance={'tensors': 0}).Reload()
    assert [event.step for event in events.Tensors('texts/warnings')] == [4]
    assert run_loop(hopeless(8, stop_at=2), loop_config(8), stopped) is None
    run_loop(hopeless(8), loop_config(8), stopped)
    assert rows_of(stopped) == rows_of(whole)
    said = [x for x in capsys.readouterr().err.splitlines() if x.startswith('warning')]
    assert [line.partition(':')[0] for line in said] == ['warning at step 4']
