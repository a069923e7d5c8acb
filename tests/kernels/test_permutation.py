from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.kernels import permutation
from mrt_jax.kernels.permutation import holm, sign_flip_p_value
from tests.kernels import reference_permutation

# Differences of success rates over 4 samples: with ties, and exact as binary fractions.
groups_of_differences = st.lists(
    st.lists(st.integers(-4, 4).map(lambda n: Fraction(n, 4)), min_size=1, max_size=4),
    min_size=1, max_size=3,
)  # fmt: skip


def as_arrays(groups):
    return [np.array(group, float) for group in groups]


@settings(max_examples=60, deadline=None)
@given(groups=groups_of_differences)
def test_few_differences_give_the_exact_p_value(groups):
    expected = reference_permutation.sign_flip_p_value(groups)
    assert sign_flip_p_value(as_arrays(groups)) == pytest.approx(float(expected), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(groups=groups_of_differences)
def test_neither_the_direction_nor_problems_without_a_difference_count(groups):
    p_value = sign_flip_p_value(as_arrays(groups))
    assert sign_flip_p_value([-group for group in as_arrays(groups)]) == p_value
    assert 0 < p_value <= 1
    # The means of all groups shrink alike.
    padded = [np.append(group, [0.0] * len(group)) for group in as_arrays(groups)]
    assert sign_flip_p_value(padded) == pytest.approx(p_value)


def test_random_flips_come_near_the_exact_p_value(monkeypatch):
    rng = np.random.default_rng(0)
    groups = [rng.normal(0.4, 1, 8), rng.normal(0.2, 1, 6)]
    exact = sign_flip_p_value(groups)
    monkeypatch.setattr(permutation, 'EXACT_DIFFERENCES', 0)
    drawn = [sign_flip_p_value(groups, seed=seed, flips=20_000) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    deviation = np.sqrt(exact * (1 - exact) / 20_000)
    assert drawn == pytest.approx([exact] * 3, abs=4 * deviation)
    monkeypatch.setattr(permutation, '_CELLS', 14 * 1000)
    assert sign_flip_p_value(groups, flips=20_000) == pytest.approx(exact, abs=4 * deviation)


def test_p_values_are_uniform_where_nothing_differs():
    rng = np.random.default_rng(1)
    found = [
        sign_flip_p_value([rng.normal(size=30)], seed=seed, flips=200) for seed in range(400)
    ]
    assert abs(np.mean(np.array(found) <= 0.05) - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 400)
    assert np.mean(found) == pytest.approx(0.5, abs=4 / np.sqrt(12 * 400))


def test_a_clear_difference_is_found():
    assert sign_flip_p_value([np.full(100, 0.3)], flips=999) == 1 / 1000
    assert sign_flip_p_value([np.full(5, 0.3)]) == 2 / 2**5
    assert sign_flip_p_value([np.zeros(5)]) == 1


def test_no_difference_is_no_test():
    for groups in ([], [np.ones(3), np.ones(0)]):
        with pytest.raises(ValueError, match='at least one difference'):
            sign_flip_p_value(groups)


@settings(max_examples=100, deadline=None)
@given(
    p_values=st.lists(st.floats(0, 1), max_size=6), level=st.floats(0.01, 0.99)
)
def test_holm_rejects_what_its_procedure_does(p_values, level):
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    found = {index for index, q in enumerate(adjusted) if q <= level}
    assert found == reference_permutation.rejected(p_values, level)


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
