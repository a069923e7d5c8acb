"""The clipped policy-gradient surrogate, the k3 penalty, and the weights that average tokens."""

import jax
import jax.numpy as jnp
from flax import struct

AGGREGATIONS = ('token', 'sequence', 'constant')


@struct.dataclass
class Surrogate:
    """Terms of the objective for each token, float32[B, T].

    Attributes:
        loss_BT: negative clipped surrogate.
        ratio_BT: policy / sampling policy.
        clipped_BT: bool, the clip cut the gradient.
    """

    loss_BT: jax.Array
    ratio_BT: jax.Array
    clipped_BT: jax.Array


def token_weights(mask_BT: jax.Array, aggregation: str) -> jax.Array:
    """Weight of each token in the loss, which is then a plain weighted sum.

    Computed from the whole batch before it is split, so that accumulated gradients do not depend on
    the microbatch.

    Args:
        mask_BT: bool, tokens that are trained on.
        aggregation: 'token', mean over all tokens (DAPO); 'sequence', mean over each row's tokens,
            then over rows (GRPO); 'constant', sum over tokens divided by rows x T (Dr. GRPO).

    Returns:
        float32[B, T], 0 off the mask.
    """
    mask_BT = mask_BT.astype(jnp.float32)
    if aggregation == 'token':
        return mask_BT / jnp.maximum(mask_BT.sum(), 1)
    if aggregation == 'sequence':
        lengths_B1 = mask_BT.sum(axis=1, keepdims=True)
        rows = jnp.maximum((lengths_B1 > 0).sum(), 1)
        return mask_BT / jnp.maximum(lengths_B1, 1) / rows
    if aggregation == 'constant':
        return mask_BT / mask_BT.size
    raise ValueError(f'aggregation {aggregation!r} is unknown; known: {", ".join(AGGREGATIONS)}')


def clipped_surrogate(
    logprobs_BT: jax.Array,
    old_logprobs_BT: jax.Array,
    advantages_BT: jax.Array,
    *,
    clip_low: float,
    clip_high: float,
) -> Surrogate:
    """-min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A) for each token.

    PPO (Schulman et al., arXiv 1707.06347), with the two-sided clip of DAPO (arXiv 2503.14476).

    Args:
        logprobs_BT: of the policy that is trained.
        old_logprobs_BT: of the policy that sampled.
        advantages_BT: constants.
        clip_low, clip_high: how far the ratio may fall and rise.
    """
    ratio_BT = jnp.exp(logprobs_BT - old_logprobs_BT)
    clipped_ratio_BT = jnp.clip(ratio_BT, 1 - clip_low, 1 + clip_high)
    free_BT, bounded_BT = ratio_BT * advantages_BT, clipped_ratio_BT * advantages_BT
    return Surrogate(
        loss_BT=-jnp.minimum(free_BT, bounded_BT),
        ratio_BT=ratio_BT,
        clipped_BT=bounded_BT < free_BT,
    )


def k3_divergence(logprobs_BT: jax.Array, reference_logprobs_BT: jax.Array) -> jax.Array:
    """Schulman's k3 estimate of KL(policy || reference) at each sampled token, at least 0.

    exp(d) - d - 1 with d = log reference - log policy (MRT's trainer, method 3.2).
    """
    difference_BT = reference_logprobs_BT - logprobs_BT
    return jnp.exp(difference_BT) - difference_BT - 1
