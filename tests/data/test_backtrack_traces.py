"""Backtracking traces say what is true, go back to where they say, and have exact values."""

import collections
import dataclasses
import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.data.backtrack_traces import (
    VARIANTS,
    BacktrackSettings,
    Markers,
    begin,
    draw_row,
    draw_trace,
    next_states,
    success_value,
)
from mrt_jax.data.countdown_puzzles import Puzzle
from mrt_jax.data.search_traces import combine, draw_attempt
from mrt_jax.errors import InputError
from mrt_jax.tasks.expressions import parse

NUMBERS = st.lists(st.integers(1, 20), min_size=3, max_size=4).map(tuple)
LINE = re.compile(r'Node (\d): (\d+)([-+*/])(\d+)=(\d+)( yes| no)?')
JUMPING = [variant for variant in VARIANTS if variant.startswith('backtrack')]


@dataclasses.dataclass
class Attempt:
    """Steps of an attempt, those kept from the one before included, as read from the text."""

    kept: int
    lefts: list[tuple[int, ...]]  # numbers left, the given ones first
    lines: list[str]
    restated: int = 0
    verdict: str = ''


def read(thought, numbers):
    """Reads a whole trace line by line, checking each against the numbers that are left.

    Returns:
        The attempts, and for each jump the faulty step and the step gone back to.
    """
    attempts, jumps = [Attempt(0, [numbers], [])], []
    for line in thought.splitlines():
        if fault := re.fullmatch(r'Error at Node (\d)', line):
            jumps.append([int(fault[1]), None])
            continue
        if jump := re.fullmatch(r'Backtrack to (?:Node (\d)|beginning)', line):
            place = int(jump[1] or 0)
            jumps[-1][1] = place
            last = attempts[-1]
            attempts.append(Attempt(place, last.lefts[: place + 1], last.lines[:place]))
            continue
        step, a, operator, b, value, verdict = LINE.fullmatch(line).groups()
        if step == '1' and attempts[-1].verdict:
            attempts.append(Attempt(0, [numbers], []))
        attempt = attempts[-1]
        if int(step) <= attempt.kept:
            assert line == attempt.lines[attempt.restated]
            attempt.restated += 1
            continue
        assert int(step) == len(attempt.lefts) and not attempt.verdict
        assert combine(int(a), int(b), operator, 60) == int(value)
        left = collections.Counter(attempt.lefts[-1])
        left.subtract([int(a), int(b)])
        assert min(left.values()) >= 0
        left[int(value)] += 1
        attempt.lefts.append(tuple(left.elements()))
        attempt.lines.append(line)
        assert bool(verdict) == (len(attempt.lefts[-1]) == 1)
        attempt.verdict = verdict or ''
    return attempts, jumps


def success_by_enumeration(numbers, target):
    """Success rate of random completions, by following every one of them with its chance."""
    if len(numbers) == 1:
        return float(numbers[0] == target)
    steps = []
    for i, j in itertools.permutations(range(len(numbers)), 2):
        rest = [number for k, number in enumerate(numbers) if k not in (i, j)]
        steps += [
            [*rest, value] for operator in '+-*/'
            if (value := combine(numbers[i], numbers[j], operator, 60)) is not None
        ]
    return sum(success_by_enumeration(step, target) for step in steps) / len(steps)


def value_of(left, target):
    return success_by_enumeration(list(left), target)


def draw(numbers, seed, **rates):
    rng = np.random.default_rng(seed)
    target = int(draw_attempt(numbers, 60, rng).value)
    wanted = BacktrackSettings(**rates)
    return target, draw_trace(numbers, target, wanted, rng)


@settings(max_examples=150, deadline=None)
@given(NUMBERS, st.integers(0, 2**32), st.sampled_from(VARIANTS), st.booleans())
def test_every_line_is_true(numbers, seed, variant, restate):
    target, trace = draw(numbers, seed, variant=variant, restate=restate, cut=0.0, solve=0.3)
    attempts, jumps = read(trace.thought, numbers)
    assert all(a.restated == (a.kept if restate else 0) for a in attempts)
    verdicts = [attempt.verdict for attempt in attempts]
    assert verdicts == [' no'] * (len(attempts) - 1) + [' yes']
    assert [a.lefts[-1] == (target,) for a in attempts] == [v == ' yes' for v in verdicts]
    answer = parse(trace.answer)
    assert answer.value == target and sorted(answer.numbers) == sorted(numbers)
    assert bool(jumps) == (variant in JUMPING and len(attempts) > 1)
    assert variant != 'direct' or len(attempts) == 1
    assert ''.join(episode.text for episode in trace.episodes) == trace.thought
    assert len(trace.episodes) == len(attempts) + len(jumps)


