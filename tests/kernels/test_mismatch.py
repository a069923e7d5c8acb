"""Importance weights between sampler and trainer, against loops over sequences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.kernels.mismatch import BOUNDS, LEVELS, importance_weights

ROWS, COLUMNS = 2, 6
logs = st.lists(
    st.floats(-3, 3, width=32), min_size=ROWS * COLUMNS, max_size=ROWS * COLUMNS
).map(lambda x: np.float32(x).reshape(ROWS, COLUMNS))
flags = st.lists(
    st.booleans(), min_size=ROWS * COLUMNS, max_size=ROWS * COLUMNS
).map(lambda x: np.array(x).reshape(ROWS, COLUMNS))
SEGMENTS = np.array([[0, 0, 0, 1, 1, 1], [0, 1, 1, 2, 2, 2]])


@pytest.mark.parametrize('level', LEVELS)
@pytest.mark.parametrize('bound', BOUNDS)
@settings(max_examples=60, deadline=None)
@given(trainer=logs, sampler=logs, sampled=flags, most=st.floats(1, 4))
def test_weights_are_bounded_ratios(level, bound, trainer, sampler, sampled, most):
    weights, bounded = importance_weights(
        trainer, sampler, sampled, SEGMENTS, level=level, bound=bound, most=most
    )
    for row, column in np.ndindex(ROWS, COLUMNS):
        if not sampled[row, column]:
            assert weights[row, column] == 1 and not bounded[row, column]
            continue
        of = np.arange(COLUMNS) == column
        if level == 'sequence':
            of = (SEGMENTS[row] == SEGMENTS[row, column]) & sampled[row]
        ratio = np.exp((trainer - sampler)[row, of].sum(dtype=np.float64))
        if abs(ratio - most) < 1e-4 * most:
            continue
        assert bounded[row, column] == (ratio > most)
        expected = ratio if ratio < most else (most if bound == 'truncate' else 0)
        np.testing.assert_allclose(weights[row, column], expected, rtol=1e-4)


def test_truncated_gradients_are_those_of_the_trainer_where_no_weight_is_bounded():
    """E_sampler[trainer / sampler x f] = E_trainer[f], on a vocabulary of four."""
    rng = np.random.default_rng(0)
    trainer, sampler = (rng.dirichlet(np.ones(4) * 5) for _ in range(2))
    values = rng.normal(size=4)
    drawn = rng.choice(4, size=(1, 100_000), p=sampler)
    most = float((trainer / sampler).max()) + 1
    weights, bounded = importance_weights(
        np.log(trainer)[drawn], np.log(sampler)[drawn], np.ones(drawn.shape, bool),
        np.zeros(drawn.shape, int), level='token', bound='truncate', most=most,
    )
    estimates = np.asarray(weights) * values[drawn]
    error = estimates.std() / drawn.size**0.5
    assert not np.asarray(bounded).any()
    assert abs(estimates.mean() - trainer @ values) < 4 * error


def test_unknown_names_are_refused():
    arrays = np.zeros((1, 2)), np.zeros((1, 2)), np.ones((1, 2), bool), np.zeros((1, 2), int)
    with pytest.raises(ValueError, match="level 'word'"):
        importance_weights(*arrays, level='word', bound='mask', most=2)
    with pytest.raises(ValueError, match="bound 'cut'"):
        importance_weights(*arrays, level='token', bound='cut', most=2)
