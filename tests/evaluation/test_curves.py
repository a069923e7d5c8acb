import numpy as np
import pytest

from mrt_jax.evaluation.curves import (
    DIRECT_MAJ,
    DIRECT_PASS,
    WHOLE_TRACES,
    accuracy_curves,
    boundary_name,
    curve_numbers,
    episode_regret_curve,
    progress_curve,
    read_curves,
)
from mrt_jax.evaluation.votes import RIGHT, Trace, read_record
from tests.evaluation.synthetic import make_record, make_records

WRONG = '=0'
# Two problems; the second trace of the first has no episode.
HAND = [
    Trace('a', (10.0, 30.0), (0.5, 1.0), (2.0, 4.0), ((RIGHT, WRONG), (RIGHT, RIGHT)), (RIGHT,)),
    Trace('a', (12.0,), (0.0,), (4.0,), ((WRONG, None),), (WRONG,)),
    Trace('b', (20.0, 40.0), (0.0, 0.5), (6.0, 6.0), ((None, WRONG), (RIGHT, None)), (WRONG,)),
    Trace('b', (20.0, 50.0), (0.5, 0.0), (2.0, 2.0), ((RIGHT, '=1'), (WRONG, WRONG)), (None,)),
]


@pytest.fixture(scope='module')
def curves():
    return {curve.name: curve for curve in accuracy_curves(HAND)}


def means(curve):
    return [value['mean'] for value in curve.values]


def test_direct_answers_by_hand(curves):
    # One right in four for either problem.
    assert means(curves[DIRECT_PASS]) == pytest.approx([0.25, 0.5, 1.0])
    # Of a: right, wrong twice, silent. Pairs with the right one: tie, tie, win; all: lost 1 to 2.
    # Of b: right, wrong, another wrong, silent. All four: a tie.
    assert means(curves[DIRECT_MAJ]) == pytest.approx([0.25, 2 / 6, (0 + 0.5) / 2])
    first, each = (11 + 20) / 2, (3 + 4) / 2
    for name in (DIRECT_PASS, DIRECT_MAJ):
        assert curves[name].marks == (1, 2, 4)
        assert curves[name].x == pytest.approx([first, first + each, first + 3 * each])


def test_votes_at_boundaries_by_hand(curves):
    first, second = curves[boundary_name(0)], curves[boundary_name(1)]
    assert boundary_name(2) not in curves
    # One answer: J. Two: tie, no vote for the right one; none, tie.
    assert means(first) == pytest.approx([0.25, (0.25 + 0.25) / 2])
    assert first.x == pytest.approx([15.5, 15.5 + 3.5])
    # The trace without an episode votes at its only boundary again.
    assert means(second) == pytest.approx([(0.5 + 0.25) / 2, (0.5 + 0.5) / 2])
    assert second.x == pytest.approx([(21 + 45) / 2, (21 + 45) / 2 + (4 + 4) / 2])


def test_whole_traces_by_hand(curves):
    whole = curves[WHOLE_TRACES]
    assert means(whole) == pytest.approx([0.25, 0.25])
    assert whole.x == pytest.approx([33, 66])


def test_one_answer_at_a_boundary_is_the_success_rate():
    records = make_records(10, 3)
    curves = {curve.name: curve for curve in accuracy_curves(list(map(read_record, records)))}
    first = np.mean([record.success[0] for record in records])
    assert means(curves[boundary_name(0)])[0] == pytest.approx(first)
    assert means(curves[DIRECT_MAJ])[0] == pytest.approx(first)
    for curve in curves.values():
        for value in curve.values:
            assert 0 <= value['low'] <= value['mean'] <= value['high'] <= 1


def test_curves_are_of_what_is_recorded():
    bare = [Trace('a', (10.0, 20.0), (0.5, 1.0))]
    assert accuracy_curves(bare) == []
    own = [Trace('a', (10.0,), (0.5,), own_ballot=(RIGHT,))]
    assert [curve.name for curve in accuracy_curves(own)] == [WHOLE_TRACES]


def test_curves_survive_json(curves):
    assert read_curves(curve_numbers(curves.values())) == list(curves.values())


def test_progress_by_episode_by_hand():
    traces = [
        Trace('a', (1.0, 2.0, 3.0), (0.0, 0.5, 1.0)),
        Trace('a', (1.0, 2.0), (0.5, 0.25)),
        Trace('b', (1.0, 2.0), (0.0, 1.0)),
        Trace('b', (1.0,), (0.25,)),
    ]
    curve = progress_curve(traces, 'p')
    assert curve.x == (1.0, 2.0)
    # Three traces have a first episode, one a second.
    assert means(curve) == pytest.approx([(0.5 - 0.25 + 1.0) / 3, 0.5])
    assert curve.marks == pytest.approx((0.75, 0.25))
    # Half of the resamples of two problems draw problem a; without it there is no second episode.
    assert curve.values[1]['high'] is None
    assert progress_curve(traces[3:], 'p').x == ()


def test_episode_regret_by_hand():
    # See the kernel's first case; 4 votes: 0.5 of one answer, and so on from what is drawn.
    one = Trace(
        'a', (10.0, 40.0), (0.5, 1.0), (10.0, 10.0), ((RIGHT, RIGHT, WRONG, '=1'), (RIGHT,) * 4)
    )
    curve = episode_regret_curve([one], 'p')
    # maj@2: pairs of right with wrong tie (4 of 6), right with right (1): (4 / 2 + 1) / 6 = 0.5;
    # maj@4: 2 to 1, right. Costs 10, 20, 40; going on is 0.5 to 1 over 30 tokens and never behind:
    # 0.667 at 20 and 1 at 40.
    assert means(curve) == pytest.approx([0.0])
    worse = Trace('a', one.tokens, (0.5, 0.5), one.answer_tokens,
                  (one.branch_ballots[0], one.branch_ballots[0]))
    # Going on stays at 0.5; the vote rises from 0.5 at 20 to 1 at 40: 5 of 15 + 5.
    assert means(episode_regret_curve([worse], 'p')) == pytest.approx([5 / 20], abs=1e-9)
    # Areas of both together.
    both = episode_regret_curve([one, worse], 'p')
    assert means(both) == pytest.approx([5 / (20 + 22.5)], abs=1e-9)


def test_published_episode_regret_is_a_mean_of_traces():
    def trace(problem, *hits):
        success = tuple(hit / 8 for hit in hits)
        return read_record(make_record(problem, success=success))

    lost = lambda *hits: means(  # noqa: E731
        episode_regret_curve([trace('a', *hits)], 'p', as_published=True)
    )[0]
    traces = [trace('a', 4, 4), trace('a', 4, 0), trace('b', 4, 2), trace('b', 0, 0)]
    curve = episode_regret_curve(traces, 'p', as_published=True)
    # What is always wrong has no share, and does not count.
    assert means(curve) == pytest.approx([(lost(4, 4) + lost(4, 0) + lost(4, 2)) / 3])
    assert curve.x == (6.0,) and curve.marks == (1.0,)
    assert episode_regret_curve([trace('a', 0, 0)], 'p', as_published=True).values == (
        {'mean': None, 'low': None, 'high': None},
    )


def test_episode_regret_needs_votes_and_episodes():
    assert episode_regret_curve([Trace('a', (1.0, 2.0), (0.0, 1.0))], 'p') is None
    assert episode_regret_curve(HAND, 'p', as_published=True) is None
    assert episode_regret_curve(HAND[1:2], 'p') is None
