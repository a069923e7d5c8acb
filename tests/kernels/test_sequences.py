"""Sums and means over packed sequences against loops."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.kernels.sequences import mean_by_sequence, sum_by_sequence

ROWS, COLUMNS = 3, 8


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_sequences_do_not_touch_each_other(seed, packed):
    generator = np.random.default_rng(seed)
    values_RL = generator.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    segments_RL = np.sort(generator.integers(0, 3, (ROWS, COLUMNS)), axis=1).astype(np.int32)
    mask_RL = generator.random((ROWS, COLUMNS)) < 0.6
    given_RL = segments_RL if packed else None
    segments_RL = segments_RL if packed else np.zeros_like(segments_RL)
    sums_RL = np.asarray(sum_by_sequence(values_RL, given_RL))
    means_RL = np.asarray(mean_by_sequence(values_RL, mask_RL, given_RL))
    for row, column in np.ndindex(ROWS, COLUMNS):
        same = segments_RL[row] == segments_RL[row, column]
        np.testing.assert_allclose(sums_RL[row, column], values_RL[row, same].sum(), atol=1e-5)
        expected = values_RL[row, same & mask_RL[row]].mean() if mask_RL[row, column] else 0
        np.testing.assert_allclose(means_RL[row, column], expected, atol=1e-5)
