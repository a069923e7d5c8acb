"""The phase machine against a row-by-row reading of its rules in plain Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt_jax.kernels.matcher import build_matcher
from mrt_jax.sampling.phases import (
    Budget,
    Terminals,
    advance_phases,
    choose_tokens,
    start_phases,
)

PIECES = [b'', b'x', b'<', b'/t', b'>', b'end', b'y</t>', b'en', b'd']
EOS = 0
TERMINATION = (2, 3, 4, 1)


def _run_reference(drawn_T, budget, think_end, stop, termination):
    """(tokens, sampled, thought length, forced, stopped) of one row, written as a story."""
    tokens, sampled = [], []
    draws = iter(enumerate(drawn_T))
    thought, forced = 0, False

    def text_since(start):
        return b''.join(PIECES[token] for token in tokens[start:])

    def take(token, is_sampled):
        next(draws)
        tokens.append(token)
        sampled.append(is_sampled)

    def ends(start):
        return tokens[-1] == EOS or any(s.encode() in text_since(start) for s in stop)

    searched_from = 0
    if budget.max_thinking_tokens:
        while True:
            take(int(drawn_T[len(tokens)]), True)
            thought += tokens[-1] != EOS
            if ends(0):
                return tokens, sampled, thought, forced, True
            if think_end is not None and think_end.encode() in text_since(0):
                break
            if len(tokens) == budget.max_thinking_tokens:
                forced = True
                for token in termination:
                    take(token, False)
                searched_from = len(tokens)
                break
    for _ in range(budget.max_answer_tokens):
        take(int(drawn_T[len(tokens)]), True)
        if ends(searched_from):
            return tokens, sampled, thought, forced, True
    return tokens, sampled, thought, forced, False


@pytest.mark.parametrize('max_thinking', [0, 5])
@pytest.mark.parametrize('think_end', [None, '</t>'])
@pytest.mark.parametrize('stop', [(), ('end',)])
def test_rows_follow_the_rules(max_thinking, think_end, stop):
    budget = Budget(max_thinking_tokens=max_thinking, max_answer_tokens=4)
    terminals = Terminals(
        think_end=build_matcher([think_end], PIECES) if think_end else None,
        stop=build_matcher(stop, PIECES) if stop else None,
        eos_ids=(EOS,),
        termination_tokens=TERMINATION,
        pad_id=1,
    )
    rng = np.random.default_rng(max_thinking)
    rows, steps = 200, max_thinking + len(TERMINATION) + 4
    weights = np.asarray([1, 2, 5, 5, 5, 1, 2, 4, 4], float)
    drawn_BT = rng.choice(len(PIECES), (rows, steps), p=weights / weights.sum())
    active_B = np.arange(rows) % 7 != 3

    @jax.jit
    def run(drawn_TB):
        def step(state, drawn_B):
            tokens_B, sampled_B = choose_tokens(state, drawn_B, terminals)
            return advance_phases(state, tokens_B, budget, terminals), (tokens_B, sampled_B)

        return jax.lax.scan(step, start_phases(jnp.asarray(active_B), budget), drawn_TB)

    state, (tokens_TB, sampled_TB) = run(jnp.asarray(drawn_BT.T, jnp.int32))
    assert not state.live_B.any()
    outcomes = set()
    for row in range(rows):
        tokens, sampled, thought, forced, stopped = (
            _run_reference(drawn_BT[row], budget, think_end, stop, TERMINATION)
            if active_B[row]
            else ([], [], 0, False, False)
        )
        length = len(tokens)
        assert state.lengths_B[row] == length
        np.testing.assert_array_equal(tokens_TB[:length, row], tokens)
        np.testing.assert_array_equal(sampled_TB[:length, row], sampled)
        assert (np.asarray(tokens_TB[length:, row]) == terminals.pad_id).all()
        assert not np.asarray(sampled_TB[length:, row]).any()
        assert state.thought_B[row] == thought
        assert (state.forced_B[row], state.stopped_B[row]) == (forced, stopped)
        outcomes.add((forced, stopped))
    assert len(outcomes) >= (4 if max_thinking else 2)


def test_rows_whose_thought_has_no_token_left_are_forced_at_once():
    terminals = Terminals(eos_ids=(EOS,), termination_tokens=TERMINATION, pad_id=1)
    budget = Budget(max_thinking_tokens=5, max_answer_tokens=3)
    active_B, limits_B = np.array([True, True, True, False]), np.array([0, 2, 9, 0], np.int32)
    state = start_phases(jnp.asarray(active_B), budget, jnp.asarray(limits_B))
    forced_B, rows = np.asarray(state.forced_B).tolist(), []
    for _ in range(5 + len(TERMINATION) + 3):
        tokens_B, sampled_B = choose_tokens(state, jnp.full(4, 2, jnp.int32), terminals)
        rows.append((np.asarray(tokens_B), np.asarray(sampled_B)))
        state = advance_phases(state, tokens_B, budget, terminals)
    assert forced_B == [True, False, False, False]
    assert np.asarray(state.thought_B).tolist() == [0, 2, 5, 0]
    assert np.asarray(state.forced_B).tolist() == [True, True, True, False]
    tokens_BT, sampled_BT = (np.stack(x, axis=1) for x in zip(*rows, strict=True))
    for row, thought in enumerate((0, 2, 5)):
        length = thought + len(TERMINATION) + 3
        assert state.lengths_B[row] == length
        text = slice(thought, thought + len(TERMINATION))
        assert tokens_BT[row, text].tolist() == list(TERMINATION)
        assert not sampled_BT[row, text].any()
        assert sampled_BT[row, :length].sum() == thought + 3
    assert not sampled_BT[3].any()


@pytest.mark.parametrize('bad', [(-1, 1), (4, 0)])
def test_bad_budgets_are_refused(bad):
    with pytest.raises(ValueError, match='max_'):
        Budget(*bad)
