"""Schedules, what decays, and refusal of settings that make no sense."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mrt_jax.errors import InputError
from mrt_jax.training.optimizer import (
    OptimizerConfig,
    learning_rate_schedule,
    make_optimizer,
)
from tests.tiny import tiny_model

CONFIG = OptimizerConfig(
    learning_rate=0.1, schedule='constant', warmup_steps=4, weight_decay=0.5, b1=0.9, b2=0.98,
    clip_norm=1.0,
)


def rates(updates: int = 12, **changes) -> np.ndarray:
    schedule = learning_rate_schedule(dataclasses.replace(CONFIG, **changes), updates)
    return np.array([float(schedule(i)) for i in range(updates + 1)])


def test_warmup_rises_evenly_and_no_update_is_wasted():
    np.testing.assert_allclose(rates()[:6], [0.02, 0.04, 0.06, 0.08, 0.1, 0.1], rtol=1e-6)


@pytest.mark.parametrize(
    ('schedule', 'half'), [('constant', 0.1), ('linear', 0.05), ('cosine', 0.05)]
)
def test_schedules_reach_their_end_with_the_run(schedule, half):
    actual = rates(schedule=schedule)
    np.testing.assert_allclose(actual[8], half, rtol=1e-5)
    np.testing.assert_allclose(actual[12], 0.1 if schedule == 'constant' else 0.0, atol=1e-7)
    np.testing.assert_allclose(rates(schedule=schedule, warmup_steps=0)[0], 0.1, rtol=1e-6)


def test_only_matrices_decay():
    _, params = tiny_model(qk_norm=True, attention_bias=True, tie_embeddings=False)
    params = jax.tree.map(jnp.ones_like, params)
    optimizer = make_optimizer(dataclasses.replace(CONFIG, warmup_steps=0), updates=4)
    zeros = jax.tree.map(jnp.zeros_like, params)
    steps, _ = jax.jit(optimizer.update)(zeros, optimizer.init(params), params)
    for path, step in jax.tree.leaves_with_path(steps):
        decays = path[-1].key not in ('scale', 'bias')
        np.testing.assert_allclose(step, -0.05 if decays else 0.0, rtol=1e-6, err_msg=str(path))


def test_it_is_the_adamw_of_optax_behind_a_clip():
    config = dataclasses.replace(CONFIG, schedule='cosine')
    params = {'kernel': jnp.arange(6.0).reshape(2, 3), 'scale': jnp.ones(3)}
    ours = make_optimizer(config, updates=9)
    theirs = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(learning_rate_schedule(config, 9), b1=0.9, b2=0.98, weight_decay=0.5,
                    mask={'kernel': True, 'scale': False}),
    )
    updates = [jax.jit(optimizer.update) for optimizer in (ours, theirs)]
    states = [optimizer.init(params) for optimizer in (ours, theirs)]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        gradient = jax.tree.map(lambda x, r=rng: r.normal(size=x.shape).astype('f4'), params)
        (step, states[0]), (expected, states[1]) = (
            update(gradient, state, params)
            for update, state in zip(updates, states, strict=True)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), step, expected)
        rate = optax.tree_utils.tree_get(states[0], 'learning_rate')
        np.testing.assert_allclose(rate, learning_rate_schedule(config, 9)(seed), rtol=1e-6)


@pytest.mark.parametrize(
    'change',
    [dict(schedule='step'), dict(learning_rate=0.0), dict(clip_norm=-1.0), dict(warmup_steps=-1),
     dict(weight_decay=-0.1), dict(b1=1.0), dict(b2=-0.5)], ids=str,
)
def test_settings_that_make_no_sense_are_refused(change):
    with pytest.raises(InputError, match=f'optimizer.*{next(iter(change))}'):
        dataclasses.replace(CONFIG, **change)


def test_bfloat16_parameters_follow_a_float32_master():
    config = dataclasses.replace(CONFIG, learning_rate=1e-4, warmup_steps=0)
    full = {'kernel': jnp.linspace(-2, 2, 12).astype(jnp.bfloat16).astype(jnp.float32)}
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), full)
    rng = np.random.default_rng(0)
    runs = []
    for params, dtype in ((full, 'float32'), (low, 'bfloat16')):
        optimizer = make_optimizer(config, 40, dtype)
        runs.append([params, optimizer.init(params), jax.jit(optimizer.update)])
    for _ in range(40):
        gradient = {'kernel': jnp.asarray(1 + 0.1 * rng.standard_normal(12), jnp.float32)}
        for run in runs:
            steps, run[1] = run[2](gradient, run[1], run[0])
            run[0] = optax.apply_updates(run[0], steps)
    (expected, _, _), (params, state, _) = runs
    np.testing.assert_array_equal(state.master['kernel'], expected['kernel'])
    np.testing.assert_array_equal(params['kernel'], expected['kernel'].astype(jnp.bfloat16))
    # 40 steps of 1e-4 are less than half the spacing of numbers near 2, yet arrive elsewhere.
    moved = np.asarray(params['kernel'] != low['kernel'])
    assert moved.any()
    moments = [x for x in jax.tree.leaves(state.inner) if x.ndim]
    assert {x.dtype for x in moments} == {jnp.float32.dtype}
