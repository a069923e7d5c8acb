"""Importance weights for the difference between the policy that sampled and the one that trains.

Both are the same parameters, but sampler and trainer round differently. Weighting each token by
trainer / sampler makes the gradient's expectation that of the trainer's policy; bounding the weight
bounds its variance (Yao et al. 2025, truncated importance sampling; Ionides 2008).
"""

import jax
import jax.numpy as jnp

from mrt_jax.kernels.sequences import sum_by_sequence

LEVELS = ('token', 'sequence')
BOUNDS = ('truncate', 'mask')


def importance_weights(
    trainer_logprobs_RL: jax.Array,
    sampler_logprobs_RL: jax.Array,
    sampled_RL: jax.Array,
    segments_RL: jax.Array,
    *,
    level: str,
    bound: str,
    most: float,
) -> tuple[jax.Array, jax.Array]:
    """Weights of the tokens in an update.

    Args:
        trainer_logprobs_RL, sampler_logprobs_RL: of each token, by the same parameters.
        sampled_RL: bool, tokens drawn from the policy; the others have no part in it.
        segments_RL: int32, which segment of its row a token belongs to; a sequence lies in one.
        level: 'token', each token's own ratio; 'sequence', the product over its sequence.
        bound: 'truncate', ratios above `most` become `most`; 'mask', they become 0.
        most: the largest weight, at least 1.

    Returns:
        weights_RL: float32 in [0, most], 1 at tokens that were not sampled.
        bounded_RL: bool, sampled tokens whose weight the bound has changed.
    """
    log_RL = jnp.where(sampled_RL, trainer_logprobs_RL - sampler_logprobs_RL, 0)
    if level == 'sequence':
        log_RL = jnp.where(sampled_RL, sum_by_sequence(log_RL, segments_RL), 0)
    elif level != 'token':
        raise ValueError(f'level {level!r} is unknown; known: {", ".join(LEVELS)}')
    if bound not in BOUNDS:
        raise ValueError(f'bound {bound!r} is unknown; known: {", ".join(BOUNDS)}')
    bounded_RL = log_RL > jnp.log(most)
    weights_RL = jnp.exp(jnp.minimum(log_RL, jnp.log(most)))
    if bound == 'mask':
        weights_RL = jnp.where(bounded_RL, 0, weights_RL)
    return weights_RL, bounded_RL
