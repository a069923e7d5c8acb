"""The clipped surrogate, its gradient, k3, and weights that survive any split of the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.kernels.surrogate import (
    AGGREGATIONS,
    clipped_surrogate,
    k3_divergence,
    token_weights,
)

SHAPE = (6, 5)
LOW, HIGH = 0.2, 0.3


def loss(logprobs_BT, old_BT, advantages_BT):
    return clipped_surrogate(logprobs_BT, old_BT, advantages_BT, clip_low=LOW, clip_high=HIGH)


measure = jax.jit(loss)
slope = jax.jit(jax.grad(lambda *arrays: loss(*arrays).loss_BT.sum()))
weigh = jax.jit(token_weights, static_argnames='aggregation')


def reference_loss(logprob, old, advantage):
    """Loss, its derivative by the log-probability, and whether the clip cut it."""
    ratio = np.exp(logprob - old)
    if advantage > 0 and ratio > 1 + HIGH:
        return -(1 + HIGH) * advantage, 0.0, True
    if advantage < 0 and ratio < 1 - LOW:
        return -(1 - LOW) * advantage, 0.0, True
    return -ratio * advantage, -ratio * advantage, False


def arrays_of(seed):
    generator = np.random.default_rng(seed)
    old_BT = -generator.exponential(1, SHAPE)
    logprobs_BT = old_BT + generator.normal(0, 0.4, SHAPE)
    return [np.float32(x) for x in (logprobs_BT, old_BT, generator.normal(0, 1, SHAPE))]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_surrogate_and_its_gradient(seed):
    logprobs_BT, old_BT, advantages_BT = arrays_of(seed)
    surrogate = measure(logprobs_BT, old_BT, advantages_BT)
    slope_BT = slope(logprobs_BT, old_BT, advantages_BT)
    for place in np.ndindex(SHAPE):
        value, derivative, clipped = reference_loss(
            *(np.float64(x[place]) for x in (logprobs_BT, old_BT, advantages_BT))
        )
        np.testing.assert_allclose(surrogate.loss_BT[place], value, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(slope_BT[place], derivative, rtol=1e-4, atol=1e-6)
        assert surrogate.clipped_BT[place] == clipped


def test_on_policy_gradient_is_the_policy_gradient():
    logprobs_BT, _, advantages_BT = arrays_of(0)
    surrogate = measure(logprobs_BT, logprobs_BT, advantages_BT)
    np.testing.assert_array_equal(surrogate.ratio_BT, np.ones(SHAPE))
    assert not surrogate.clipped_BT.any()
    found_BT = slope(logprobs_BT, logprobs_BT, advantages_BT)
    np.testing.assert_allclose(found_BT, -advantages_BT, rtol=1e-6)


def test_k3_estimates_the_divergence_without_bias():
    policy_V, reference_V = np.array([0.7, 0.2, 0.1]), np.array([0.5, 0.3, 0.2])
    k3_V = np.asarray(k3_divergence(jnp.log(policy_V), jnp.log(reference_V)))
    assert (k3_V >= 0).all()
    divergence = (policy_V * np.log(policy_V / reference_V)).sum()
    np.testing.assert_allclose((policy_V * k3_V).sum(), divergence, rtol=1e-5)
    same_V = k3_divergence(jnp.log(policy_V), jnp.log(policy_V))
    np.testing.assert_allclose(same_V, np.zeros(3), atol=1e-7)


def reference_mean(values_BT, mask_BT, aggregation):
    if aggregation == 'token':
        return values_BT[mask_BT].mean() if mask_BT.any() else 0.0
    if aggregation == 'sequence':
        rows = zip(values_BT, mask_BT, strict=True)
        means = [values_T[mask_T].mean() for values_T, mask_T in rows if mask_T.any()]
        return np.mean(means) if means else 0.0
    return values_BT[mask_BT].sum() / values_BT.size


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 0.8, 1.0]))
def test_weights_give_the_mean_they_name(seed, density):
    generator = np.random.default_rng(seed)
    values_BT = generator.normal(size=SHAPE)
    mask_BT = generator.random(SHAPE) < density
    for aggregation in AGGREGATIONS:
        weights_BT = np.asarray(weigh(mask_BT, aggregation))
        assert weights_BT.dtype == np.float32 and not weights_BT[~mask_BT].any()
        expected = reference_mean(values_BT, mask_BT, aggregation)
        np.testing.assert_allclose((weights_BT * values_BT).sum(), expected, atol=1e-5)


@pytest.mark.parametrize('aggregation', AGGREGATIONS)
def test_accumulated_gradients_do_not_depend_on_the_microbatch(aggregation):
    logprobs_BT, old_BT, advantages_BT = arrays_of(1)
    mask_BT = jnp.arange(SHAPE[1]) < jnp.array([5, 1, 0, 3, 2, 4])[:, None]
    batch = (logprobs_BT, old_BT, advantages_BT, np.asarray(token_weights(mask_BT, aggregation)))

    @jax.jit
    @jax.grad
    def gradient(scale, logprobs_BT, old_BT, advantages_BT, weights_BT):
        surrogate = loss(scale * logprobs_BT, old_BT, advantages_BT)
        return (weights_BT * surrogate.loss_BT).sum()

    whole = gradient(1.0, *batch)
    for size in (1, 2, 3):
        parts = [
            gradient(1.0, *(x[start : start + size] for x in batch))
            for start in range(0, SHAPE[0], size)
        ]
        np.testing.assert_allclose(sum(parts), whole, rtol=1e-5)


def test_unknown_aggregation_is_refused():
    with pytest.raises(ValueError, match="'mean' is unknown; known: token, sequence, constant"):
        token_weights(jnp.ones(SHAPE), 'mean')
