import dataclasses
import json

import numpy as np
import pytest

from mrt_jax.evaluation.summary import (
    compare_policies,
    curve_grid,
    paired_differences,
    success_curves,
    summarize,
)
from tests.evaluation.synthetic import make_record, make_records

# Two problems with two traces each. Areas under J to 40 tokens:
#   a0: 0 until 10, up to 1 at 20, then 1: 5 + 20 = 25
#   a1: 0.5 reached at 10, flat: 2.5 + 15 = 17.5
#   b0: 0 at 10 and 20: 0
#   b1: 0 until 20, up to 1 at 40 in one episode: 10
HAND = [
    make_record('a', 0, (0.0, 1.0)),
    make_record('a', 1, (0.5, 0.5), extracted='7', response_tokens=30, forced=True),
    make_record('b', 0, (0.0, 0.0), extracted=None, response_tokens=50),
    make_record('b', 1, (0.0, 0.0, 1.0), tokens=(10.0, 20.0, 40.0)),
]


def means(summary):
    return {
        key: value['mean']
        for key, value in summary.items()
        if isinstance(value, dict) and isinstance(value.get('mean'), float)
    }


@pytest.fixture(scope='module')
def summary():
    return summarize(HAND, budgets=[20, 40])


def test_numbers_are_those_computed_by_hand(summary):
    assert summary['num_problems'] == 2 and summary['num_samples'] == 2
    assert summary['branches'] == 8 and summary['budgets'] == [20, 40]
    assert summary['pass_at_1']['mean'] == pytest.approx(0.5)
    assert means(summary['pass_at_k']) == pytest.approx({'1': 0.5, '2': 1.0})
    # One right and one wrong answer tie; a silent sample does not vote.
    assert means(summary['maj_at_k']) == pytest.approx({'1': 0.5, '2': 0.75})
    assert summary['response_tokens']['mean'] == pytest.approx((20 + 30 + 50 + 40) / 4)
    assert summary['tokens_per_correct']['mean'] == pytest.approx((20 + 30 + 50 + 40) / 2)
    assert summary['episodes']['mean'] == pytest.approx(5 / 4)
    assert summary['progress']['mean'] == pytest.approx(0.5)
    assert summary['forced']['mean'] == pytest.approx(0.25)
    regret = 1 - np.array([(5 + 7.5) / 20, (25 + 17.5 + 10) / 40]) / 4
    assert list(means(summary['normalized_regret']).values()) == pytest.approx(regret)


def test_both_estimators_of_regret_and_what_a_trace_costs(summary):
    # Finished: a0 right from 24 on; a1 and b0 wrong; b1 right from 44 on.
    assert means(summary['normalized_regret_finished']) == pytest.approx(
        {'20': 1.0, '40': 1 - (16 / 40) / 4}
    )
    tokens = np.array([20, 20, 20, 40])
    assert summary['sampled_tokens']['mean'] == pytest.approx((tokens - 2).mean())
    assert summary['flops']['mean'] == pytest.approx(1e6 * tokens.mean())
    boundaries = np.array([2, 2, 2, 3]).mean()
    assert summary['prover_tokens']['mean'] == pytest.approx(24 * boundaries)
    assert summary['prover_flops']['mean'] == pytest.approx(2e6 * boundaries)
    assert summary['prover_flops_plain']['mean'] == pytest.approx(8e6 * boundaries)
    older = [dataclasses.replace(record, flops=None) for record in HAND]
    assert 'flops' not in summarize(older, budgets=[20])


def test_votes_of_whole_traces_are_those_of_the_summary(summary):
    whole = summary['accuracy_tokens']['whole traces, maj@k']
    assert whole['accuracy'] == list(summary['maj_at_k'].values())
    assert whole['tokens'] == pytest.approx([25, 50])
    older = [dataclasses.replace(r, branch_answers=(), branch_correct=()) for r in HAND]
    assert list(summarize(older, budgets=[20])['accuracy_tokens']) == ['whole traces, maj@k']


def test_the_area_over_the_success_curve_is_the_regret(summary):
    curve = summary['success_curve']
    assert curve['tokens'][0] == 0 and curve['tokens'][-1] == 40
    area = np.trapezoid(curve['mean'], curve['tokens']) / 40
    assert 1 - area == pytest.approx(summary['normalized_regret']['40']['mean'], abs=2e-4)
    assert all(np.array(curve['low']) <= curve['mean'])
    assert all(np.array(curve['mean']) <= curve['high'])


