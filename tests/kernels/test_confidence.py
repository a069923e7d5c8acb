"""The coverage loss against its formula in float64, and its gradient against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.kernels.confidence import confidence_factor, coverage_loss

logs = st.floats(-600, -1e-6).map(np.float32)
counts = st.sampled_from([1, 2, 3, 8, 64, 1000])


def reference_loss(logprob: float, n: int) -> float:
    """-log(1 - (1 - p)^n)."""
    miss = n * np.log1p(-np.exp(np.float64(logprob)))
    return -np.log(-np.expm1(miss))


def reference_factor(logprob: float, n: int) -> float:
    """n p (1 - p)^(n - 1) / (1 - (1 - p)^n)."""
    p = np.exp(np.float64(logprob))
    return n * p * np.exp((n - 1) * np.log1p(-p)) / -np.expm1(n * np.log1p(-p))


@settings(max_examples=300, deadline=None)
@given(logs, counts)
def test_loss_and_gradient_are_those_of_the_formula(logprob, n):
    loss, slope = jax.value_and_grad(coverage_loss)(logprob, n)
    np.testing.assert_allclose(loss, reference_loss(logprob, n), rtol=3e-5, atol=1e-6)
    factor = reference_factor(logprob, n)
    # Near 1, log(1 - p) of a float32 log p has few digits, times n.
    np.testing.assert_allclose(-slope, factor, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(confidence_factor(logprob, n), -slope)


@settings(max_examples=100, deadline=None)
@given(st.floats(-12, -0.01), st.sampled_from([2, 8, 64]))
def test_the_factor_is_the_slope_of_the_loss(logprob, n):
    step = 1e-6
    ends = [reference_loss(logprob + side * step, n) for side in (-1, 1)]
    slope = (ends[1] - ends[0]) / (2 * step)
    np.testing.assert_allclose(confidence_factor(jnp.float32(logprob), n), -slope, atol=1e-4)


@settings(max_examples=100, deadline=None)
@given(st.lists(logs, min_size=2, max_size=8), counts)
def test_the_more_confident_the_less_is_learnt(logprobs, n):
    factors = np.asarray(confidence_factor(jnp.sort(jnp.stack(logprobs)), n))
    assert ((factors >= 0) & (factors <= 1)).all()
    assert (np.diff(factors) <= 1e-4).all()


@pytest.mark.parametrize('n', [1, 2, 1000])
def test_nothing_overflows_at_the_ends(n):
    # A sum of logarithms that rounding has lifted above 0, certainty, and what never happens.
    ends = jnp.array([1e-7, 0, -1e-30, -1e5, -1e30], jnp.float32)
    losses, slopes = jax.vmap(jax.value_and_grad(lambda x: coverage_loss(x, n)))(ends)
    assert np.isfinite(losses).all() and np.isfinite(slopes).all()
    np.testing.assert_allclose(losses[:3], 0, atol=1e-6)
    np.testing.assert_allclose(losses[3:], -ends[3:], rtol=1e-3)
    np.testing.assert_allclose(slopes[:3], -1 if n == 1 else 0, atol=1e-6)
    np.testing.assert_allclose(slopes[3:], -1, rtol=1e-6)


def test_fewer_than_one_sample_is_refused():
    with pytest.raises(ValueError, match='n must be at least 1, got 0'):
        coverage_loss(jnp.zeros(2), 0)
