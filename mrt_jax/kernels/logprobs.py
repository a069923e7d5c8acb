"""Log-probabilities and entropies of tokens without an array over batch, time and vocabulary."""

import jax
import jax.numpy as jnp


def token_logprobs(
    hidden_BTD: jax.Array, unembedding_DV: jax.Array, targets_BT: jax.Array, *, chunk: int = 1024
) -> tuple[jax.Array, jax.Array]:
    """Natural log-probability of each target and entropy of its distribution, at temperature 1.

    Logits exist for `chunk` tokens at a time, forwards and backwards: the backward pass computes
    them again.

    Args:
        hidden_BTD: hidden state from which each target is predicted, any float dtype.
        unembedding_DV: output layer; cast to the hidden states' dtype for the product.
        targets_BT: int32.
        chunk: tokens a chunk; the last one is padded.

    Returns:
        logprobs_BT, entropies_BT: float32.
    """
    shape = targets_BT.shape
    hidden_ND, targets_N = hidden_BTD.reshape(-1, hidden_BTD.shape[-1]), targets_BT.reshape(-1)
    count = targets_N.shape[0]
    chunk = min(chunk, count)
    missing = -count % chunk
    hidden_ND = jnp.pad(hidden_ND, ((0, missing), (0, 0)))
    targets_N = jnp.pad(targets_N, (0, missing))
    kernel_DV = unembedding_DV.astype(hidden_BTD.dtype)

    @jax.checkpoint
    def score(kernel_DV: jax.Array, hidden_CD: jax.Array, targets_C: jax.Array):
        logits_CV = jnp.dot(hidden_CD, kernel_DV, preferred_element_type=jnp.float32)
        normalised_CV = jax.nn.log_softmax(logits_CV, axis=-1)
        logprobs_C = jnp.take_along_axis(normalised_CV, targets_C[:, None], axis=1)[:, 0]
        return logprobs_C, -(jnp.exp(normalised_CV) * normalised_CV).sum(axis=-1)

    _, (logprobs, entropies) = jax.lax.scan(
        lambda carry, xs: (carry, score(kernel_DV, *xs)),
        None,
        (hidden_ND.reshape(-1, chunk, hidden_ND.shape[1]), targets_N.reshape(-1, chunk)),
    )
    return logprobs.reshape(-1)[:count].reshape(shape), entropies.reshape(-1)[:count].reshape(shape)
