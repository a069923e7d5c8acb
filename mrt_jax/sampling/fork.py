"""The meta-prover: answers forked from every boundary of a trace, on the trace's own caches.

mu(. | x, z_{0:j}) of arXiv 2503.07572, section 3, is the policy with its thought forcibly ended
after episode j. The keys and values of the prefix (x, z_{0:j}) are a part of what the rollout has
left in its caches, so no prefix is filled again: attention of a branch merges these read-only
sources exactly,

    the prompt's cache, where rows share it         one for all those rows, but in tiles
    the parent trace's cache, up to the boundary    one for the E x M branches of a row
    the boundary's termination text                 one for its M branches
    the branch's own answer                         its own

and the fork adds memory for the last two only.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from mrt_jax.models.cache import Context, KVCache, Room, as_cache, empty_cache
from mrt_jax.models.transformer import Transformer, for_decoding
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
from mrt_jax.sampling.row_keys import draw_uniforms, fold_in_each
from mrt_jax.sampling.tiles import map_tiles

TILE_ROWS = 256  # Answers that are decoded together on a device.


@struct.dataclass
class Termination:
    """Text that ends the thought at each boundary; its length may differ from one to the next.

    Attributes:
        tokens_BEA: int32, padded on the right.
        lengths_BE: int32, at least 1.
    """

    tokens_BEA: jax.Array
    lengths_BE: jax.Array


@struct.dataclass
class Branches:
    """Answers forked from the boundaries of traces; A = termination slots + max_answer_tokens.

    Attributes:
        tokens_BEMA: int32, the termination text, then the answer, then padding.
        logprobs_BEMA: float32, natural log-probability, see `sample_tokens`; 0 where not sampled.
        sampled_BEMA: bool, drawn from the policy: neither termination text nor padding.
        lengths_BEM: int32, tokens of termination text and answer; 0 at masked boundaries.
        ended_BEM: bool, the answer ended by itself rather than cut by its budget.
    """

    tokens_BEMA: jax.Array
    logprobs_BEMA: jax.Array
    sampled_BEMA: jax.Array
    lengths_BEM: jax.Array
    ended_BEM: jax.Array


@struct.dataclass
class _Forks:
    """What is asked at each boundary.

    Attributes:
        limits_BE: int32, tokens of prompt and prefix.
        termination: text that ends the thought.
        uniforms_BEMA: float32, the random number behind each answer token.
    """

    limits_BE: jax.Array
    termination: Termination
    uniforms_BEMA: jax.Array


@struct.dataclass
class _Answers:
    """What was sampled, without the termination text."""

    tokens_BEMA: jax.Array
    logprobs_BEMA: jax.Array
    lengths_BEM: jax.Array
    stopped_BEM: jax.Array


@struct.dataclass
class _Decode:
    """Carry of the decode loop over rows R = B x E x M; tokens [:, step - 1] are the last drawn."""

    step: jax.Array
    rows: RowPhases
    tokens_RA: jax.Array
    logprobs_RA: jax.Array
    suffix: KVCache


def same_termination(tokens: tuple[int, ...] | list[int], mask_BE: jax.Array) -> Termination:
    """The same termination text at every boundary.

    Raises:
        ValueError: no token: the first answer token is predicted from the last of this text.
    """
    if not len(tokens):
        raise ValueError('the termination text must have at least one token')
    text_A = jnp.asarray(np.asarray(tokens, np.int32))
    return Termination(
        tokens_BEA=jnp.broadcast_to(text_A, (*mask_BE.shape, len(tokens))),
        lengths_BE=jnp.full(mask_BE.shape, len(tokens), jnp.int32),
    )


def branch_keys(
    keys_B: jax.Array, boundaries: int, branches: int, *, common: bool = False
) -> jax.Array:
    """Typed PRNG keys [B, E, M], from row key, boundary index and branch index only.

    With `common`, all boundaries have the keys of the first: common random numbers, by which J of
    boundaries that are alike errs alike, so that progress, their difference, errs less. J of each
    boundary has the distribution that it has without (Glasserman, Monte Carlo Methods in Financial
    Engineering, section 7.1).
    """
    numbers_E = jnp.zeros(boundaries, jnp.int32) if common else jnp.arange(boundaries)
    keys_BE1 = fold_in_each(keys_B[:, None], numbers_E)[:, :, None]
    return fold_in_each(keys_BE1, jnp.arange(branches))


def _prove_branches(
    model: Transformer,
    params: Any,
    caches: tuple[KVCache, ...],
    prompt_lengths_B: jax.Array,
    boundaries_BE: jax.Array,
    mask_BE: jax.Array,
    termination: Termination,
    keys_B: jax.Array,
    terminals: Terminals,
    *,
    branches: int,
    max_answer_tokens: int,
    sampling: SamplingConfig,
    tile_rows: int = TILE_ROWS,
    common_draws: bool = False,
) -> Branches:
    """Ends the thought at each boundary of each trace and samples M answers there.

    Args:
        model: the policy's network; static.
        params: its parameters.
        caches: those of the rollouts, see `Rollout`; only read.
        prompt_lengths_B: int32.
        boundaries_BE: int32, response tokens in each prefix.
        mask_BE: bool, boundaries to answer at; the others give branches of length 0.
        termination: text that ends the thought at each boundary.
        keys_B: typed PRNG keys, one a trace.
        terminals: `eos_ids`, `stop` and `pad_id` end an answer; the rest is not used.
        branches: M; static.
        max_answer_tokens: most tokens sampled in an answer; static.
        sampling: how tokens are drawn; static.
        tile_rows: most branches decoded together on each device, those of a boundary at least, see
            `map_tiles`; static. It bounds memory, and boundaries that are masked or end early cost
            the less the smaller it is.
        common_draws: branch m of all boundaries of a trace uses the same random numbers, see
            `branch_keys`; static.

    Returns:
        The branches. Those of a row depend on that row's arguments alone.
    """
    boundaries = boundaries_BE.shape[1]
    keys_BEM = branch_keys(keys_B, boundaries, branches, common=common_draws)
    uniforms_RA = draw_uniforms(keys_BEM.reshape(-1), max_answer_tokens)
    decoder, params = for_decoding(model, params)
    forks = _Forks(
        limits_BE=prompt_lengths_B[:, None] + boundaries_BE,
        termination=termination,
        uniforms_BEMA=uniforms_RA.reshape(*keys_BEM.shape, max_answer_tokens),
    )

    def answer(caches: tuple[KVCache, ...], forks: _Forks, mask_BE: jax.Array) -> _Answers:
        return _answer(decoder, params, caches, forks, mask_BE, terminals, sampling=sampling)

    cells = max(1, tile_rows // branches)
    answers = map_tiles(answer, caches, forks, mask_BE, tile_cells=cells)
    return _join(termination, answers, mask_BE, terminals.pad_id)


prove_branches = jax.jit(
    _prove_branches,
    static_argnames=(
        'model', 'branches', 'max_answer_tokens', 'sampling', 'tile_rows', 'common_draws'
    ),
)


def _answer(
    model: Transformer,
    params: Any,
    caches: tuple[KVCache, ...],
    forks: _Forks,
    mask_BE: jax.Array,
    terminals: Terminals,
    *,
    sampling: SamplingConfig,
) -> _Answers:
    """Decodes the branches of all boundaries of some traces together."""
    shape = rows, boundaries, branches, max_answer_tokens = forks.uniforms_BEMA.shape
    text_slots = forks.termination.tokens_BEA.shape[-1]
    total = rows * boundaries * branches
    budget = Budget(max_thinking_tokens=0, max_answer_tokens=max_answer_tokens)

    # A boundary's prefix is what the parent holds at positions below `limit_X`; X = B x E.
    limit_X = forks.limits_BE.reshape(-1)
    lengths_X = forks.termination.lengths_BE.reshape(-1)
    text_XA = _pad_left(forks.termination.tokens_BEA.reshape(-1, text_slots), lengths_X)
    offsets_XA = jnp.arange(text_slots) - (text_slots - lengths_X[:, None])
    text_positions_XA = jnp.where(
        (offsets_XA >= 0) & mask_BE.reshape(-1, 1), limit_X[:, None] + offsets_XA, -1
    )
    hidden_XAD, text_kv = read_tokens(
        model, params, text_XA, text_positions_XA, _below(caches, limit_X)
    )
    text = as_cache(text_kv, text_positions_XA, model.stored_dtype)

    start_R = jnp.repeat(limit_X + lengths_X, branches)
    limit_R = jnp.repeat(limit_X, branches)
    uniforms_RA = forks.uniforms_BEMA.reshape(total, max_answer_tokens)

    def draw(decode: _Decode, hidden_RD: jax.Array) -> _Decode:
        """Draws token `step` of every row from the hidden state before it."""
        step = decode.step
        logits_RV = next_logits(model, params, hidden_RD)
        uniforms_R = jax.lax.dynamic_index_in_dim(uniforms_RA, step, 1, keepdims=False)
        drawn_R, logprobs_R = sample_tokens(logits_RV, uniforms_R, sampling)
        tokens_R, sampled_R = choose_tokens(decode.rows, drawn_R, terminals)
        return dataclasses.replace(
            decode,
            step=step + 1,
            rows=advance_phases(decode.rows, tokens_R, budget, terminals),
            tokens_RA=decode.tokens_RA.at[:, step].set(tokens_R),
            logprobs_RA=decode.logprobs_RA.at[:, step].set(jnp.where(sampled_R, logprobs_R, 0)),
        )

    def unfinished(decode: _Decode) -> jax.Array:
        return (decode.step < max_answer_tokens) & decode.rows.live_B.any()

    def decode_token(decode: _Decode) -> _Decode:
        last = decode.step - 1
        tokens_R1 = jax.lax.dynamic_slice_in_dim(decode.tokens_RA, last, 1, axis=1)
        positions_R1 = jnp.where(decode.rows.live_B, start_R + last, -1)[:, None]
        hidden_RD, suffix = append_tokens(
            model, params, tokens_R1, positions_R1, Room(decode.suffix, last),
            (*_below(caches, limit_R), Context(text)),
        )
        return draw(dataclasses.replace(decode, suffix=suffix), hidden_RD)

    decode = _Decode(
        step=jnp.int32(0),
        rows=start_phases(jnp.repeat(mask_BE.reshape(-1), branches), budget),
        tokens_RA=jnp.full((total, max_answer_tokens), terminals.pad_id, jnp.int32),
        logprobs_RA=jnp.zeros((total, max_answer_tokens), jnp.float32),
        suffix=empty_cache(model.config, total, max(1, max_answer_tokens - 1), model.stored_dtype),
    )
    decode = draw(decode, jnp.repeat(hidden_XAD[:, -1], branches, axis=0))
    decode = jax.lax.while_loop(unfinished, decode_token, decode)
    return _Answers(
        tokens_BEMA=decode.tokens_RA.reshape(shape),
        logprobs_BEMA=decode.logprobs_RA.reshape(shape),
        lengths_BEM=decode.rows.lengths_B.reshape(shape[:-1]),
        stopped_BEM=decode.rows.stopped_B.reshape(shape[:-1]),
    )


def _below(caches: tuple[KVCache, ...], limit_X: jax.Array) -> tuple[Context, ...]:
    return tuple(Context(cache, limit_X) for cache in caches)


def _pad_left(tokens_XA: jax.Array, lengths_X: jax.Array) -> jax.Array:
    """Moves right-padded tokens to the end of their row; what stands before them is arbitrary."""
    width = tokens_XA.shape[1]
    columns_XA = (jnp.arange(width) + lengths_X[:, None]) % width
    return jnp.take_along_axis(tokens_XA, columns_XA, axis=1)


def _join(termination: Termination, answers: _Answers, mask_BE: jax.Array, pad_id: int) -> Branches:
    """Puts each answer behind its termination text."""
    text_slots = termination.tokens_BEA.shape[-1]
    answer_slots = answers.tokens_BEMA.shape[-1]
    text_BE11 = jnp.where(mask_BE, termination.lengths_BE, 0)[:, :, None, None]
    lengths_BEM1 = text_BE11 + jnp.where(mask_BE[..., None], answers.lengths_BEM, 0)[..., None]
    columns_A = jnp.arange(text_slots + answer_slots)
    from_answer = jnp.clip(columns_A - text_BE11, 0, answer_slots - 1)

    def shifted(values_BEMA: jax.Array) -> jax.Array:
        index = jnp.broadcast_to(from_answer, (*values_BEMA.shape[:3], len(columns_A)))
        return jnp.take_along_axis(values_BEMA, index, axis=-1)

    text_BE1A = termination.tokens_BEA[:, :, None, jnp.minimum(columns_A, text_slots - 1)]
    sampled_BEMA = (columns_A >= text_BE11) & (columns_A < lengths_BEM1)
    tokens_BEMA = jnp.where(columns_A < text_BE11, text_BE1A, pad_id)
    return Branches(
        tokens_BEMA=jnp.where(sampled_BEMA, shifted(answers.tokens_BEMA), tokens_BEMA),
        logprobs_BEMA=jnp.where(sampled_BEMA, shifted(answers.logprobs_BEMA), 0),
        sampled_BEMA=sampled_BEMA,
        lengths_BEM=lengths_BEM1[..., 0],
        ended_BEM=answers.stopped_BEM & mask_BE[..., None],
    )