@settings(max_examples=80, deadline=None)
@given(NUMBERS, st.integers(0, 2**32))
def test_jumps_go_to_the_shared_step_of_highest_value(numbers, seed):
    target, trace = draw(
        numbers, seed, variant='backtrack_with_shared_prefix', cut=0.0, stray=0.0, solve=0.2
    )
    attempts, jumps = read(trace.thought, numbers)
    for before, after, (faulty, place) in zip(attempts, attempts[1:], jumps, strict=False):
        assert faulty == place + 1 and after.kept == place
        assert before.lefts[: place + 1] == after.lefts[: place + 1]
        values = [value_of(left, target) for left in before.lefts[:-1]]
        assert max(values) == pytest.approx(values[place]) and values[place] > 0
        assert all(value < values[place] for value in values[place + 1 :])
        # The faulty step is not taken again: what it left is never left again at once.
        assert sorted(after.lefts[faulty]) != sorted(before.lefts[faulty])


@settings(max_examples=50, deadline=None)
@given(NUMBERS, st.integers(0, 2**32))
def test_without_a_shared_prefix_attempts_begin_anew_and_otherwise(numbers, seed):
    target, trace = draw(
        numbers, seed, variant='backtrack_without_shared_prefix', cut=0.0, solve=0.2
    )
    attempts, jumps = read(trace.thought, numbers)
    assert all(jump == [1, 0] for jump in jumps)
    firsts = [sorted(attempt.lefts[1]) for attempt in attempts]
    others = [
        sorted(state.numbers) for state in next_states(begin(numbers, 60), 60)
        if success_value(state, target, 60) > 0
    ]
    for before, after in itertools.pairwise(firsts):
        assert before != after or all(other == before for other in others)


@settings(max_examples=60, deadline=None)
@given(NUMBERS, st.integers(1, 60))
def test_values_are_those_of_enumeration(numbers, target):
    state = begin(numbers, 60)
    value = success_value(state, target, 60)
    assert 0 <= value <= 1
    assert value == pytest.approx(value_of(numbers, target), abs=1e-12)
    children = next_states(state, 60)
    assert value == pytest.approx(np.mean([success_value(c, target, 60) for c in children]))


@pytest.mark.parametrize(
    ('numbers', 'target', 'value'),
    [
        ((7,), 7, 1), ((7,), 8, 0),
        # 2+3, 3+2, 3-2, 2*3, 3*2: two of five steps.
        ((2, 3), 5, 2 / 5), ((2, 3), 1, 1 / 5), ((2, 3), 4, 0),
        # 5+5, 5*5 and 5/5, in both orders.
        ((5, 5), 1, 2 / 6),
        # Of the first steps 1+1, 1*1 and 1/1, in both orders and each of three pairs, a third
        # leaves 1 and 2 and the rest 1 and 1; 3 is then 1+2 or 2+1 of six (2-1, 1*2, 2*1, 2/1).
        ((1, 1, 1), 3, (1 / 3) * (2 / 6)),
    ],
)
def test_values_by_hand(numbers, target, value):
    assert success_value(begin(numbers, 60), target, 60) == pytest.approx(value, abs=1e-12)


def test_a_cut_trace_is_a_beginning_and_answers_at_the_rate_of_its_step():
    """The answer behind a cut succeeds as often as random completions of where the trace stands."""
    numbers, target = (3, 5, 7), 22
    wanted = BacktrackSettings(cut=1.0, solve=0.3)
    rng = np.random.default_rng(0)
    hits, expected = [], []
    for _ in range(1500):
        trace = draw_trace(numbers, target, wanted, rng)
        text = ''.join(episode.text for episode in trace.episodes)
        assert text.startswith(trace.thought) and trace.thought != text
        whole = trace.thought[: trace.thought.rfind('\n') + 1]
        last = read(whole, numbers)[0][-1]
        # While kept steps are written again, the trace stands at the last of them.
        step = last.restated if 0 < last.restated < last.kept else -1
        left = numbers if last.verdict else last.lefts[step]
        hits.append(parse(trace.answer).value == target)
        expected.append(value_of(left, target))
    error = np.sqrt(np.sum(np.multiply(expected, np.subtract(1, expected)))) / len(hits)
    assert 0 < np.mean(expected) < 1 and abs(np.mean(hits) - np.mean(expected)) < 4 * error


def test_right_attempts_are_drawn_as_random_completions_that_succeed():
    numbers, target = (2, 3, 4), 24
    rng = np.random.default_rng(0)
    wanted = BacktrackSettings(variant='direct', cut=0.0)
    found = collections.Counter(
        draw_trace(numbers, target, wanted, rng).thought for _ in range(3000)
    )
    state = begin(numbers, 60)
    chances = {}
    for first in next_states(state, 60):
        for second in next_states(first, 60):
            if second.numbers == (target,):
                text = f'Node 1: {first.steps[0]}\nNode 2: {second.steps[1]} yes\n'
                chance = 1 / len(next_states(state, 60)) / len(next_states(first, 60))
                chances[text] = chances.get(text, 0) + chance
    assert found.keys() == chances.keys()
    total = sum(chances.values())
    for text, chance in chances.items():
        share = chance / total
        assert abs(found[text] / 3000 - share) < 4.5 * np.sqrt(share * (1 - share) / 3000)


def share_that_begins_right(variant):
    """Of first attempts that are wrong, those whose first step can still be made good."""
    numbers, target = (3, 5, 7, 2), 24
    rng = np.random.default_rng(0)
    wanted = BacktrackSettings(variant=variant, solve=0.0, max_wrong=1, cut=0.0)
    firsts = [draw_trace(numbers, target, wanted, rng).episodes[0].states[0] for _ in range(400)]
    return np.mean([success_value(first, target, 60) for first in firsts])


