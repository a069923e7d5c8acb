"""Search traces say only what is true: arithmetic, numbers used, verdicts, answers."""

import collections
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.data.search_traces import (
    Unsteadiness,
    combine,
    draw_attempt,
    draw_trace,
    find_solutions,
)
from mrt_jax.errors import InputError
from mrt_jax.tasks.expressions import parse

NUMBERS = st.lists(st.integers(1, 20), min_size=3, max_size=4)
STEP = re.compile(r'(\d+)([-+*/])(\d+)=(\d+)')


def follow(steps, numbers):
    """Checks every step against the numbers left; returns the one that remains."""
    left = collections.Counter(numbers)
    for step in steps:
        a, operator, b, value = STEP.fullmatch(step).groups()
        a, b, value = int(a), int(b), int(value)
        assert combine(a, b, operator, 60) == value
        left.subtract([a, b])
        assert min(left.values()) >= 0
        left[value] += 1
    [last] = left.elements()
    return last


@settings(max_examples=100, deadline=None)
@given(NUMBERS, st.integers(0, 2**32))
def test_attempts_are_right_and_their_expressions_mean_them(numbers, seed):
    attempt = draw_attempt(numbers, 60, np.random.default_rng(seed))
    assert follow(attempt.steps, numbers) == attempt.value
    parsed = parse(attempt.expression)
    assert parsed.value == attempt.value
    assert sorted(parsed.numbers) == sorted(numbers)


def test_solutions_are_all_of_them():
    solutions = find_solutions((3, 5, 7), 22, 60)
    assert all(follow(s.steps, (3, 5, 7)) == 22 for s in solutions)
    assert {s.expression for s in solutions} == {'7+3*5', '7+5*3', '3*5+7', '5*3+7'}
    assert find_solutions((1, 1, 1), 50, 60) == []


@settings(max_examples=100, deadline=None)
@given(NUMBERS, st.integers(0, 2**32))
def test_traces_judge_themselves_rightly(numbers, seed):
    rng = np.random.default_rng(seed)
    target = int(draw_attempt(numbers, 60, rng).value)
    solutions = find_solutions(tuple(numbers), target, 60)
    trace = draw_trace(numbers, target, solutions, Unsteadiness(), rng)
    found = False
    for line in trace.thought.splitlines(keepends=True):
        whole = re.fullmatch(r'Try (.*) (yes|no)\n', line)
        if whole is None:
            assert line == trace.thought.splitlines(keepends=True)[-1]
            continue
        reached = follow(whole[1].split(','), numbers) == target
        assert reached == (whole[2] == 'yes')
        found |= reached
    assert found == trace.found
    parsed = parse(trace.answer)
    assert sorted(parsed.numbers) == sorted(numbers)
    assert parsed.value == target or not found


@pytest.mark.parametrize(
    ('rates', 'check'),
    [
        ({'stop': 1.0, 'go_on': 0.0, 'cut': 0.0},
         lambda texts: max(t.count('Try ') for t in texts) == 1),
        ({'go_on': 1.0, 'stop': 0.0, 'cut': 0.0},
         lambda texts: all(t.count('Try ') == 8 for t in texts)),
        ({'repeat': 1.0, 'solve': 0.0, 'stop': 0.0, 'go_on': 1.0, 'cut': 0.0},
         lambda texts: all(len(set(t.splitlines())) == 1 for t in texts)),
        ({'cut': 1.0}, lambda texts: any(not t.endswith('\n') for t in texts)),
    ],
)
def test_every_rate_does_what_it_says(rates, check):
    rng = np.random.default_rng(0)
    solutions = find_solutions((3, 5, 7), 22, 60)
    unsteadiness = Unsteadiness(**rates)
    texts = [draw_trace((3, 5, 7), 22, solutions, unsteadiness, rng).thought for _ in range(40)]
    assert check(texts)


def test_numbers_out_of_reach_are_refused():
    with pytest.raises(InputError, match='max_value=60, and the numbers are 99, 2'):
        draw_attempt((99, 2), 60, np.random.default_rng(0))
