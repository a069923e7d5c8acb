import pytest

from mrt_jax.evaluation.votes import (
    RIGHT,
    Trace,
    boundary_votes,
    by_seed,
    cast_ballots,
    fewest_branches,
    fewest_own_ballots,
    group_traces,
    read_record,
    read_seeds,
    vote_counts,
    vote_curve,
)
from tests.evaluation.synthetic import make_record


def test_all_right_answers_are_one_candidate():
    ballots = cast_ballots(['3', '03', '4', None, 'right'], [True, True, False, False, False])
    # An answer that reads "right" is a wrong one like any other.
    assert ballots == (RIGHT, RIGHT, '=4', None, '=right')
    assert vote_curve(ballots, [1, 5]) == pytest.approx([2 / 5, 1.0])


@pytest.mark.parametrize(
    'alike',
    [['1/2', '0.5', '\\frac{1}{2}', '$\\frac12$'], ['3 * 5 - 7', '3*5-7'], ['(B)', 'B'],
     ['Even', 'even'], ['1,000', '1000'], ['\\{1,2\\}', '\\{1, 2\\}']],
)
def test_wrong_answers_that_say_the_same_are_one_candidate(alike):
    assert len(set(cast_ballots(alike, [False] * len(alike)))) == 1


@pytest.mark.parametrize(
    'apart', [['12', '21'], ['5 6', '56'], ['(1,234)', '1234'], ['7' * 400, '7' * 401], ['b', 'B']]
)
def test_answers_that_say_different_things_are_not(apart):
    assert len(set(cast_ballots(apart, [False] * len(apart)))) == len(apart)


def test_the_k_of_votes_are_powers_of_two_and_all():
    assert vote_counts(1) == [1]
    assert vote_counts(8) == [1, 2, 4, 8]
    assert vote_counts(6) == [1, 2, 4, 6]


def test_a_record_keeps_its_votes():
    trace = read_record(make_record('a', success=(0.25, 1.0), extracted='9', correct=False))
    assert trace.branch_ballots[1] == (RIGHT,) * 8
    assert trace.branch_ballots[0].count(RIGHT) == 2
    assert trace.own_ballot == ('=9',)
    assert (trace.problem, trace.tokens, trace.success) == ('a', (10.0, 20.0), (0.25, 1.0))


def test_a_vote_reads_its_prefix_once():
    trace = Trace('a', (10.0, 30.0), (0.5, 0.5), (3.0, 4.5), ((RIGHT, None), (RIGHT, '=1')))
    tokens_EK, votes_EK = boundary_votes(trace, [1, 2])
    assert tokens_EK.tolist() == [[10, 13], [30, 34.5]]
    assert votes_EK.tolist() == [[0.5, 1.0], [0.5, 0.5]]


def test_the_fewest_votes_bound_k():
    whole = Trace('a', (1.0,), (0.0,), (1.0,), ((None, None),), ('=1',))
    silent = Trace('a', (1.0,), (0.0,))
    other = Trace(2, (1.0,), (0.0,), (1.0,), ((None,),), ('=1',))
    assert fewest_branches(group_traces([whole])) == 2
    assert fewest_branches(group_traces([whole, other])) == 1
    assert fewest_branches(group_traces([whole, silent])) == 0
    assert fewest_own_ballots(group_traces([whole, whole, other])) == 1
    assert fewest_own_ballots(group_traces([silent])) == 0
    assert list(group_traces([other, whole, silent])) == [2, 'a']


def test_votes_are_among_the_traces_of_a_seed():
    records = [[make_record('a', sample=i) for i in range(2)], [make_record('a')]]
    traces = read_seeds(records)
    assert [len(seed) for seed in by_seed(traces)] == [2, 1]
    assert fewest_own_ballots(group_traces(traces)) == 1
