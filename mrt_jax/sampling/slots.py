"""Rollouts of more rows than are decoded together: a slot whose row ends takes the next row.

Prompts are read first, each once however many rows share it. Then every step decodes one token of
every slot. The cache of a slot is a ring: at step s all slots write slot position s mod S, and a
row that is taken up at step s gets its prompt just behind that, so that a step still writes the
cache with one slice update. With P + T positions or more no row meets its own tail. What a key's
position is, `KVCache.positions_BS` says, so attention is the same wherever the ring stands.

Rows stay on their shard of the mesh: each shard has its own slots and its own queue.

`begin` and all that follows it are its parts, see `sampling.dispatches`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from mrt_jax.models.cache import (
    KEY_BLOCK,
    KVCache,
    Room,
    as_cache,
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
from mrt_jax.sampling.sampler import (
    PromptBatch,
    Rollout,
    Seen,
    as_rollout,
    empty_room,
    prompt_positions,
    response_slots,
)
from mrt_jax.sharding.rules import shards_in_use


@struct.dataclass
class _Rows:
    """All rows, by shard: [G, N + 1, ...]; the last of a shard stands for no row and has ended."""

    prompt_lengths: jax.Array
    uniforms: jax.Array
    phases: RowPhases
    tokens: jax.Array
    logprobs: jax.Array
    sampled: jax.Array


@struct.dataclass
class Decode:
    """Carry of the decode loop.

    Attributes:
        step: int32, steps since the start.
        next_G: int32, the next row of each shard's queue.
        row_GW: int32, the row in each slot; N for none.
        hidden_GWD: of the last token fed.
        rows: all of them.
        cache: of the slots, G x W rows.
        kept: of the rows that have ended; None to keep none.
    """

    step: jax.Array
    next_G: jax.Array
    row_GW: jax.Array
    hidden_GWD: jax.Array
    rows: _Rows
    cache: KVCache
    kept: KVCache | None


@struct.dataclass
class Given:
    """What the decode loop reads and leaves as it is.

    Attributes:
        params: see `for_decoding`.
        prompts: of all rows.
        terminals: what ends thoughts and rows.
        hidden_GQD: of the last tokens of the Q distinct prompts of each shard.
        cache: of the distinct prompts, G x Q rows.
    """

    params: Any
    prompts: PromptBatch
    terminals: Terminals
    hidden_GQD: jax.Array
    cache: KVCache


def _sample_in_slots(
    model: Transformer,
    params: Any,
    prompts: PromptBatch,
    keys_B: jax.Array,
    terminals: Terminals,
    *,
    budget: Budget,
    sampling: SamplingConfig,
    slots: int,
    group_size: int = 1,
    keep_cache: bool = True,
) -> Rollout:
    """Samples one response for each row, as `sample_rollouts` does, in fewer slots.

    Args:
        model: the policy's network; static.
        params: its parameters.
        prompts: B rows.
        keys_B: typed PRNG keys, one a row.
        terminals: what ends thoughts and rows.
        budget: token budgets; static.
        sampling: how tokens are drawn; static.
        slots: rows decoded together; a multiple of the mesh's row shards; static.
        group_size: rows in a row that share one prompt, which is read once; static.
        keep_cache: whether the result has a cache with the rows' keys and values, in an order that
            only its `positions_BS` tells; else it has none; static.

    Returns:
        The rollouts. A row's tokens follow from its prompt and its key alone.

    Raises:
        ValueError: slots, rows and groups do not divide each other; while tracing.
    """
    given, decode = begin(
        model, params, prompts, keys_B, terminals, budget=budget, slots=slots,
        group_size=group_size, keep_cache=keep_cache,
    )
    decode = decode_until(model, given, decode, budget=budget, sampling=sampling)
    return finish(given, decode).replace(caches=caches_of(model, given, decode))


def begin(
    model: Transformer,
    params: Any,
    prompts: PromptBatch,
    keys_B: jax.Array,
    terminals: Terminals,
    *,
    budget: Budget,
    slots: int,
    group_size: int = 1,
    keep_cache: bool = True,
) -> tuple[Given, Decode]:
    """Reads the prompts. All slots are empty yet.

    Args:
        model, params, prompts, keys_B, terminals, budget, slots, group_size, keep_cache: of
            `sample_in_slots`.

    Raises:
        ValueError: see there.
    """
    total, width = prompts.tokens_BP.shape
    shards = shards_in_use(total)
    if slots % shards or total % (shards * group_size):
        raise ValueError(
            f'{total} rows in groups of {group_size} and {slots} slots do not split evenly over '
            f'{shards} shards'
        )
    rows, own_slots = total // shards, slots // shards
    steps = response_slots(budget, terminals)
    decoder, own_params = for_decoding(model, params)
    ring = width + steps
    if decoder.columns:
        ring += -ring % KEY_BLOCK
    hidden_GQD, cache = _read_prompts(
        model, params, prompts, shards=shards, group_size=group_size, most=own_slots
    )
    flat = _Rows(
        prompt_lengths=prompts.lengths_B,
        uniforms=draw_uniforms(keys_B, steps),
        phases=start_phases(prompts.lengths_B > 0, budget, prompts.limits_B),
        tokens=jnp.full((total, steps), terminals.pad_id, jnp.int32),
        logprobs=jnp.zeros((total, steps), jnp.float32),
        sampled=jnp.zeros((total, steps), bool),
    )
    nobody = start_phases(jnp.zeros((shards, 1), bool), budget)

    def by_shard(x: jax.Array) -> jax.Array:
        x = x.reshape(shards, rows, *x.shape[1:])
        return jnp.pad(x, ((0, 0), (0, 1), *((0, 0),) * (x.ndim - 2)))

    by_shards = jax.tree.map(by_shard, flat)
    phases = jax.tree.map(lambda x, none: x.at[:, -1:].set(none), by_shards.phases, nobody)
    decode = Decode(
        step=jnp.int32(0),
        next_G=jnp.zeros(shards, jnp.int32),
        row_GW=jnp.full((shards, own_slots), rows, jnp.int32),
        hidden_GWD=jnp.zeros((shards, own_slots, model.config.width), model.dtype),
        rows=dataclasses.replace(by_shards, phases=phases),
        cache=empty_room(decoder, slots, ring),
        kept=empty_room(decoder, total, ring) if keep_cache else None,
    )
    return Given(own_params, prompts, terminals, hidden_GQD, cache), decode


def decode_until(
    model: Transformer,
    given: Given,
    decode: Decode,
    end: jax.Array | int | None = None,
    *,
    budget: Budget,
    sampling: SamplingConfig,
) -> Decode:
    """Decodes a token of every slot at each step before `end`, as long as a row goes on or waits.

    Rows that have ended are put away, whatever `end` is.

    Args:
        model: as for `begin`; static.
        given, decode: from there.
        end: int32, may be traced; None for no end.
        budget, sampling: of `sample_in_slots`; static.
    """
    decoder, terminals = decoder_of(model), given.terminals
    shards, own_slots = decode.row_GW.shape
    rows = decode.rows.tokens.shape[1] - 1
    group_size = rows // given.hidden_GQD.shape[1]
    slots, ring = decode.cache.positions_BS.shape

    def free_GW(decode: Decode) -> jax.Array:
        """bool[G, W], slots to turn over: their row has ended, or there is one for them to take."""
        none_GW = decode.row_GW == rows
        ended_GW = ~_pick(decode.rows.phases, decode.row_GW).live_B
        return jnp.where(none_GW, (decode.next_G < rows)[:, None], ended_GW)

    def turn_over(decode: Decode) -> Decode:
        """Puts away the row of one slot of each shard and takes up the next of the queue."""
        chosen_GW = free_GW(decode)
        any_G = chosen_GW.any(axis=1)
        slot_G = chosen_GW.argmax(axis=1)
        old_G = jnp.where(any_G, _pick(decode.row_GW, slot_G), rows)
        taken_G = any_G & (decode.next_G < rows)
        new_G = jnp.where(taken_G, decode.next_G, rows)
        prompt_G = jnp.where(taken_G, decode.next_G // group_size, 0)
        kept = decode.kept
        if kept is not None:
            kept = _put_rows(kept, old_G, _pick_rows(decode.cache, slot_G, shards), shards)
        prompt_cache = _ring(_pick_rows(given.cache, prompt_G, shards), ring, decode.step)
        if decoder.columns:
            prompt_cache = split_keys(prompt_cache)
        return dataclasses.replace(
            decode,
            next_G=decode.next_G + taken_G,
            row_GW=_put(decode.row_GW, jnp.where(any_G, slot_G, own_slots), new_G),
            hidden_GWD=_put(
                decode.hidden_GWD, jnp.where(taken_G, slot_G, own_slots),
                _pick(given.hidden_GQD, prompt_G),
            ),
            cache=_put_rows(
                decode.cache, jnp.where(taken_G, slot_G, own_slots), prompt_cache, shards
            ),
            kept=kept,
        )

    def decode_token(decode: Decode) -> Decode:
        phases_GW = _pick(decode.rows.phases, decode.row_GW)
        phases_X = jax.tree.map(jnp.ravel, phases_GW)
        column_GW = phases_GW.lengths_B
        uniforms_X = _pick_cells(decode.rows.uniforms, decode.row_GW, column_GW).ravel()
        hidden_XD = decode.hidden_GWD.reshape(slots, -1)
        logits_XV = next_logits(decoder, given.params, hidden_XD)
        drawn_X, logprobs_X = sample_tokens(logits_XV, uniforms_X, sampling)
        tokens_X, sampled_X = choose_tokens(phases_X, drawn_X, terminals)
        starts_X = _pick(decode.rows.prompt_lengths, decode.row_GW).ravel()
        positions_X = jnp.where(phases_X.live_B, starts_X + phases_X.lengths_B, -1)
        hidden_XD, cache = append_tokens(
            decoder, given.params, tokens_X[:, None], positions_X[:, None],
            Room(decode.cache, decode.step % ring),
        )
        advanced_X = advance_phases(phases_X, tokens_X, budget, terminals)
        put = functools.partial(_put_cells, row_GW=decode.row_GW, column_GW=column_GW)
        return dataclasses.replace(
            decode,
            step=decode.step + 1,
            hidden_GWD=hidden_XD.reshape(decode.hidden_GWD.shape),
            rows=dataclasses.replace(
                decode.rows,
                phases=_put(decode.rows.phases, decode.row_GW, advanced_X),
                tokens=put(decode.rows.tokens, tokens_X),
                logprobs=put(decode.rows.logprobs, jnp.where(sampled_X, logprobs_X, 0)),
                sampled=put(decode.rows.sampled, sampled_X),
            ),
            cache=cache,
        )

    def due(decode: Decode) -> jax.Array | bool:
        return True if end is None else decode.step < end

    def undisturbed(decode: Decode) -> jax.Array:
        return (decode.row_GW < rows).any() & ~free_GW(decode).any() & due(decode)

    def unfinished(decode: Decode) -> jax.Array:
        return free_GW(decode).any() | (decode.row_GW < rows).any() & due(decode)

    def go_on(decode: Decode) -> Decode:
        decode = jax.lax.while_loop(lambda d: free_GW(d).any(), turn_over, decode)
        return jax.lax.while_loop(undisturbed, decode_token, decode)

    return jax.lax.while_loop(unfinished, go_on, decode)


def look(decode: Decode) -> Seen:
    """The rows as they are."""
    rows = _as_rows(decode.rows)
    return Seen(rows.tokens, rows.phases.lengths_B, rows.phases.live_B)


def caches_of(model: Transformer, given: Given, decode: Decode) -> tuple[KVCache, ...]:
    """The cache of the rollouts of rows that have all ended, if it was kept."""
    del given
    if decode.kept is None:
        return ()
    if decoder_of(model).columns:
        return (join_keys(decode.kept, decode.kept.positions_BS.shape[1]),)
    return (decode.kept,)


def finish(given: Given, decode: Decode) -> Rollout:
    """The rollouts of rows that have all ended, but for their caches."""
    done = _as_rows(decode.rows)
    return as_rollout(given.prompts, done.phases, done.tokens, done.logprobs, done.sampled)


sample_in_slots = jax.jit(
    _sample_in_slots,
    static_argnames=('model', 'budget', 'sampling', 'slots', 'group_size', 'keep_cache'),
)


def _read_prompts(
    model: Transformer,
    params: Any,
    prompts: PromptBatch,
    *,
    shards: int,
    group_size: int,
    most: int,
) -> tuple[jax.Array, KVCache]:
    """Reads the Q distinct prompts of each of G shards, at most so many at a time on each."""
    total, width = prompts.tokens_BP.shape
    count = total // shards // group_size
    parts = next(parts for parts in range(-(-count // most), count + 1) if count % parts == 0)

    def split(x: jax.Array) -> jax.Array:
        x = x.reshape(shards, parts, count // parts, group_size, *x.shape[1:])[:, :, :, 0]
        return x.swapaxes(0, 1).reshape(parts, -1, *x.shape[3:])

    def read(part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, KVCache]:
        tokens_YP, lengths_Y = part
        positions_YP = prompt_positions(lengths_Y, width)
        hidden_YPD, new_kv = read_tokens(model, params, tokens_YP, positions_YP)
        return hidden_YPD[:, -1], as_cache(new_kv, positions_YP, model.stored_dtype)

    hidden, cache = jax.lax.map(read, (split(prompts.tokens_BP), split(prompts.lengths_B)))

    def join(x: jax.Array) -> jax.Array:
        """[parts, G * y, ...] to [G, parts * y, ...]."""
        x = x.reshape(parts, shards, -1, *x.shape[2:])
        return x.swapaxes(0, 1).reshape(shards, count, *x.shape[3:])

    return (
        join(hidden).astype(model.dtype),
        jax.tree.map(lambda x: join(x).reshape(-1, *x.shape[2:]), cache),
    )


def _as_rows(rows: _Rows) -> _Rows:
    """Arrays [G, N + 1, ...] as [G * N, ...]."""
    return jax.tree.map(lambda x: x[:, :-1].reshape(-1, *x.shape[2:]), rows)


def _ring(prompt: KVCache, size: int, step: jax.Array) -> KVCache:
    """Prompts' caches on rings of `size` positions, the next token's being `step` mod `size`."""
    width = prompt.positions_BS.shape[1]

    def turn(tree: Any, axis: int, empty: int = 0) -> Any:
        def turn_one(x: jax.Array) -> jax.Array:
            padding = [(0, 0)] * x.ndim
            padding[axis] = (0, size - width)
            return jnp.roll(jnp.pad(x, padding, constant_values=empty), step - width, axis)

        return jax.tree.map(turn_one, tree)

    return KVCache(
        k_BKCS=turn(prompt.k_BKCS, 3),
        v_BKSC=turn(prompt.v_BKSC, 2),
        positions_BS=turn(prompt.positions_BS, 1, -1),
    )


def _pick(tree: Any, index: jax.Array) -> Any:
    """Of arrays [G, N, ...] the entries `index` [G, ...], each shard its own."""
    return jax.tree.map(lambda x: jax.vmap(lambda part, at: part[at])(x, index), tree)


def _put(tree: Any, index: jax.Array, values: Any) -> Any:
    """Arrays [G, N, ...] with entries `index` [G, ...] replaced; those beyond N are dropped."""
    put = jax.vmap(lambda part, at, new: part.at[at].set(new, mode='drop'))
    return jax.tree.map(
        lambda x, new: put(x, index, new.reshape(*index.shape, *x.shape[2:])), tree, values
    )


def _pick_cells(x: jax.Array, row_GW: jax.Array, column_GW: jax.Array) -> jax.Array:
    """Of [G, N, T] the cells at rows and columns, [G, W]; columns beyond T give the last."""
    return jax.vmap(lambda part, row, column: part.at[row, column].get(mode='clip'))(
        x, row_GW, column_GW
    )


def _put_cells(
    x: jax.Array, values_X: jax.Array, *, row_GW: jax.Array, column_GW: jax.Array
) -> jax.Array:
    """[G, N, T] with the cells at rows and columns replaced; columns beyond T are dropped."""
    put = jax.vmap(lambda part, row, column, new: part.at[row, column].set(new, mode='drop'))
    return put(x, row_GW, column_GW, values_X.reshape(row_GW.shape))


def _pick_rows(cache: KVCache, index_G: jax.Array, shards: int) -> KVCache:
    """One row of each shard, a cache of G rows."""
    return _pick(_by_shard(cache, shards), index_G)


def _put_rows(cache: KVCache, index_G: jax.Array, rows: KVCache, shards: int) -> KVCache:
    """Replaces one row of each shard by a row of `rows`; an index beyond the last is dropped."""
    replaced = _put(_by_shard(cache, shards), index_G, rows)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), replaced)


def _by_shard(cache: KVCache, shards: int) -> KVCache:
    """Arrays [G * N, ...] as [G, N, ...]."""
    return jax.tree.map(lambda x: x.reshape(shards, -1, *x.shape[1:]), cache)
