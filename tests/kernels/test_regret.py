"""Regret against references, properties, and cases worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.kernels.regret import (
    cumulative_regret,
    finished_regret,
    normalized_regret,
    normalized_regret_as_published,
)
from tests.kernels import reference_curves
from tests.kernels.curves import COLUMNS, ROWS, permutations, success_curves, token_columns

BUDGETS_C = np.array([1.0, 512.0, 4096.0, 20480.0])
accumulate = jax.jit(cumulative_regret, static_argnames=('best', 'from_empty'))
integrate = jax.jit(normalized_regret)


@settings(max_examples=40, deadline=None)
@given(success_curves(), permutations)
def test_cumulative_regret(curves, order):
    success_BE, mask_BE = curves
    spoilt_BE = np.where(mask_BE, success_BE, np.nan).astype(np.float32)
    for best, from_empty in ((1.0, False), (1.0, True), (0.5, False)):
        found_B = np.asarray(accumulate(success_BE, mask_BE, best=best, from_empty=from_empty))
        expected = [
            reference_curves.cumulative_regret(success[mask].tolist(), best, from_empty)
            for success, mask in zip(success_BE, mask_BE, strict=True)
        ]
        np.testing.assert_array_equal(found_B, np.float32(expected))
        kwargs = {'best': best, 'from_empty': from_empty}
        np.testing.assert_array_equal(accumulate(spoilt_BE, mask_BE, **kwargs), found_B)
        np.testing.assert_array_equal(
            accumulate(success_BE[order], mask_BE[order], **kwargs), found_B[order]
        )


def test_cumulative_regret_of_the_oracle_and_of_failure():
    mask_BE = np.arange(COLUMNS) <= np.arange(ROWS)[:, None]
    for from_empty in (False, True):
        oracle_B = cumulative_regret(jnp.ones((ROWS, COLUMNS)), mask_BE, from_empty=from_empty)
        failure_B = cumulative_regret(jnp.zeros((ROWS, COLUMNS)), mask_BE, from_empty=from_empty)
        np.testing.assert_array_equal(oracle_B, np.zeros(ROWS))
        np.testing.assert_array_equal(failure_B, np.arange(ROWS))  # 1 for each of k episodes


@settings(max_examples=50, deadline=None)
@given(success_curves(), token_columns(), permutations)
def test_normalized_regret(curves, tokens_BE, order):
    success_BE, mask_BE = curves
    precise_BE = success_BE.astype(np.float64)
    regret_BC = normalized_regret(tokens_BE, precise_BE, mask_BE, BUDGETS_C)
    expected = [
        [reference_curves.normalized_regret(x[mask], y[mask], budget) for budget in BUDGETS_C]
        for x, y, mask in zip(tokens_BE, precise_BE, mask_BE, strict=True)
    ]
    assert regret_BC.dtype == np.float64
    np.testing.assert_allclose(regret_BC, expected, rtol=0, atol=1e-12)
    assert (regret_BC > -1e-12).all() and (regret_BC < 1 + 1e-12).all()
    single_BC = integrate(tokens_BE, jnp.asarray(success_BE), mask_BE, jnp.asarray(BUDGETS_C))
    assert single_BC.dtype == jnp.float32
    np.testing.assert_allclose(single_BC, expected, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(
        normalized_regret(tokens_BE[order], precise_BE[order], mask_BE[order], BUDGETS_C),
        regret_BC[order],
    )
    padding = np.where(mask_BE, precise_BE, np.nan)
    np.testing.assert_array_equal(
        normalized_regret(np.where(mask_BE, tokens_BE, -1), padding, mask_BE, BUDGETS_C), regret_BC
    )
    wider = [np.pad(array, ((0, 0), (0, 3))) for array in (tokens_BE, precise_BE, mask_BE)]
    np.testing.assert_allclose(normalized_regret(*wider, BUDGETS_C), regret_BC, atol=1e-15)


@settings(max_examples=25, deadline=None)
@given(success_curves(), token_columns())
def test_normalized_regret_of_the_oracle_and_of_failure(curves, tokens_BE):
    _, mask_BE = curves
    failure_BC = normalized_regret(tokens_BE, np.zeros_like(tokens_BE, float), mask_BE, BUDGETS_C)
    np.testing.assert_array_equal(failure_BC, np.ones_like(failure_BC))
    # An oracle whose first answer costs nothing; else the way to it counts.
    free_BE, ones_BE = tokens_BE - tokens_BE[:, :1], np.ones_like(tokens_BE, float)
    oracle_BC = normalized_regret(free_BE, ones_BE, mask_BE, BUDGETS_C)
    np.testing.assert_allclose(oracle_BC, np.zeros_like(oracle_BC), atol=1e-12)
    oracle_BC = normalized_regret(tokens_BE, ones_BE, mask_BE, BUDGETS_C)
    ramp_BC = np.where(
        BUDGETS_C < tokens_BE[:, :1],
        1 - BUDGETS_C / tokens_BE[:, :1] / 2,
        tokens_BE[:, :1] / BUDGETS_C / 2,
    )
    np.testing.assert_allclose(oracle_BC, ramp_BC, atol=1e-12)


@pytest.mark.parametrize(
    'tokens, success, budget, expected',
    [
        # Shorter than the budget: triangle 100 x 0.5 / 2, then flat 0.5 for 100.
        ([100], [0.5], 200, 1 - (25 + 50) / 200),
        # One boundary, beyond the budget: the ramp to it, cut at half its height.
        ([100], [0.8], 50, 1 - 0.5 * 50 * 0.4 / 50),
        # Exactly at the budget.
        ([100], [1.0], 100, 0.5),
        # Longer than the budget, which lies between points: J is 0.6 at 150.
        ([100, 200], [0.4, 0.8], 150, 1 - (20 + 25) / 150),
        # J that falls: 0.3 at 150 on the way down from 0.5 to 0.1.
        ([100, 200], [0.5, 0.1], 150, 1 - (25 + 20) / 150),
        # Below the first boundary.
        ([100, 200], [0.5, 0.1], 10, 1 - 0.5 * 10 * 0.05 / 10),
        # Falls to 0 and stays there.
        ([10, 20], [1.0, 0.0], 1000, 1 - (5 + 5) / 1000),
        # An answer that costs nothing.
        ([0, 100], [1.0, 1.0], 100, 0.0),
    ],
)
def test_normalized_regret_by_hand(tokens, success, budget, expected):
    mask_BE = np.ones((1, len(tokens)), bool)
    found = normalized_regret(np.array([tokens]), np.array([success]), mask_BE, np.array([budget]))
    assert found[0, 0] == pytest.approx(expected, abs=1e-12)
    if tokens[0]:
        published = normalized_regret_as_published(np.array(tokens), np.array(success), budget)
        assert published == pytest.approx(expected, abs=1e-12)


def test_more_rows_than_numpy_integrates_at_a_time():
    generator = np.random.default_rng(0)
    tokens_BE = np.cumsum(generator.integers(1, 9, (3000, 5)), axis=1)
    success_BE, mask_BE = generator.random((3000, 5)), np.ones((3000, 5), bool)
    whole_BC = normalized_regret(tokens_BE, success_BE, mask_BE, BUDGETS_C)
    some = slice(2040, 2060)
    np.testing.assert_array_equal(
        normalized_regret(tokens_BE[some], success_BE[some], mask_BE[some], BUDGETS_C),
        whole_BC[some],
    )
    none_BC = normalized_regret(tokens_BE[:0], success_BE[:0], mask_BE[:0], BUDGETS_C)
    assert none_BC.shape == (0, len(BUDGETS_C))


@settings(max_examples=40, deadline=None)
@given(
    finish=st.lists(st.floats(0, 1e5) | st.just(np.inf), min_size=3, max_size=3),
    correct=st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_finished_regret(finish, correct):
    finish_B, correct_B = np.array(finish), np.array(correct, float)
    found_BC = finished_regret(finish_B, correct_B, BUDGETS_C)
    expected = [
        [reference_curves.finished_regret(tokens, right, budget) for budget in BUDGETS_C]
        for tokens, right in zip(finish, correct, strict=True)
    ]
    np.testing.assert_allclose(found_BC, expected, rtol=0, atol=1e-12)
    single_BC = jax.jit(finished_regret)(
        jnp.asarray(finish_B, jnp.float32), jnp.asarray(correct_B, jnp.float32),
        jnp.asarray(BUDGETS_C, jnp.float32),
    )
    np.testing.assert_allclose(single_BC, expected, atol=1e-5)


points = st.lists(st.tuples(st.integers(1, 30_000), st.integers(0, 8)), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(points, st.sampled_from([64, 4096, 16384]))
def test_published_arithmetic_on_any_order_of_tokens(points, budget):
    tokens, success = np.array([x for x, _ in points], float), np.array([y / 8 for _, y in points])
    try:
        expected = reference_curves.published_regret(tokens.tolist(), success.tolist(), budget)
    except ZeroDivisionError:
        with pytest.raises(ValueError, match='divides by their distance'):
            normalized_regret_as_published(tokens, success, budget)
        return
    found = normalized_regret_as_published(tokens, success, budget)
    assert found == pytest.approx(expected, abs=1e-9 * max(1, abs(expected)))
    if (np.diff(tokens) > 0).all():
        correct = reference_curves.normalized_regret(tokens, success, budget)
        assert found == pytest.approx(correct, abs=1e-9)


def test_published_arithmetic_goes_wrong_where_tokens_step_back():
    tokens, success = np.array([100.0, 300.0, 200.0]), np.array([0.4, 1.0, 0.2])
    # Below 250 lie 0, 100 and 200; they are paired with 0, 0.4 and 1.0, and 250 is interpolated
    # between (300, 1.0) and (200, 0.2): 0.6.
    expected = 1 - (20 + 70 + 40) / 250
    assert normalized_regret_as_published(tokens, success, 250) == pytest.approx(expected, abs=1e-9)


def test_published_arithmetic_of_extrapolation_cuts_nothing():
    tokens, success = np.array([100.0, 300.0]), np.array([0.5, 1.0])
    # 25 + 150, and 100 of height 1 walked backwards from 300 to 200.
    expected = 1 - (25 + 150 - 100) / 200
    found = normalized_regret_as_published(tokens, success, 200, cut=False)
    assert found == pytest.approx(expected, abs=1e-9)
