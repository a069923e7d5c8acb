"""What a row is doing while it decodes: thinking, being forced to conclude, answering, ended.

| phase | on | next |
| --- | --- | --- |
| THINKING | end marker | ANSWERING |
| THINKING | thinking budget spent | FORCING |
| FORCING | termination text fed | ANSWERING |
| ANSWERING | answer budget spent | ENDED |
| THINKING, ANSWERING | end-of-sequence token or stop string | ENDED |

Forcing a thought to end when its budget is spent is the budget forcing of s1 (arXiv 2501.19393)
and the forced termination of the meta-prover (arXiv 2503.07572, section 3).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from mrt_jax.kernels.matcher import StringMatcher

THINKING, FORCING, ANSWERING, ENDED = range(4)


@dataclass(frozen=True)
class Budget:
    """Most tokens that a row may sample. Hashable: a static argument of the samplers.

    Attributes:
        max_thinking_tokens: tokens of the thought, the marker that ends it included; 0 starts rows
            in the answer, which is plain generation.
        max_answer_tokens: tokens after the end of the thought, the end-of-sequence token included.
    """

    max_thinking_tokens: int
    max_answer_tokens: int

    def __post_init__(self) -> None:
        if self.max_thinking_tokens < 0:
            raise ValueError(f'max_thinking_tokens must be >= 0, got {self.max_thinking_tokens}')
        if self.max_answer_tokens < 1:
            raise ValueError(f'max_answer_tokens must be >= 1, got {self.max_answer_tokens}')


@struct.dataclass
class Terminals:
    """What ends a thought and a row.

    Attributes:
        think_end: marker that ends a thought; None if only the budget does.
        stop: strings that end a row, looked for in sampled text; None for none.
        eos_ids: tokens that end a row.
        termination_tokens: text forced on a thought that has spent its budget.
        pad_id: token written after a row's end.
    """

    think_end: StringMatcher | None = None
    stop: StringMatcher | None = None
    eos_ids: tuple[int, ...] = struct.field(pytree_node=False, default=())
    termination_tokens: tuple[int, ...] = struct.field(pytree_node=False, default=())
    pad_id: int = struct.field(pytree_node=False, default=0)


@struct.dataclass
class RowPhases:
    """Progress of every row through its phases.

    Attributes:
        phase_B: int32, THINKING, FORCING, ANSWERING or ENDED.
        spent_B: int32, tokens in the current phase, or of its budget what a row never had.
        think_state_B, stop_state_B: int32, states of the matchers.
        lengths_B: int32, response tokens so far.
        thought_B: int32, tokens of the thought so far, its marker included; an end-of-sequence
            token inside the thought is not counted.
        forced_B: bool, the thought's budget was spent.
        stopped_B: bool, the row ended by itself rather than by its budget.
    """

    phase_B: jax.Array
    spent_B: jax.Array
    think_state_B: jax.Array
    stop_state_B: jax.Array
    lengths_B: jax.Array
    thought_B: jax.Array
    forced_B: jax.Array
    stopped_B: jax.Array

    @property
    def live_B(self) -> jax.Array:
        """bool[B], the row goes on."""
        return self.phase_B != ENDED


def start_phases(
    active_B: jax.Array, budget: Budget, limits_B: jax.Array | None = None
) -> RowPhases:
    """Rows before their first token.

    Args:
        active_B: bool; the others have ended already, with length 0.
        budget: of all rows.
        limits_B: int32, most tokens of each row's first phase where it is less than the budget of
            that phase: of the thought, or of the answer if there is no thought. None: no less. A
            thought of 0 tokens is forced to end at once; an answer has at least 1.
    """
    first = THINKING if budget.max_thinking_tokens else ANSWERING
    most = budget.max_thinking_tokens or budget.max_answer_tokens
    zeros_B, forced_B = jnp.zeros_like(active_B, jnp.int32), jnp.zeros_like(active_B)
    spent_B = zeros_B if limits_B is None else jnp.clip(most - limits_B, 0, most - 1)
    if limits_B is not None and first == THINKING:
        forced_B = active_B & (limits_B == 0)
        spent_B = jnp.where(forced_B, 0, spent_B)
    phase_B = jnp.where(forced_B, FORCING, first)
    return RowPhases(
        phase_B=jnp.where(active_B, phase_B, ENDED).astype(jnp.int32),
        spent_B=spent_B,
        think_state_B=zeros_B,
        stop_state_B=zeros_B,
        lengths_B=zeros_B,
        thought_B=zeros_B,
        forced_B=forced_B,
        stopped_B=jnp.zeros_like(active_B),
    )


def choose_tokens(
    rows: RowPhases, drawn_B: jax.Array, terminals: Terminals
) -> tuple[jax.Array, jax.Array]:
    """Replaces the drawn token where the phase dictates another.

    Returns:
        tokens_B: int32, the drawn token, the next one of the termination text, or padding.
        sampled_B: bool, whether it is the drawn one.
    """
    tokens_B = jnp.where(rows.live_B, drawn_B, terminals.pad_id)
    forcing_B = rows.phase_B == FORCING
    if terminals.termination_tokens:
        text = jnp.asarray(terminals.termination_tokens, jnp.int32)
        tokens_B = jnp.where(forcing_B, text.at[rows.spent_B].get(mode='clip'), tokens_B)
    return tokens_B, rows.live_B & ~forcing_B


def advance_phases(
    rows: RowPhases, tokens_B: jax.Array, budget: Budget, terminals: Terminals
) -> RowPhases:
    """Rows after one more token each; ended rows stay as they are."""
    live_B = rows.live_B
    thinking_B = rows.phase_B == THINKING
    forcing_B = rows.phase_B == FORCING
    answering_B = rows.phase_B == ANSWERING
    spent_B = rows.spent_B + live_B

    eos_B = jnp.isin(tokens_B, jnp.asarray(terminals.eos_ids, jnp.int32)) & live_B & ~forcing_B
    stop_state_B, stop_B = _follow(terminals.stop, rows.stop_state_B, tokens_B, live_B & ~forcing_B)
    think_state_B, closed_B = _follow(
        terminals.think_end, rows.think_state_B, tokens_B, thinking_B & ~eos_B
    )
    stopped_B = eos_B | stop_B
    closed_B &= ~stopped_B
    forced_B = thinking_B & ~stopped_B & ~closed_B & (spent_B >= budget.max_thinking_tokens)
    concluded_B = forcing_B & (spent_B >= len(terminals.termination_tokens))
    cut_B = answering_B & (spent_B >= budget.max_answer_tokens)

    phase_B = jnp.where(closed_B | concluded_B, ANSWERING, rows.phase_B)
    phase_B = jnp.where(forced_B, FORCING, phase_B)
    phase_B = jnp.where(stopped_B | cut_B, ENDED, phase_B)
    return RowPhases(
        phase_B=phase_B,
        spent_B=jnp.where(phase_B == rows.phase_B, spent_B, 0),
        think_state_B=think_state_B,
        stop_state_B=stop_state_B,
        lengths_B=rows.lengths_B + live_B,
        thought_B=rows.thought_B + (thinking_B & ~eos_B),
        forced_B=rows.forced_B | forced_B,
        stopped_B=rows.stopped_B | stopped_B,
    )


def _follow(
    matcher: StringMatcher | None, states_B: jax.Array, tokens_B: jax.Array, reading_B: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """State of a matcher after a token and whether it has just matched; others start over."""
    if matcher is None:
        return states_B, jnp.zeros_like(reading_B)
    states_B = jnp.where(reading_B, matcher.advance(states_B, tokens_B), matcher.start)
    return states_B, matcher.matched(states_B)
