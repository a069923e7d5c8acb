"""The variants of `configs/backtrack.py`, for a few steps at the smallest size."""

import dataclasses

import numpy as np
import pytest

from configs import backtrack
from mrt_jax.errors import InputError
from mrt_jax.policies.load import load_policy
from mrt_jax.tasks.countdown_tokenizer import DIRECT_CHAT_TEMPLATE
from mrt_jax.tasks.task import Verdict, get_task
from mrt_jax.training import reinforcement, rl_setup
from mrt_jax.training.objectives import train
from mrt_jax.training.reinforcement import train_policy
from mrt_jax.training.supervised import train_supervised
from tests.training.run_configs import (
    read_steps,
    save_untrained_policy,
    small_run,
)


@pytest.fixture(scope='module')
def policy(tmp_path_factory):
    words = get_task('countdown_backtrack').words
    folder = tmp_path_factory.mktemp('policy') / 'untrained'
    return save_untrained_policy(folder, 1, words, DIRECT_CHAT_TEMPLATE)


def run(policy, variant, **changes):
    return small_run(policy, variant, backtrack, **{'num_steps': 2, 'row_tokens': 96} | changes)


@pytest.mark.parametrize('variant', backtrack.RECIPES)
def test_reinforcement(policy, variant, tmp_path):
    assert train_policy(run(policy, variant), tmp_path)
    steps = read_steps(tmp_path)
    assert len(steps) == 2 and all(np.isfinite(step['loss']) for step in steps)
    assert ('progress' in steps[0]) == (variant != 'grpo')
    assert (steps[0].get('prover_tokens', 0) > 0) == (variant in ('mrt', 'mrt_to_go'))
    assert ('prefix_staleness' in steps[0]) == (variant == 'mrt_rl')
    assert (tmp_path / 'policy' / 'model.safetensors').is_file()


@pytest.mark.parametrize('variant', backtrack.SELF_TAUGHT)
def test_self_taught(policy, variant, tmp_path):
    right = lambda response, answer: Verdict(True, 'x', 'equal')  # noqa: E731
    config = run(
        policy, variant, problems_per_iteration=4, steps_per_iteration=1, rows_per_step=8,
        max_answer_tokens=8,
    )
    with pytest.MonkeyPatch.context() as patch:
        # An untrained policy is never right, and has nothing to keep: here it always is.
        patch.setattr(
            rl_setup, 'get_task',
            lambda name, **texts: dataclasses.replace(get_task(name, **texts), check=right),
        )
        assert train(config, tmp_path)
    steps = read_steps(tmp_path)
    assert len(steps) == 2 and all(np.isfinite(step['loss']) for step in steps)
    assert ('prover_tokens' in steps[0]) == (variant == 'mrt_star')


def test_self_correction_needs_attempts_that_show_their_result(policy):
    config = run(policy, 'self_correction', task='countdown')
    with pytest.raises(InputError, match='episodes of task=.countdown. .* no attempts'):
        reinforcement.prepare(config)
    with pytest.raises(InputError, match='without error; got episode, trace and False'):
        reinforcement.prepare(run(policy, 'self_correction', shrinkage='trace'))
    with pytest.raises(InputError, match='got none, none and False'):
        reinforcement.prepare(run(policy, 'self_correction', credit='none'))
    with pytest.raises(InputError, match="prover='oracle' must be one of answers, attempts"):
        reinforcement.prepare(run(policy, 'mrt', prover='oracle'))


@pytest.mark.parametrize('variant', backtrack.TRACES)
def test_warm_starts(policy, variant, tmp_path):
    config = backtrack.get_config(variant)
    config.update(num_steps=3, rows_per_step=4, microbatch_rows=4, parent='')
    config.model.update(width=32, num_layers=2, head_width=16, ffn_width=48)
    config.optimizer.update(warmup_steps=1, learning_rate=1e-2)
    assert train_supervised(config, tmp_path)
    losses = [step['loss'] for step in read_steps(tmp_path)]
    assert losses[-1] < losses[0]
    trained = load_policy(tmp_path / 'policy')
    assert trained.tokenizer and len(trained.tokenizer.encode('Backtrack to ')) == 1


def test_the_shipped_policy_is_what_the_variants_start_from():
    config = backtrack.get_config('mrt')
    shipped = load_policy(config.policy)
    assert shipped.tokenizer and shipped.chat
    words = get_task(config.task).words
    assert all(len(shipped.tokenizer.encode(word)) == 1 for word in words)
    reinforcement.prepare(config)