def test_the_success_curve_starts_at_nothing_and_ends_flat():
    curves = success_curves([make_record(success=(0.5, 1.0))], np.array([0.0, 5, 10, 15, 99]))
    assert curves[0] == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_a_summary_is_strict_json(summary):
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_the_order_of_records_does_not_matter():
    records = make_records(6, 3)
    shuffled = sorted(records, key=lambda record: (record.sample, record.problem))
    assert means(summarize(shuffled, budgets=[30])) == pytest.approx(
        means(summarize(records, budgets=[30]))
    )


def test_differences_of_a_policy_to_itself_are_zero():
    differences = paired_differences([HAND], [HAND[::-1]], budgets=[40])
    for name in ('pass_at_1', 'response_tokens', 'tokens_per_correct'):
        assert differences[name] == pytest.approx({'mean': 0, 'low': 0, 'high': 0})
    assert differences['normalized_regret']['40'] == pytest.approx({'mean': 0, 'low': 0, 'high': 0})


def test_differences_are_other_less_reference():
    before, after = make_records(40, 4, solve=0.1), make_records(40, 4, solve=0.5, seed=1)
    results = {
        'before': (summarize(before, budgets=[30, 70]), [before]),
        'after': (summarize(after, budgets=[30, 70]), [after]),
    }
    summary = compare_policies(results)
    assert summary['policy'] == 'before' and list(summary['differences']) == ['after']
    assert summary['pass_at_1'] == summary['policies']['before']['pass_at_1']
    regret = [summary['policies'][name]['normalized_regret']['70']['mean'] for name in results]
    difference = summary['differences']['after']['normalized_regret']['70']
    assert difference['mean'] == pytest.approx(regret[1] - regret[0])
    assert difference['high'] < 0
    # The second policy has the first one's final J long before.
    efficiency = summary['token_efficiency']['after']['success']
    assert efficiency['ratio']['low'] > 1
    assert efficiency['accuracy']['mean'] == pytest.approx(
        np.mean([record.success[-1] for record in before])
    )


def test_seeds_are_policies_of_their_own():
    # Each policy is always right or always wrong on a problem, and they take turns.
    seeds = [
        [
            make_record(f'p{i}', sample=sample, correct=right, success=(0.0, float(right)))
            for i in range(12) for right in [i % 3 == seed] for sample in range(2)
        ]
        for seed in range(3)
    ]
    summary = summarize(*seeds, budgets=[30])
    assert (summary['num_problems'], summary['num_samples'], summary['num_seeds']) == (12, 2, 3)
    assert list(summary['pass_at_k']) == ['1', '2']
    for votes in (summary['pass_at_k'], summary['maj_at_k']):
        for interval in votes.values():
            assert interval['mean'] == pytest.approx(1 / 3)
    curve = summary['accuracy_tokens']['whole traces, maj@k']
    assert curve['k'] == [1, 2]
    assert [value['mean'] for value in curve['accuracy']] == pytest.approx([1 / 3, 1 / 3])
    shifted = [seeds[0], seeds[0], [dataclasses.replace(r, correct=True) for r in seeds[0]]]
    own = paired_differences([seeds[0]], shifted, budgets=[30])['pass_at_1']
    assert own['mean'] == pytest.approx(2 / 9)
    assert own['low'] == pytest.approx(0, abs=1e-9)  # As if no seed had learned.
    assert summarize(seeds[0], budgets=[30])['num_seeds'] == 1
    with pytest.raises(ValueError, match='24 problems|problems were evaluated with one'):
        summarize(seeds[0], seeds[0][:2], budgets=[30])


def test_what_cannot_be_summarised_is_refused():
    with pytest.raises(ValueError, match='no traces'):
        summarize([], budgets=[1])
    with pytest.raises(ValueError, match='same number'):
        summarize(HAND[:3], budgets=[1])
    with pytest.raises(ValueError, match="'b'"):
        paired_differences([HAND], [HAND[:2]], budgets=[1])
    with pytest.raises(ValueError, match='other budgets'):
        compare_policies(
            {
                'x': (summarize(HAND, budgets=[10]), [HAND]),
                'y': (summarize(HAND, budgets=[20]), [HAND]),
            }
        )


def test_the_grid_ends_at_the_largest_budget():
    assert curve_grid([10, 64])[[0, -1]].tolist() == [0, 64]
