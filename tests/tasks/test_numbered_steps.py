"""Solutions are read back exactly: true steps stand, false ones lead nowhere, jumps go back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.data.backtrack_traces import VARIANTS, BacktrackSettings, Markers, draw_trace
from mrt_jax.data.search_traces import draw_attempt
from mrt_jax.tasks.numbered_steps import attempt_outcome, read_solution

NUMBERS, TARGET = (3, 5, 7, 2), 22
RIGHT = 'Node 1: 7-3=4\nNode 2: 5*4=20\nNode 3: 20+2=22 yes\n'


def outcome(text, numbers=NUMBERS, target=TARGET):
    return attempt_outcome(text, numbers, target, Markers())


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 20), min_size=3, max_size=4).map(tuple), st.integers(0, 2**32),
    st.sampled_from(VARIANTS),
)
def test_written_traces_are_read_as_they_were_meant(numbers, seed, variant):
    rng = np.random.default_rng(seed)
    target = int(draw_attempt(numbers, 60, rng).value)
    trace = draw_trace(
        numbers, target, BacktrackSettings(variant=variant, solve=0.3, cut=0.0), rng
    )
    meant = [state for episode in trace.episodes for state in episode.states]
    kinds = [line.startswith('Error at ') for line in trace.thought.splitlines()]
    lines = list(read_solution(trace.thought, numbers, Markers()))
    for line, state, fault in zip(lines, meant, kinds, strict=True):
        if not fault:
            assert sorted(line.path.lefts[-1]) == list(state.numbers)
            assert len(line.path.lefts) == len(state.steps) + 1
        if line.verdict is not None:
            assert line.verdict == (line.path.result == target)
    text = ''
    for episode in trace.episodes:
        text += episode.text
        jump = episode.lines[-1].startswith('Backtrack to ')
        assert outcome(text, numbers, target) == (None if jump else 'yes' in episode.lines[-1])


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        (RIGHT, True),
        (RIGHT.removesuffix('\n'), True),
        (RIGHT.replace(' yes', ' no'), True),  # whatever the trace says of itself
        (RIGHT.replace(' yes', ''), True),
        ('Node 1: 7-3=4\nNode 2: 5*4=20\nNode 3: 20-2=18 no\n', False),
        ('Node 1: 7-3=4\nNode 2: 5*4=20\n', False),  # not at its end
        ('Node 1: 7-3=4\nNode 2: 5*4=20\nNode 3: 20+2=2', False),
        # Wrong arithmetic, numbers that are not left, wrong labels, more or less than a step.
        (RIGHT.replace('7-3=4', '7-3=5').replace('5*4', '5*5'), False),
        ('Node 1: 7-3=5\nNode 2: 5*4=20\nNode 3: 20+2=22 yes\n', False),
        ('Node 1: 7+3=10\nNode 2: 10+7=17\nNode 3: 17+5=22 yes\n', False),
        (RIGHT.replace('Node 3', 'Node 4'), False),
        (RIGHT.replace('Node 1', 'Node 2'), False),
        ('Node 1: 7-3=4=4\nNode 2: 5*4=20\nNode 3: 20+2=22 yes\n', False),
        ('Node 1: (7-3)*5=20\nNode 2: 20+2=22 yes\n', False),
        ('Node 1: 22=22 yes\n', False),
        ('Node 1: 7/0=1\n', False),
        ('', None),
        ('Error at Node 2\n', None),
        ('Node 1: 7+3=10\nError at Node 1\nBacktrack to beginning\n', None),
        # Jumps restore what they go back to; a false step is forgotten with the rest.
        ('Node 1: 7-3=4\nNode 2: 5+4=9\nNode 3: 9+2=11 no\nError at Node 2\nBacktrack to Node 1\n'
         'Node 2: 5*4=20\nNode 3: 20+2=22 yes\n', True),
        ('Node 1: 7+3=11\nNode 2: 5+11=16\nBacktrack to beginning\n' + RIGHT, True),
        ('Node 1: 7+3=11\nBacktrack to Node 1\nNode 2: 11*2=22 yes\n', False),
        ('Node 1: 7+3=11\n' + RIGHT, True),  # an attempt that begins without a jump
        # A jump to a step that is not there goes nowhere.
        ('Node 1: 7-3=4\nBacktrack to Node 3\nNode 2: 5*4=20\nNode 3: 20+2=22 yes\n', True),
        ('Node 1: 7-3=4\nBacktrack to the moon\nNode 4: 5*4=20\n', False),
    ],
)
def test_outcomes_by_hand(text, expected):
    assert outcome(text) is expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(
    ['Node 1: ', 'Node 2: ', '9' * 30, '3', '5', '+', '/0', '=', ' yes', '\n', '\u2028', 'é',
     'Error at ', 'Backtrack to ', 'Node 1', 'beginning', '٣', '(((']), max_size=40))
def test_no_text_is_an_error(parts):
    outcome(''.join(parts))
