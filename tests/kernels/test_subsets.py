"""Advantages for pass@k and maj@k against all subsets, one by one."""

import itertools
import statistics

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.kernels.advantages import less_baseline
from mrt_jax.kernels.estimates import maj_at_k, pass_at_k
from mrt_jax.kernels.subsets import maj_at_k_advantages, pass_at_k_advantages

GROUP = 6
find_pass = jax.jit(pass_at_k_advantages, static_argnames=('group_size', 'k'))
find_maj = jax.jit(maj_at_k_advantages, static_argnames=('group_size', 'k'))

votes = st.lists(st.integers(-1, 3), min_size=2 * GROUP, max_size=2 * GROUP).map(np.array)
sizes = st.integers(1, GROUP - 1)


def passes(votes):
    return float(0 in votes)


def majority(votes):
    right = votes.count(0)
    rival = max([votes.count(answer) for answer in set(votes) - {0, -1}], default=0)
    return float(right > rival) if right != rival else 0.5 * (right > 0)


def reference(votes, k, objective):
    """Mean of the objective over subsets with each trace, less that over those without it."""
    subsets = list(itertools.combinations(range(len(votes)), k))
    value = {subset: objective([votes[place] for place in subset]) for subset in subsets}
    return [
        statistics.fmean(value[s] for s in subsets if trace in s)
        - statistics.fmean(value[s] for s in subsets if trace not in s)
        for trace in range(len(votes))
    ]


@settings(max_examples=60, deadline=None)
@given(votes, sizes)
def test_advantages_are_those_of_all_subsets(votes_B, k):
    found = {
        passes: find_pass((votes_B == 0).astype(np.float32), GROUP, k),
        majority: find_maj(votes_B, GROUP, k),
    }
    for objective, found_B in found.items():
        for ours, group in zip(np.asarray(found_B).reshape(2, GROUP), votes_B.reshape(2, GROUP),
                               strict=True):
            expected = reference(group.tolist(), k, objective)
            np.testing.assert_allclose(ours, expected, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(votes)
def test_one_sample_at_a_time_is_leave_one_out(votes_B):
    rewards_B = (votes_B == 0).astype(np.float32)
    expected_B = less_baseline(rewards_B, GROUP, baseline='leave_one_out')
    np.testing.assert_allclose(find_pass(rewards_B, GROUP, 1), expected_B, atol=1e-6)
    np.testing.assert_allclose(find_maj(votes_B, GROUP, 1), expected_B, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(votes, sizes)
def test_the_objectives_are_those_that_are_reported(votes_B, k):
    """The mean over all subsets is `pass_at_k` and `maj_at_k` of the evaluation."""
    group = votes_B[:GROUP].tolist()
    answers = [None if vote == -1 else vote for vote in group]
    for objective, reported in (
        (passes, pass_at_k(GROUP, group.count(0), k)), (majority, maj_at_k(answers, 0, k))
    ):
        chosen = itertools.combinations(group, k)
        mean = statistics.fmean(objective(list(subset)) for subset in chosen)
        assert reported == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize('find', [find_pass, find_maj])
@pytest.mark.parametrize('k', [0, GROUP])
def test_subsets_must_leave_each_trace_out_once(find, k):
    with pytest.raises(ValueError, match=f'subsets of {k} from groups of {GROUP}'):
        find(np.zeros(GROUP, np.int32), GROUP, k)


def test_too_many_subsets_are_refused():
    with pytest.raises(ValueError, match='64 traces have 7,624,512 subsets of 5'):
        find_maj(np.zeros(64, np.int32), 64, 5)
