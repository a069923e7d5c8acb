import json

import numpy as np
import pytest

from mrt_jax.evaluation.efficiency import (
    efficiency_numbers,
    read_efficiencies,
    token_efficiency,
    tokens_to_reach,
)
from mrt_jax.evaluation.votes import RIGHT, Trace, read_record
from tests.evaluation.synthetic import make_records


def test_the_first_crossing_counts():
    x_RK = np.tile([10.0, 20.0, 30.0], (6, 1))
    y_RK = np.array(
        [[0, 0.5, 1], [0.5, 0.2, 1], [0, 1, 0], [0, 0.1, 0.2], [0.4, 0.4, 0.4], [0, 0, 0.4]]
    )
    target_R = np.array([0.25, 0.5, 0.5, 0.3, 0.4, 0.4])
    found = tokens_to_reach(x_RK, y_RK, target_R)
    assert found.tolist() == [15, 10, 15, np.inf, 10, 30]


@pytest.fixture(scope='module')
def traces():
    return [read_record(record) for record in make_records(30, 4, solve=0.3)]


def cheaper(traces, factor):
    """The same traces at a fraction of the tokens."""
    return [
        Trace(
            t.problem, tuple(x / factor for x in t.tokens), t.success, t.answer_tokens,
            t.branch_ballots, t.own_ballot,
        )
        for t in traces
    ]


def test_a_policy_is_as_efficient_as_itself(traces):
    found = token_efficiency({'base': traces, 'same': traces[::-1]}, baseline='base')['same']
    assert set(found) == {'maj_at_k', 'success'}
    assert found['success'].ratio == pytest.approx({'mean': 1, 'low': 1, 'high': 1})
    for one in found.values():
        assert one.ratio['mean'] == pytest.approx(1)
        assert one.tokens['mean'] == pytest.approx(one.baseline_tokens['mean'])
        assert one.not_reached == one.undefined == 0


def test_half_the_tokens_twice_the_efficiency(traces):
    found = token_efficiency({'half': cheaper(traces, 2), 'base': traces}, baseline='base')['half']
    assert found['maj_at_k'].ratio['mean'] == pytest.approx(2)
    # The grid of the success curves is that of the longer traces.
    assert found['success'].ratio['mean'] == pytest.approx(2, rel=0.01)
    assert found['success'].ratio['low'] > 1.9


def test_by_hand():
    """maj@k of two traces a problem: the baseline 0.5 at 20 tokens, the policy from 0.25 to 1."""
    base = [Trace(p, (10.0,), (0.5,), own_ballot=(v,)) for p, v in
            [('a', RIGHT), ('a', '=0'), ('b', '=0'), ('b', RIGHT)]]
    policy = [Trace(p, (4.0,), (0.5,), own_ballot=(v,)) for p, v in
              [('a', RIGHT), ('a', None), ('b', None), ('b', None)]]
    both = {'base': base, 'policy': policy}
    found = token_efficiency(both, baseline='base')['policy']['maj_at_k']
    # The policy: 0.25 at 4, 0.5 at 8 tokens. The baseline spends 2 x 10.
    assert found.tokens['mean'] == pytest.approx(8)
    assert found.baseline_tokens['mean'] == pytest.approx(20)
    assert found.accuracy['mean'] == pytest.approx(0.5)
    assert found.ratio['mean'] == pytest.approx(2.5)
    # A resample of problem b alone never gets there, one of a alone does at once.
    assert found.not_reached == pytest.approx(0.25, abs=0.03)
    assert found.ratio['low'] == 0 and found.ratio['high'] == pytest.approx(5)
    assert found.from_start == pytest.approx(0.25, abs=0.03)


def test_what_is_never_reached_has_no_ratio(traces):
    worse = [
        Trace(t.problem, t.tokens, (0.0,) * len(t.success), own_ballot=('=0',)) for t in traces
    ]
    policies = {'base': traces, 'never': worse}
    for one in token_efficiency(policies, baseline='base')['never'].values():
        assert one.ratio == {'mean': None, 'low': 0, 'high': 0}
        assert one.tokens == {'mean': None, 'low': None, 'high': None}
        assert one.not_reached == 1 and one.undefined == 0
    for one in token_efficiency(policies, baseline='never')['base'].values():
        assert one.ratio == {'mean': None, 'low': None, 'high': None}
        assert one.undefined == 1 and one.not_reached == one.from_start == 0


def test_without_answers_only_success_is_compared(traces):
    bare = [Trace(t.problem, t.tokens, t.success) for t in traces]
    assert set(token_efficiency({'a': traces, 'b': bare}, baseline='a')['b']) == {'success'}


def test_numbers_survive_json(traces):
    found = token_efficiency({'a': traces, 'b': cheaper(traces, 3)}, baseline='a')
    numbers = json.loads(json.dumps(efficiency_numbers(found), allow_nan=False))
    assert read_efficiencies(numbers) == found


def test_other_problems_are_refused(traces):
    fewer = [trace for trace in traces if trace.problem != 'p0']
    with pytest.raises(ValueError, match='b has traces of other problems than a'):
        token_efficiency({'a': traces, 'b': fewer}, baseline='a')
