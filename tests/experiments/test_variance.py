"""The gradient's noise: its statistics on draws of known noise, its slopes, and the command."""

import dataclasses
import functools
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from configs import countdown
from experiments import variance
from mrt_jax.errors import InputError
from mrt_jax.tasks.task import Verdict
from mrt_jax.training import rl_setup
from mrt_jax.training.update import join_response, next_token_logprobs
from tests.tiny import tiny_model


def test_bias_variance_and_error_of_known_noise():
    """Distances with a bias of squared length 1/4 and a variance of 2, and plain ones of 4."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        off_RK, plain_RK = rng.normal(0, 2**0.5, (24, 64)), rng.normal(0, 2, (24, 64))
        products, plain = (x @ x.T / 64 for x in (off_RK + 0.5, plain_RK))
        error = functools.partial(variance.error_beside, tokens=0.5)
        found.append([
            variance.jackknife(variance.squared_bias, products),
            variance.jackknife(variance.variance, products),
            variance.jackknife(error, products, plain),
        ])  # fmt: skip
    means_SV, truth_S = np.mean(found, axis=0), np.array([0.25, 2, (0.25 + 0.5 * 2) / 4])
    np.testing.assert_allclose(means_SV[:, 0], truth_S, rtol=0.04)
    low_NS, high_NS = np.array(found)[:, :, 1], np.array(found)[:, :, 2]
    covered_S = ((low_NS <= truth_S) & (truth_S <= high_NS)).mean(axis=0)
    assert (covered_S > 0.88).all() and (covered_S < 0.99).all()


def test_variance_of_a_step_is_that_of_its_problems():
    """Of 400 steps of five problems each, the variance of the sum beside the mean estimate."""
    rng = np.random.default_rng(1)
    problems, rows, tokens, directions = 5, 2, 3, 4
    slopes_KX = rng.normal(size=(directions, problems * rows * tokens))
    sums, estimates = [], []
    same_KBT = np.tile(slopes_KX[:, : rows * tokens], problems)
    for _ in range(4000):
        shared_BT = np.repeat(rng.normal(size=(problems, 1)), rows, axis=0)
        advantages_BT = np.broadcast_to(shared_BT, (problems * rows, tokens))
        sums.append(same_KBT @ advantages_BT.ravel())
        estimates.append(variance.variance_of_step(same_KBT, advantages_BT, problems))
    expected = np.var(sums, axis=0).mean()
    np.testing.assert_allclose(np.mean(estimates), expected, rtol=0.1)


def test_slopes_are_differences_along_the_direction():
    model, params = tiny_model()
    rng = np.random.default_rng(2)
    rollout = SimpleNamespace(
        prompt_tokens_BP=rng.integers(0, 64, (2, 3)), prompt_lengths_B=np.array([3, 2]),
        tokens_BT=rng.integers(0, 64, (2, 5)), lengths_B=np.array([5, 3]),
    )
    keys_K = jax.random.split(jax.random.key(0), 2)
    slopes_KBT = variance.token_slopes(model, params, rollout, keys_K)
    assert slopes_KBT.shape == (2, 2, 5) and not slopes_KBT[:, 1, 3:].any()
    sequence = join_response(
        rollout.prompt_tokens_BP, rollout.prompt_lengths_B, rollout.lengths_B, rollout.tokens_BT
    )
    score = jax.jit(lambda params: next_token_logprobs(model, params, *sequence)[0])
    for key, slopes_BT in zip(keys_K, slopes_KBT, strict=True):
        direction = variance.random_direction(key, params)
        ends = [
            np.float64(score(jax.tree.map(lambda x, d, h=h: x + h * d, params, direction)))
            for h in (1e-3, -1e-3)
        ]
        np.testing.assert_allclose(
            slopes_BT, ((ends[0] - ends[1]) / 2e-3)[:, 3:], rtol=0.01, atol=0.2
        )


@pytest.fixture
def config():
    config = countdown.get_config('mrt')
    config.update(dict(
        prompts_per_step=2, group_size=2, branches=2, max_boundaries=3, max_thinking_tokens=24,
        max_answer_tokens=4,
    ))  # fmt: skip
    return config


def test_the_report(config, policy_folder, monkeypatch):
    """Of an untrained policy, half of whose answers are right; it is asked in one way only."""

    def prepare(config):
        setup = rl_setup.prepare(config)
        check = lambda text, _: Verdict(sum(text.encode()) % 2 == 0, None, 'equal')  # noqa: E731
        task = dataclasses.replace(setup.reader.task, check=check)
        return dataclasses.replace(setup, reader=dataclasses.replace(setup.reader, task=task))

    names = ('plain', 'across the group, then smoothed', 'weights by standard error', 'two rounds')
    ask = variance.ask
    monkeypatch.setattr(variance, 'prepare', prepare)
    monkeypatch.setattr(variance, 'ask', lambda *arguments, **how: ask(*arguments))
    monkeypatch.setattr(variance, 'TOOLS', {name: variance.TOOLS[name] for name in names})
    monkeypatch.setattr(variance, 'CREDITS', ('scalar', 'episode'))
    config.policy = policy_folder
    results = variance.measure(config, repeats=5, directions=3)
    assert list(results['credits']) == ['scalar', 'episode']
    for of in results['credits'].values():
        assert tuple(of['tools']) == names and of['tools']['plain']['error'][0] == 1.0
        assert of['tools']['two rounds']['tokens'] == pytest.approx(1, abs=0.2)
    json.dumps(results)
    share, *tables = variance.tables(results)
    assert [row[0] for row in share.rows] == ['scalar', 'episode']
    assert all(tuple(row[0] for row in table.rows) == names for table in tables)


@pytest.mark.parametrize(('changes', 'message'), [
    ({'branches': 3}, 'branches=3 must be even'),
    ({'attention': 'measured'}, "attention='measured' is for training"),
])
def test_what_cannot_be_is_refused(config, changes, message):
    config.update(changes)
    with pytest.raises(InputError, match=message):
        variance.measure(config, repeats=4, directions=1)
