"""From logits to tokens: temperature, top-k, top-p, min-p, and one uniform number a row."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

_MASKED = -jnp.inf
_BLOCK = 128  # ids a block of the two-level inverse distribution function


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How the next token is drawn. Hashable, so a jitted sampler takes it as a static argument.

    The processors apply in the order of the attributes, each to what the one before has left.

    Attributes:
        temperature: logits are divided by it; 0 takes the most likely token.
        top_k: keeps the k most likely tokens, 0 all. Ties with the k-th are kept.
        top_p: keeps the most likely tokens whose probabilities sum to at least p (Holtzman et al.,
            arXiv 1904.09751), 1 all. Ties with the last one kept are kept.
        min_p: keeps tokens at least min_p times as likely as the most likely one (Nguyen et al.,
            arXiv 2407.01082), 0 all.
        scored_at: the temperature at which log-probabilities of what is drawn are told: 1, the
            policy itself. A policy gradient needs those of what it samples from, see
            `for_training`.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    scored_at: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float('inf'):
            raise ValueError(f'temperature must be finite and at least 0, got {self.temperature}')
        if self.top_k < 0:
            raise ValueError(f'top_k must be 0 (off) or positive, got {self.top_k}')
        if not 0 < self.top_p <= 1:
            raise ValueError(f'top_p must lie in (0, 1], got {self.top_p}')
        if not 0 <= self.min_p <= 1:
            raise ValueError(f'min_p must lie in [0, 1], got {self.min_p}')
        if not 0 < self.scored_at < float('inf'):
            raise ValueError(f'scored_at must be finite and above 0, got {self.scored_at}')

    def for_training(self) -> 'SamplingConfig':
        """Log-probabilities at the temperature of sampling; those of the policy itself at 0.

        With samples of pi_T, the score of pi_1 is no score: its mean under pi_T is not 0, so that
        a constant advantage would move the policy. What top_k, top_p and min_p leave out is not
        accounted for.
        """
        return dataclasses.replace(self, scored_at=self.temperature or 1.0)


def process_logits(logits_BV: jax.Array, sampling: SamplingConfig) -> jax.Array:
    """Applies temperature, top-k, top-p and min-p.

    Args:
        logits_BV: float32.
        sampling: must have a positive temperature.

    Returns:
        float32[B, V], minus infinity where a token may not be drawn. No vocabulary is sorted.
    """
    logits_BV = logits_BV / sampling.temperature
    if 0 < sampling.top_k < logits_BV.shape[-1]:
        logits_BV = _keep_heaviest(logits_BV, jnp.ones_like(logits_BV), sampling.top_k)
    if sampling.top_p < 1:
        logits_BV = _keep_heaviest(logits_BV, jax.nn.softmax(logits_BV, axis=-1), sampling.top_p)
    if sampling.min_p > 0:
        smallest_B1 = logits_BV.max(axis=-1, keepdims=True) + math.log(sampling.min_p)
        logits_BV = jnp.where(logits_BV >= smallest_B1, logits_BV, _MASKED)
    return logits_BV


def sample_tokens(
    logits_BV: jax.Array, uniforms_B: jax.Array, sampling: SamplingConfig
) -> tuple[jax.Array, jax.Array]:
    """Draws a token for each row.

    Args:
        logits_BV: float32, the policy's own.
        uniforms_B: float32 in [0, 1), one number a row; not read at temperature 0.
        sampling: see `SamplingConfig`.

    Returns:
        tokens_B: int32.
        logprobs_B: float32, natural log-probability of the token under the policy at the
            temperature `scored_at`, before any other processor.
    """
    if sampling.temperature == 0:
        tokens_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    else:
        tokens_B = _invert_distribution(process_logits(logits_BV, sampling), uniforms_B)
    if sampling.scored_at != 1:
        logits_BV = logits_BV / sampling.scored_at
    chosen_B = jnp.take_along_axis(logits_BV, tokens_B[:, None], axis=-1)[:, 0]
    best_B = logits_BV.max(axis=-1)
    return tokens_B, chosen_B - best_B - jnp.log(_exponentials(logits_BV).sum(axis=-1))


def _keep_heaviest(logits_BV: jax.Array, weights_BV: jax.Array, mass: float) -> jax.Array:
    """Masks all but the most likely tokens whose weights first sum to `mass`, and their ties.

    The threshold is found by bisection over the integers that order like the logits: 32 halvings,
    each of which reads the row once, are exact and far cheaper than sorting a large vocabulary.
    """
    bits_BV = jax.lax.bitcast_convert_type(logits_BV, jnp.int32)
    # Negative floats order backwards as integers: flip all their bits but the sign.
    order_BV = jnp.where(bits_BV < 0, bits_BV ^ jnp.int32(0x7FFFFFFF), bits_BV)

    def halve(_: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        enough_B, short_B = bounds
        middle_B = (enough_B & short_B) + ((enough_B ^ short_B) >> 1)  # mean without overflow
        kept_B = jnp.where(order_BV >= middle_B[:, None], weights_BV, 0).sum(axis=-1)
        satisfied_B = kept_B >= mass
        return jnp.where(satisfied_B, middle_B, enough_B), jnp.where(satisfied_B, short_B, middle_B)

    # The bounds: all of the row, which is enough, and only what lies above the maximum.
    enough_B, _ = jax.lax.fori_loop(
        0, 32, halve, (order_BV.min(axis=-1), order_BV.max(axis=-1) + 1)
    )
    return jnp.where(order_BV >= enough_B[:, None], logits_BV, _MASKED)


def _exponentials(logits_BV: jax.Array) -> jax.Array:
    return jnp.exp(logits_BV - logits_BV.max(axis=-1, keepdims=True))


def _invert_distribution(logits_BV: jax.Array, uniforms_B: jax.Array) -> jax.Array:
    """Token at which the distribution function passes a uniform number.

    Two levels, blocks of tokens and tokens of the block, so that no running sum over the whole
    vocabulary is formed: it would be slow and, in float32, less exact.
    """
    rows, vocab = logits_BV.shape
    weights_BV = _exponentials(logits_BV)
    weights_BXY = jnp.pad(weights_BV, ((0, 0), (0, -vocab % _BLOCK))).reshape(rows, -1, _BLOCK)
    # Whole in every device that shares the vocabulary: one small exchange in place of eight.
    blocks_BX = nn.with_logical_constraint(weights_BXY.sum(axis=-1), ('rows', None))
    target_B = uniforms_B * blocks_BX.sum(axis=-1)
    block_B, before_B = _first_above(blocks_BX, target_B)
    inside_BY = jnp.take_along_axis(weights_BXY, block_B[:, None, None], axis=1)[:, 0]
    offset_B, _ = _first_above(inside_BY, target_B - before_B)
    return block_B * _BLOCK + offset_B


def _first_above(weights_BX: jax.Array, target_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """First index whose running sum exceeds the target, and the running sum before it.

    Never an index of weight 0: rounding may leave the target at or above the whole sum, and then
    the last index of positive weight is the answer.
    """
    sums_BX = jnp.cumsum(weights_BX, axis=-1)
    positive_BX = weights_BX > 0
    above_BX = positive_BX & (sums_BX > target_B[:, None])
    width = weights_BX.shape[-1]
    last_B = width - 1 - jnp.argmax(positive_BX[:, ::-1], axis=-1)
    index_B = jnp.where(above_BX.any(axis=-1), jnp.argmax(above_BX, axis=-1), last_B)
    index_B = index_B.astype(jnp.int32)
    before_BX = sums_BX - weights_BX
    return index_B, jnp.take_along_axis(before_BX, index_B[:, None], axis=-1)[:, 0]
