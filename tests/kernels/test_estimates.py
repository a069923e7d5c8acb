"""pass@k and maj@k against the enumeration of all subsets."""

import itertools
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.kernels.estimates import maj_at_k, pass_at_k


def vote(answers, gold):
    """1 for a win of the right answer, 1/2 for a tie at the top, else 0."""
    counts = Counter(answer for answer in answers if answer is not None)
    right = counts.pop(gold, 0)
    rival = max(counts.values(), default=0)
    if right == 0:
        return 0.0
    return 1.0 if right > rival else 0.5 if right == rival else 0.0


@settings(max_examples=60, deadline=None)
@given(
    answers=st.lists(st.sampled_from(['gold', 'a', 'b', 'c', None]), min_size=1, max_size=8),
    data=st.data(),
)
def test_both_are_means_over_all_subsets(answers, data):
    k = data.draw(st.integers(1, len(answers)))
    subsets = list(itertools.combinations(answers, k))
    expected = sum(vote(subset, 'gold') for subset in subsets) / len(subsets)
    assert maj_at_k(answers, 'gold', k) == pytest.approx(expected, abs=1e-12)
    expected = sum('gold' in subset for subset in subsets) / len(subsets)
    assert pass_at_k(len(answers), answers.count('gold'), k) == pytest.approx(expected, abs=1e-12)


def test_maj_at_k_by_hand():
    assert maj_at_k(['g', 'g', 'a'], 'g', 3) == 1.0
    assert maj_at_k(['g', 'a'], 'g', 2) == 0.5
    assert maj_at_k(['g', 'a', 'b'], 'g', 3) == 0.5  # a tie of three is a tie
    assert maj_at_k([None, None], 'g', 1) == 0.0
    assert maj_at_k([None, 'g', None], 'g', 3) == 1.0  # who says nothing does not vote
    assert maj_at_k(['g', 'g', 'a', 'a'], 'g', 1) == 0.5


def test_many_samples():
    """64 samples, whose subsets nobody enumerates: pass@k by its definition."""
    expected = 1 - math.comb(54, 16) / math.comb(64, 16)
    assert pass_at_k(64, 10, 16) == pytest.approx(expected, abs=1e-12)
    answers = ['g'] * 24 + ['a'] * 20 + ['b'] * 15 + [None] * 5
    assert maj_at_k(answers, 'g', 1) == pytest.approx(24 / 64, abs=1e-12)
    assert maj_at_k(answers, 'g', 64) == 1.0


@pytest.mark.parametrize('samples, correct, k', [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)])
def test_impossible_pass_at_k_is_refused(samples, correct, k):
    with pytest.raises(ValueError, match='does not exist'):
        pass_at_k(samples, correct, k)


@pytest.mark.parametrize('k', [0, 3])
def test_impossible_maj_at_k_is_refused(k):
    with pytest.raises(ValueError, match='does not exist'):
        maj_at_k(['g', 'a'], 'g', k)
