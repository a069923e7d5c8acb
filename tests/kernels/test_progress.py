"""Success rates and progress, on arrays of eight branches a boundary."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.kernels.progress import last_success, progress, success_rate
from tests.kernels import reference_curves
from tests.kernels.curves import COLUMNS, permutations, success_curves

measure = jax.jit(progress)
estimate = jax.jit(success_rate)


@settings(max_examples=50, deadline=None)
@given(success_curves())
def test_progress_is_the_reference_and_telescopes(curves):
    success_BE, mask_BE = curves
    progress_BX = np.asarray(measure(success_BE, mask_BE))
    last_B = np.asarray(last_success(success_BE, mask_BE))
    for row, mask in enumerate(mask_BE):
        success = success_BE[row, mask].tolist()
        expected = reference_curves.progress(success)
        assert progress_BX[row, : len(expected)].tolist() == expected  # eighths are exact
        assert not progress_BX[row, len(expected) :].any()
        assert progress_BX[row].sum() == success[-1] - success[0]
        assert last_B[row] == success[-1]
    assert (np.abs(progress_BX) <= 1).all()


@settings(max_examples=25, deadline=None)
@given(success_curves(), permutations)
def test_rows_permute_and_padding_changes_nothing(curves, order):
    success_BE, mask_BE = curves
    plain_BX = np.asarray(measure(success_BE, mask_BE))
    spoilt_BE = np.where(mask_BE, success_BE, np.nan).astype(np.float32)
    np.testing.assert_array_equal(measure(spoilt_BE, mask_BE), plain_BX)
    np.testing.assert_array_equal(measure(success_BE[order], mask_BE[order]), plain_BX[order])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_success_rate_counts_the_branches_that_were_drawn(seed):
    generator = np.random.default_rng(seed)
    correct_BEM = generator.random((3, COLUMNS, 8)) < generator.random()
    mask_BEM = generator.random((3, COLUMNS, 8)) < generator.random()
    success = estimate(correct_BEM, mask_BEM)
    for row, column in np.ndindex(3, COLUMNS):
        drawn = correct_BEM[row, column][mask_BEM[row, column]]
        assert success.count_BE[row, column] == len(drawn)
        mean = drawn.mean() if len(drawn) else 0
        stderr = drawn.std() / np.sqrt(len(drawn)) if len(drawn) else 0
        np.testing.assert_allclose(success.mean_BE[row, column], mean, atol=1e-7)
        np.testing.assert_allclose(success.stderr_BE[row, column], stderr, atol=1e-6)


def test_success_rate_has_the_types_it_says():
    success = success_rate(jnp.ones((1, 2, 3), bool), jnp.ones((1, 2, 3), bool))
    assert success.mean_BE.dtype == success.stderr_BE.dtype == jnp.float32
    assert success.count_BE.dtype == jnp.int32
