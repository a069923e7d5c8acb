"""Chains added up in attempts: right without slips, and as unsteady as asked."""

import re

import numpy as np
import pytest

from mrt_jax.data.sum_traces import SumUnsteadiness, draw_sum_trace
from mrt_jax.errors import InputError

TERMS = (12, -34, 5, 70)


def draw(count=200, **rates):
    rng = np.random.default_rng(0)
    return [draw_sum_trace(TERMS, SumUnsteadiness(**rates), rng) for _ in range(count)]


def test_without_slips_every_step_is_right():
    thought, answer = draw(1, slip=0.0, stop=1.0)[0]
    assert thought == 'Try 12-34=-22,-22+5=-17,-17+70=53\n' and answer == 53


def test_slips_come_at_their_rate_and_totals_go_on_from_them():
    steps = slipped = 0
    for thought, _ in draw(slip=0.2):
        for line in thought.splitlines():
            total = None
            for before, term, after in re.findall(r'(-?\d+)([+-]\d+)=(-?\d+)', line):
                assert total in (None, before)
                slipped += int(before) + int(term) != int(after)
                steps, total = steps + 1, after
    assert abs(slipped / steps - 0.2) < 0.03


def test_the_answer_is_the_total_of_most_attempts():
    for thought, answer in draw(slip=0.3, max_attempts=5):
        totals = [int(line.rpartition('=')[2]) for line in thought.splitlines()]
        assert totals.count(answer) == max(map(totals.count, totals))


def test_attempts_stop_and_go_on_as_asked():
    assert all(thought.count('Try') == 1 for thought, _ in draw(stop=1.0))
    assert all(thought.count('Try') == 4 for thought, _ in draw(stop=0.0, go_on=1.0))
    assert all(thought.count('Try') == 2 for thought, _ in draw(slip=0.0, stop=0.0, go_on=0.0))


@pytest.mark.parametrize('rates', [{'slip': 1.5}, {'stop': -0.1}, {'max_attempts': 0}])
def test_impossible_rates_are_refused(rates):
    with pytest.raises(InputError, match=next(iter(rates))):
        SumUnsteadiness(**rates)