def test_rise_stitches_random_failures_and_the_others_near_misses():
    random = share_that_begins_right('rise')
    assert share_that_begins_right('backtrack_with_shared_prefix') > 1.3 * random
    assert share_that_begins_right('resample_from_beginning') > 1.3 * random


@pytest.mark.parametrize(
    ('rates', 'check'),
    [
        ({'solve': 1.0}, lambda texts: all(text.count(' no') == 0 for text in texts)),
        # Fewer where every other step than the faulty one leads to the target.
        ({'solve': 0.0, 'max_wrong': 2},
         lambda texts: max(t.count(' no') for t in texts) == 2
         and np.mean([t.count(' no') for t in texts]) > 1.6),
        ({'solve': 0.0, 'max_wrong': 0}, lambda texts: all(t.count(' no') == 0 for t in texts)),
        ({'solve': 0.0, 'stray': 1.0, 'max_wrong': 4},
         lambda texts: len({t.count('beginning') for t in texts}) > 1),
    ],
)
def test_every_rate_does_what_it_says(rates, check):
    rng = np.random.default_rng(1)
    wanted = BacktrackSettings(cut=0.0, **rates)
    assert check([draw_trace((3, 5, 7, 2), 22, wanted, rng).thought for _ in range(40)])


def test_rows_follow_from_seed_and_index_and_carry_their_prefix():
    puzzles = [Puzzle((3, 5, 7), 22), Puzzle((2, 3, 4, 9), 24)]
    wanted = BacktrackSettings(solve=0.5, cut=1.0)
    rows = [draw_row(puzzles, wanted, seed=3, index=index) for index in range(60)]
    assert rows[41] == draw_row(puzzles, wanted, seed=3, index=41)
    assert rows[41] != draw_row(puzzles, wanted, seed=4, index=41)
    jumped = 0
    for index, row in enumerate(rows):
        puzzle = puzzles[index % 2]
        attempts, jumps = read(row.trace.thought, puzzle.numbers)  # never cut
        assert row.trace.thought.startswith(row.prefix) and row.prefix.endswith(row.trained)
        assert bool(jumps) == bool(row.prefix) == bool(row.trained)
        assert row.success == pytest.approx(
            value_of(attempts[1].lefts[jumps[0][1]], puzzle.target) if jumps else 0
        )
        assert row.trained.count('\n') == (2 if jumps else 0)
        jumped += bool(jumps)
    assert 10 < jumped < 50
    rise = dataclasses.replace(wanted, variant='rise', solve=0.0)
    assert draw_row(puzzles, rise, seed=0, index=0).prefix == ''


def test_the_last_attempt_is_a_whole_context_if_it_writes_what_it_keeps_again():
    puzzles = [Puzzle((3, 5, 7, 2), 22)]
    for index in range(40):
        row = draw_row(puzzles, BacktrackSettings(solve=0.2), seed=0, index=index)
        last = row.trace.episodes[-1].text
        [attempt], jumps = read(last, (3, 5, 7, 2))
        assert attempt.lefts[-1] == (22,) and attempt.verdict == ' yes' and not jumps


def test_other_words():
    words = Markers(node='Step ', fault='Wrong: ', jump='Return to ', beginning='the start')
    wanted = BacktrackSettings(solve=0.0, max_wrong=3, cut=0.0)
    trace = draw_trace((3, 5, 7, 2), 22, wanted, np.random.default_rng(0), words)
    plain = draw_trace((3, 5, 7, 2), 22, wanted, np.random.default_rng(0))
    assert trace.thought != plain.thought
    said = trace.thought.replace('Return to the start', 'Backtrack to beginning')
    said = said.replace('Step ', 'Node ').replace('Wrong: ', 'Error at ')
    assert said.replace('Return to ', 'Backtrack to ') == plain.thought


@pytest.mark.parametrize(
    ('make', 'said'),
    [
        (lambda: BacktrackSettings(variant='zigzag'), 'zigzag'),
        (lambda: BacktrackSettings(solve=1.5), 'solve=1.5'),
        (lambda: BacktrackSettings(max_wrong=-1), 'max_wrong=-1'),
        (lambda: BacktrackSettings(restate='no'), 'restate='),  # type: ignore
        (lambda: BacktrackSettings(trained='answer'), 'trained=.answer.'),
        (lambda: Markers(jump=''), 'jump'),
        (lambda: Markers(fault='a\nb'), 'fault'),
        (lambda: Markers(node=3), 'node'),
        (lambda: Markers(fault='Back', jump='Backtrack to '), 'hold one another'),
        (lambda: begin((99, 2), 60), 'max_value=60, and the numbers are 99, 2'),
        (lambda: draw((1, 1, 1), 0, max_value=1) and draw_trace(
            (1, 1, 1), 50, BacktrackSettings(), np.random.default_rng(0)), 'no solution'),
    ],
)
def test_what_cannot_be_is_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()
