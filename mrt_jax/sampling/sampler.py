"""Rollouts: prefill and decode in one jitted program over key-value caches.

Prompts are padded on the left, so that token t of every row's response goes to the same cache slot
and a step writes the cache with one slice update. Rows of a group keep their prompt in one cache,
which they attend to together. The loop stops when every row has ended. All randomness of a row
comes from its own key, so its sample does not depend on its neighbours.

`begin` and all that follows it are its parts, see `sampling.dispatches`.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from mrt_jax.models.cache import (
    KEY_BLOCK,
    Context,
    KVCache,
    Room,
    as_cache,
    empty_cache,
    join_keys,
    split_keys,
)
from mrt_jax.models.transformer import Transformer, decoder_of, for_decoding
from mrt_jax.sampling.forward import append_tokens, next_logits, read_tokens
from mrt_jax.sampling.phases import (
    Budget,
    RowPhases,
    Terminals,
    advance_phases,
    choose_tokens,
    start_phases,
)
from mrt_jax.sampling.processors import SamplingConfig, sample_tokens
from mrt_jax.sampling.row_keys import draw_uniforms
from mrt_jax.sharding.rules import shards_in_use


@struct.dataclass
class PromptBatch:
    """Prompts of a batch.

    Attributes:
        tokens_BP: int32, padded on the left.
        lengths_B: int32; a row of length 0 fills up a batch and is not decoded.
        limits_B: int32, budgets of single rows, see `start_phases`; None for the budget of all.
    """

    tokens_BP: jax.Array
    lengths_B: jax.Array
    limits_B: jax.Array | None = None


@struct.dataclass
class Rollout:
    """Responses with what training and the meta-prover need of them.

    Attributes:
        prompt_tokens_BP: int32, padded on the left.
        prompt_lengths_B: int32.
        tokens_BT: int32, the response, its end-of-sequence token included; padded after its end.
        logprobs_BT: float32, natural log-probability, see `sample_tokens`; 0 where not sampled.
        sampled_BT: bool, drawn from the policy: neither forced text nor padding.
        lengths_B: int32, response tokens.
        thought_closed_B: int32, tokens of the thought: up to and including the token that completes
            its end marker, or up to where the forced text begins, or, in rows that ended inside
            their thought, all but the end-of-sequence token.
        forced_B: bool, the thinking budget was spent and the termination text forced.
        ended_B: bool, the row ended by itself rather than cut by its budget.
        caches: keys and values of all prompt and response tokens, rows as in `cache.Context`: in
            one cache, or in one of the prompts, each read and kept once for neighbours that share
            it, and one of the responses. () once nobody reads them any more.
    """

    prompt_tokens_BP: jax.Array
    prompt_lengths_B: jax.Array
    tokens_BT: jax.Array
    logprobs_BT: jax.Array
    sampled_BT: jax.Array
    lengths_B: jax.Array
    thought_closed_B: jax.Array
    forced_B: jax.Array
    ended_B: jax.Array
    caches: tuple[KVCache, ...]


@struct.dataclass
class Seen:
    """Rows as they are in the middle of decoding, for the host; the same on all devices.

    Attributes:
        tokens_BT: int32, as in `Rollout`.
        lengths_B: int32, response tokens so far.
        live_B: bool, the row goes on or has yet to begin.
    """

    tokens_BT: jax.Array
    lengths_B: jax.Array
    live_B: jax.Array


@struct.dataclass
class Given:
    """What the decode loop reads and leaves as it is.

    Attributes:
        params: see `for_decoding`.
        prompts: of all rows.
        uniforms_BT: the random number behind each token.
        terminals: what ends thoughts and rows.
        shared: the prompts' cache where rows share it, see `rows_sharing`; else none.
    """

    params: Any
    prompts: PromptBatch
    uniforms_BT: jax.Array
    terminals: Terminals
    shared: tuple[KVCache, ...]

    @property
    def before(self) -> int:
        """Slots before the first response token's in the rows' own cache."""
        return 0 if self.shared else self.prompts.tokens_BP.shape[1]

    @property
    def steps(self) -> int:
        """T, the most tokens of a response."""
        return self.uniforms_BT.shape[1]


@struct.dataclass
class Decode:
    """Carry of the decode loop.

    Attributes:
        step: int32, steps since the start.
        hidden_BD: of the last token fed.
        rows: what each is doing.
        tokens_BT, logprobs_BT, sampled_BT: as in `Rollout`.
        cache: of the rows, with or without their prompts, see `Given.shared`.
    """

    step: jax.Array
    hidden_BD: jax.Array
    rows: RowPhases
    tokens_BT: jax.Array
    logprobs_BT: jax.Array
    sampled_BT: jax.Array
    cache: KVCache


def encode_prompts(prompts: Sequence[Sequence[int]], slots: int, pad_id: int = 0) -> PromptBatch:
    """Pads token lists on the left to a common number of slots.

    Raises:
        ValueError: a prompt is longer than `slots`; prompts are never cut.
    """
    tokens_BP = np.full((len(prompts), slots), pad_id, np.int32)
    for row, prompt in enumerate(prompts):
        if len(prompt) > slots:
            raise ValueError(
                f'prompt {row} has {len(prompt)} tokens and the batch {slots} prompt slots: '
                'give more slots or a shorter prompt'
            )
        if len(prompt):
            tokens_BP[row, slots - len(prompt) :] = prompt
    lengths_B = np.asarray([len(prompt) for prompt in prompts], np.int32)
    return PromptBatch(tokens_BP=jnp.asarray(tokens_BP), lengths_B=jnp.asarray(lengths_B))


def response_slots(budget: Budget, terminals: Terminals) -> int:
    """T: the most tokens that a response can have, forced text included.

    Raises:
        ValueError: a thinking budget without termination tokens, which no thought could leave.
    """
    if not budget.max_thinking_tokens:
        return budget.max_answer_tokens
    if not terminals.termination_tokens:
        raise ValueError(
            'a thinking budget needs termination_tokens to force on a thought that has spent it'
        )
    forced = len(terminals.termination_tokens)
    return budget.max_thinking_tokens + forced + budget.max_answer_tokens


def prompt_positions(lengths_B: jax.Array, slots: int) -> jax.Array:
    """Positions of left-padded prompts: int32[B, P], -1 on padding."""
    return jnp.maximum(jnp.arange(slots) - (slots - lengths_B[:, None]), -1).astype(jnp.int32)


def _prefill(
    model: Transformer, params: Any, prompts: PromptBatch, group_size: int = 1, sharing: int = 1
) -> tuple[jax.Array, KVCache]:
    """Hidden states of the last prompt tokens [B, D] and a cache that holds just the prompts.

    Each is read once for its group, and kept once for `sharing` rows of it.
    """
    slots = prompts.tokens_BP.shape[1]
    positions_BP = prompt_positions(prompts.lengths_B, slots)
    hidden_YPD, prompt_kv = read_tokens(
        model, params, prompts.tokens_BP[::group_size], positions_BP[::group_size]
    )
    hidden_BD = jnp.repeat(hidden_YPD[:, -1], group_size, axis=0)
    prompt_kv = jax.tree.map(lambda x: jnp.repeat(x, group_size // sharing, axis=0), prompt_kv)
    return hidden_BD, as_cache(prompt_kv, positions_BP[::sharing], model.stored_dtype)


def rows_sharing(rows: int, group_size: int) -> int:
    """Rows that keep their common prompt together: those of a group, as far as a shard has them."""
    return math.gcd(group_size, rows // shards_in_use(rows))


def _fill_cache(model: Transformer, params: Any, sequences: PromptBatch) -> KVCache:
    """Cache of sequences that are already known, such as recorded traces behind their prompts.

    Its slot p has column p.
    """
    return _prefill(model, params, sequences)[1]


def empty_room(decoder: Transformer, rows: int, slots: int) -> KVCache:
    """An empty cache as the decoder of `for_decoding` keeps it while it decodes rollouts."""
    cache = empty_cache(decoder.config, rows, slots, decoder.stored_dtype)
    return split_keys(cache) if decoder.columns else cache


def stage_ends(slots: int, steps: int) -> list[int]:
    """Steps at which the decode loop stops to let the cache grow behind the slots that it has.

    Three stages read two thirds of what one would, two three quarters; each compiles its own loop,
    so short responses have fewer. Caches of odd sizes are slower to multiply by, so stages end
    where the size is one of whole blocks of keys.

    Args:
        slots: those before the first step's, in the same cache.
        steps: of the whole loop.
    """
    stages = 1 if steps < 48 else 2 if steps < 192 else 3
    sizes = [slots + -(-steps * (stage + 1) // stages) for stage in range(stages)]
    return sorted({min(-(-size // KEY_BLOCK) * KEY_BLOCK - slots, steps) for size in sizes})


def _sample_rollouts(
    model: Transformer,
    params: Any,
    prompts: PromptBatch,
    keys_B: jax.Array,
    terminals: Terminals,
    *,
    budget: Budget,
    sampling: SamplingConfig,
    group_size: int = 1,
) -> Rollout:
    """Samples one response for each prompt row.

    Args:
        model: the policy's network; static.
        params: its parameters.
        prompts: B rows.
        keys_B: typed PRNG keys, one a row.
        terminals: what ends thoughts and rows.
        budget: token budgets; static. They fix T.
        sampling: how tokens are drawn; static.
        group_size: rows in a row that share one prompt, which is read once, and attended to by all
            of them together; static.

    Returns:
        The rollouts. Their prompts' cache has P slots and their responses' T, or one cache has
        P + T where no rows share a prompt.

    Raises:
        ValueError: groups do not divide the rows, or see `response_slots`; while tracing.
    """
    given, decode = begin(
        model, params, prompts, keys_B, terminals, budget=budget, group_size=group_size
    )
    # A step reads the whole cache, so the cache grows in stages rather than start at full size.
    for end in stage_ends(given.before, given.steps):
        cache = grow(model, decode.cache, given.before + end)
        decode = dataclasses.replace(decode, cache=cache)
        decode = decode_until(model, given, decode, end, budget=budget, sampling=sampling)
    return finish(given, decode).replace(caches=caches_of(model, given, decode))


def begin(
    model: Transformer,
    params: Any,
    prompts: PromptBatch,
    keys_B: jax.Array,
    terminals: Terminals,
    *,
    budget: Budget,
    group_size: int = 1,
) -> tuple[Given, Decode]:
    """Reads the prompts. The rows' own cache has no room yet.

    Args:
        model, params, prompts, keys_B, terminals, budget, group_size: of `sample_rollouts`.

    Raises:
        ValueError: see there.
    """
    rows = prompts.tokens_BP.shape[0]
    if rows % group_size:
        raise ValueError(f'{rows} rows do not split into groups of {group_size}')
    steps = response_slots(budget, terminals)
    uniforms_BT = draw_uniforms(keys_B, steps)
    decoder, own_params = for_decoding(model, params)
    sharing = rows_sharing(rows, group_size)
    hidden_BD, cache = _prefill(model, params, prompts, group_size, sharing)
    shared: tuple[KVCache, ...] = ()
    if sharing > 1:
        shared, cache = (cache,), empty_room(decoder, rows, 0)
    elif decoder.columns:
        cache = split_keys(cache)
    decode = Decode(
        step=jnp.int32(0),
        hidden_BD=hidden_BD,
        rows=start_phases(prompts.lengths_B > 0, budget, prompts.limits_B),
        tokens_BT=jnp.full((rows, steps), terminals.pad_id, jnp.int32),
        logprobs_BT=jnp.zeros((rows, steps), jnp.float32),
        sampled_BT=jnp.zeros((rows, steps), bool),
        cache=cache,
    )
    return Given(own_params, prompts, uniforms_BT, terminals, shared), decode


def enlarge(x: jax.Array, shape: tuple[int, ...], empty: int) -> jax.Array:
    """The array with `empty` behind it along all axes, up to a shape."""
    return jax.lax.dynamic_update_slice(jnp.full(shape, empty, x.dtype), x, (0,) * x.ndim)


def grow(
    model: Transformer,
    cache: KVCache,
    slots: int,
    enlarge: Callable[[jax.Array, tuple[int, ...], int], jax.Array] = enlarge,
) -> KVCache:
    """The cache with empty slots behind its own, up to `slots`; array by array."""
    rows = cache.positions_BS.shape[0]
    larger = jax.eval_shape(lambda: empty_room(decoder_of(model), rows, slots))
    keys, values = jax.tree.map(
        lambda old, new: enlarge(old, new.shape, 0),
        (cache.k_BKCS, cache.v_BKSC), (larger.k_BKCS, larger.v_BKSC),
    )
    return KVCache(keys, values, enlarge(cache.positions_BS, larger.positions_BS.shape, -1))


def decode_until(
    model: Transformer,
    given: Given,
    decode: Decode,
    end: jax.Array | int,
    *,
    budget: Budget,
    sampling: SamplingConfig,
) -> Decode:
    """Decodes a token of every row at each step before `end`, as long as a row goes on.

    The last token of every row is fed too: a boundary may lie behind it.

    Args:
        model: as for `begin`; static.
        given, decode: from there; the cache has `given.before` + `end` slots at least.
        end: int32, may be traced.
        budget, sampling: of `sample_rollouts`; static.
    """
    decoder, terminals = decoder_of(model), given.terminals
    contexts = tuple(map(Context, given.shared))

    def unfinished(decode: Decode) -> jax.Array:
        return (decode.step < end) & decode.rows.live_B.any()

    def decode_token(decode: Decode) -> Decode:
        step = decode.step
        logits_BV = next_logits(decoder, given.params, decode.hidden_BD)
        uniforms_B = jax.lax.dynamic_index_in_dim(given.uniforms_BT, step, 1, keepdims=False)
        drawn_B, logprobs_B = sample_tokens(logits_BV, uniforms_B, sampling)
        tokens_B, sampled_B = choose_tokens(decode.rows, drawn_B, terminals)
        positions_B = jnp.where(decode.rows.live_B, given.prompts.lengths_B + step, -1)
        hidden_BD, cache = append_tokens(
            decoder, given.params, tokens_B[:, None], positions_B[:, None],
            Room(decode.cache, given.before + step), contexts,
        )
        return Decode(
            step=step + 1,
            hidden_BD=hidden_BD,
            rows=advance_phases(decode.rows, tokens_B, budget, terminals),
            tokens_BT=decode.tokens_BT.at[:, step].set(tokens_B),
            logprobs_BT=decode.logprobs_BT.at[:, step].set(jnp.where(sampled_B, logprobs_B, 0)),
            sampled_BT=decode.sampled_BT.at[:, step].set(sampled_B),
            cache=cache,
        )

    return jax.lax.while_loop(unfinished, decode_token, decode)


def look(decode: Decode) -> Seen:
    """The rows as they are."""
    return Seen(decode.tokens_BT, decode.rows.lengths_B, decode.rows.live_B)


def caches_of(model: Transformer, given: Given, decode: Decode) -> tuple[KVCache, ...]:
    """The caches of the rollouts of rows that have all ended."""
    cache = decode.cache
    if decoder_of(model).columns:
        cache = join_keys(cache, given.before + given.steps)
    return *given.shared, cache


def finish(given: Given, decode: Decode) -> Rollout:
    """The rollouts of rows that have all ended, but for their caches."""
    return as_rollout(
        given.prompts, decode.rows, decode.tokens_BT, decode.logprobs_BT, decode.sampled_BT
    )


def as_rollout(
    prompts: PromptBatch,
    phases: RowPhases,
    tokens_BT: jax.Array,
    logprobs_BT: jax.Array,
    sampled_BT: jax.Array,
) -> Rollout:
    """What rows have written, and what they have come to, as rollouts without caches."""
    return Rollout(
        prompt_tokens_BP=prompts.tokens_BP,
        prompt_lengths_B=prompts.lengths_B,
        tokens_BT=tokens_BT,
        logprobs_BT=logprobs_BT,
        sampled_BT=sampled_BT,
        lengths_B=phases.lengths_B,
        thought_closed_B=phases.thought_B,
        forced_B=phases.forced_B,
        ended_B=phases.stopped_B,
        caches=(),
    )


fill_cache = jax.jit(_fill_cache, static_argnames=('model',))
sample_rollouts = jax.jit(
    _sample_rollouts, static_argnames=('model', 'budget', 'sampling', 'group_size')
)
