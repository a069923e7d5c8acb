"""Shrinkage of J and of credit against plain references, with what makes it worth its bias."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.kernels.advantages import episode_credit, to_go_credit
from mrt_jax.kernels.shrinkage import (
    careful_stderr,
    credit_stderr,
    shrink_across_group,
    shrink_along_trace,
    smooth_along_trace,
    stderr_weights,
)
from tests.kernels import reference_shrinkage
from tests.kernels.curves import COLUMNS, ROWS, success_curves

GROUP = 2
along, smooth = jax.jit(shrink_along_trace), jax.jit(smooth_along_trace)
across = jax.jit(shrink_across_group, static_argnames='group_size')
TOOLS = {
    'along': along, 'smooth': smooth,
    'across': lambda *curves: across(*curves, group_size=GROUP),
}  # fmt: skip
tools = pytest.mark.parametrize('tool', TOOLS)


@st.composite
def answered_curves(draw):
    """J [B, E] of whole numbers of right answers, the answers, and the mask."""
    cells = st.lists(st.integers(0, 6), min_size=COLUMNS, max_size=COLUMNS)
    count_BE = np.array(draw(st.lists(cells, min_size=ROWS, max_size=ROWS)), np.int32)
    right_BE = np.minimum(draw(st.lists(cells, min_size=ROWS, max_size=ROWS)), count_BE)
    _, mask_BE = draw(success_curves())
    success_BE = (right_BE / np.maximum(count_BE, 1)).astype(np.float32)
    return success_BE, count_BE, mask_BE


@settings(max_examples=40, deadline=None)
@given(answered_curves())
def test_references(curves):
    success_BE, count_BE, mask_BE = curves
    for tool, reference in (
        (along, reference_shrinkage.along_trace), (smooth, reference_shrinkage.smooth),
    ):
        found_BE = np.asarray(tool(*curves))
        for row, length in enumerate(mask_BE.sum(axis=1)):
            expected = reference(
                success_BE[row, :length].tolist(), count_BE[row, :length].tolist()
            )
            np.testing.assert_allclose(found_BE[row, :length], expected, atol=2e-4)
    found_BE = np.asarray(across(*curves, group_size=GROUP))
    for start in range(0, ROWS, GROUP):
        rows = slice(start, start + GROUP)
        expected_GE = reference_shrinkage.across_group(
            success_BE[rows].tolist(), count_BE[rows].tolist(), mask_BE[rows].sum(axis=1).tolist()
        )
        np.testing.assert_allclose(found_BE[rows], expected_GE, atol=2e-5)


@tools
@settings(max_examples=40, deadline=None)
@given(curves=answered_curves())
def test_stays_between_the_measured_and_off_padding(tool, curves):
    success_BE, count_BE, mask_BE = curves
    found_BE = np.asarray(TOOLS[tool](*curves))
    assert not found_BE[~mask_BE].any()
    used_BE = mask_BE & (count_BE > 0)
    measured = success_BE[used_BE] if used_BE.any() else np.zeros(1)
    assert (found_BE[mask_BE] >= min(measured.min(), 0) - 1e-6).all()
    assert (found_BE <= measured.max() + 1e-5).all()
    spoilt_BE = np.where(used_BE, success_BE, np.nan).astype(np.float32)
    np.testing.assert_array_equal(TOOLS[tool](spoilt_BE, count_BE, mask_BE), found_BE)
    swapped_BE = TOOLS[tool](*(x[[2, 3, 0, 1]] for x in curves))
    np.testing.assert_allclose(swapped_BE, found_BE[[2, 3, 0, 1]], atol=1e-6)


@tools
@pytest.mark.parametrize('answers', [1, 5])
@pytest.mark.parametrize('value', [0.0, 0.4, 1.0])
def test_equal_boundaries_stay_as_they_are(tool, answers, value):
    success_BE = np.full((ROWS, COLUMNS), value, np.float32)
    mask_BE = np.ones((ROWS, COLUMNS), bool)
    found_BE = TOOLS[tool](success_BE, np.full((ROWS, COLUMNS), answers), mask_BE)
    np.testing.assert_allclose(found_BE, success_BE, atol=1e-5)


@tools
def test_many_answers_leave_nothing_to_shrink(tool):
    """The empty prefix, which rows of a group share, has one J there."""
    success_BE = np.random.default_rng(0).random((ROWS, COLUMNS)).astype(np.float32)
    success_BE[1::GROUP, 0] = success_BE[::GROUP, 0]
    mask_BE = np.ones((ROWS, COLUMNS), bool)
    errors = [
        np.abs(TOOLS[tool](success_BE, np.full((ROWS, COLUMNS), answers), mask_BE) - success_BE)
        for answers in (4, 400, 40_000)
    ]
    assert errors[0].max() > 0.05 > errors[1].max() > 5e-4 > errors[2].max()


def test_single_answers_take_the_priors_word():
    """With one answer a boundary rho cannot be told from data: Beta(1/2, 1/2) halves the way."""
    success_BE = np.array([[1, 0, 0, 1]], np.float32)
    ones = np.ones((1, 4), int)
    found_BE = along(success_BE, ones, ones > 0)
    between = 1.0 - 0.75 + 0.25  # sum (p - m)^2 - v (k - 1) + the prior's part, v = 1/4
    rho = between / (0 + 2 * 0.25)
    expected_BE = 0.5 + rho / (1 - rho + rho) * (success_BE - 0.5)
    np.testing.assert_allclose(found_BE, expected_BE, atol=1e-6)


def test_the_empty_prefix_is_pooled_without_bias():
    success_BE = np.array([[0.25, 0, 0, 0], [0.75, 1, 1, 1]], np.float32)
    count_BE = np.array([[4, 4, 4, 4], [8, 4, 4, 4]])
    found_BE = np.asarray(across(success_BE, count_BE, count_BE > 0, group_size=2))
    np.testing.assert_allclose(found_BE[:, 0], (0.25 * 4 + 0.75 * 8) / 12, atol=1e-6)
    assert (found_BE[1, 1:] - found_BE[0, 1:] > 0.8).all()


def mean_squared_error(tool, truth_BE, answers, rng):
    success_BE = (rng.binomial(answers, truth_BE) / answers).astype(np.float32)
    mask_BE = np.ones(truth_BE.shape, bool)
    found_BE = np.asarray(tool(success_BE, np.full(truth_BE.shape, answers), mask_BE))
    plain = ((success_BE - truth_BE) ** 2).mean()
    return ((found_BE - truth_BE) ** 2).mean() / plain


def test_each_has_less_error_where_its_prior_holds():
    rng = np.random.default_rng(1)
    traces, columns = 4000, 8
    walk_BE = np.clip(
        0.5 + np.cumsum(rng.normal(0, 0.1, (traces, columns)), axis=1), 0.02, 0.98
    )
    alike_BE = np.broadcast_to(rng.beta(2, 2, (traces, 1)), (traces, columns))
    differ_BE = np.clip(alike_BE + rng.normal(0, 0.1, (traces, columns)), 0, 1)
    grouped_BE = np.repeat(rng.beta(2, 2, (traces // 8, columns)), 8, axis=0)
    grouped_BE = np.clip(grouped_BE + rng.normal(0, 0.1, (traces, columns)), 0, 1)
    grouped_BE[:, 0] = np.repeat(grouped_BE[::8, 0], 8)
    assert mean_squared_error(along, differ_BE, 4, rng) < 0.6
    assert mean_squared_error(smooth, walk_BE, 4, rng) < 0.6
    group = lambda *curves: across(*curves, group_size=8)  # noqa: E731
    assert mean_squared_error(group, grouped_BE, 4, rng) < 0.6
    # Where boundaries have nothing in common, the data say so and little is lost.
    apart_BE = rng.random((traces, columns))
    assert mean_squared_error(along, apart_BE, 4, rng) < 1.02


@settings(max_examples=40, deadline=None)
@given(answered_curves(), st.sampled_from(['scalar', 'episode', 'to_go']))
def test_stderr_of_credit(curves, credit):
    success_BE, count_BE, mask_BE = curves
    stderr_BE = np.asarray(careful_stderr(success_BE, count_BE))
    q_BE = (success_BE * count_BE + 0.5) / (count_BE + 1)
    np.testing.assert_allclose(
        stderr_BE, np.sqrt(q_BE * (1 - q_BE) / np.maximum(count_BE, 1)), rtol=1e-5
    )
    found_BX = np.asarray(credit_stderr(np.where(mask_BE, stderr_BE, np.nan), mask_BE, credit))
    for found, stderr, mask in zip(found_BX, stderr_BE, mask_BE, strict=True):
        last = int(mask.sum()) - 1
        pairs = {
            'scalar': [(0, last)] if last else [],
            'episode': [(j, j + 1) for j in range(last)],
            'to_go': [(j, last) for j in range(last)],
        }[credit]
        expected = [np.hypot(stderr[start], stderr[end]) for start, end in pairs]
        np.testing.assert_allclose(found[: len(pairs)], expected, rtol=1e-5)
        assert not found[len(pairs) :].any()


@settings(max_examples=40, deadline=None)
@given(answered_curves())
def test_weights_of_credit(curves):
    success_BE, count_BE, mask_BE = curves
    stderr_BX = np.asarray(credit_stderr(careful_stderr(success_BE, count_BE), mask_BE, 'to_go'))
    credit_BX, mask_BX = np.asarray(to_go_credit(success_BE, mask_BE)), mask_BE[:, 1:]
    found_BX = np.asarray(stderr_weights(np.where(mask_BX, credit_BX, np.nan), stderr_BX, mask_BX))
    excess = (credit_BX.astype(np.float64) ** 2 - stderr_BX.astype(np.float64) ** 2)[mask_BX]
    signal = max(excess.mean(), 0) if mask_BX.any() else 0
    noise = stderr_BX[mask_BX] ** 2
    np.testing.assert_allclose(found_BX[mask_BX], signal / (signal + noise), atol=1e-5)
    assert not found_BX[~mask_BX].any()
    exact_BX = stderr_weights(credit_BX, np.zeros_like(credit_BX), mask_BX)
    np.testing.assert_array_equal(exact_BX, mask_BX)


def test_weighted_credit_is_nearer_to_the_truth():
    """On credits of known spread, some of them from one answer and some from sixteen."""
    rng = np.random.default_rng(2)
    truth_BE = np.clip(0.5 + rng.normal(0, 0.15, (4000, 5)), 0, 1)
    count_BE = rng.choice([1, 16], truth_BE.shape)
    success_BE = (rng.binomial(count_BE, truth_BE) / count_BE).astype(np.float32)
    mask_BE = np.ones(truth_BE.shape, bool)
    truth_BX, credit_BX = np.diff(truth_BE, axis=1), episode_credit(success_BE, mask_BE)
    stderr_BX = credit_stderr(careful_stderr(success_BE, count_BE), mask_BE, 'episode')
    weights_BX = stderr_weights(credit_BX, stderr_BX, mask_BE[:, 1:])
    plain, weighted = (
        ((np.asarray(x_BX) - truth_BX) ** 2).mean() for x_BX in (credit_BX, weights_BX * credit_BX)
    )
    assert weighted < 0.4 * plain


def test_bad_arguments_are_refused():
    cells = jnp.zeros((4, 3))
    with pytest.raises(ValueError, match='4 rows are no whole number of groups of 3'):
        shrink_across_group(cells, cells, cells > 0, 3)
    with pytest.raises(ValueError, match="'none' is unknown; known: scalar, episode, to_go"):
        credit_stderr(cells, cells > 0, 'none')
