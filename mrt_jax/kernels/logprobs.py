"""Log-probabilities and entropies of tokens without an array over batch, time and vocabulary."""

import jax
import jax.numpy as jnp


def soft_cap(x: jax.Array, cap: float | None) -> jax.Array:
    """Bends numbers into (-cap, cap): cap * tanh(x / cap), Gemma Team, arXiv 2408.00118, section 2.

    Without a cap they stay as they are.
    """
    return x if cap is None else cap * jnp.tanh(x / cap)


def token_logprobs(
    hidden_BTD: jax.Array,
    unembedding_DV: jax.Array,
    targets_BT: jax.Array,
    *,
    cap: float | None = None,
    chunk: int | None = None,
    parts: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """Natural log-probability of each target and entropy of its distribution, at temperature 1.

    Logits exist for a window of columns at a time, forwards and backwards: the backward pass
    computes them again. Windows hold all rows, so rows that lie on different devices stay there.

    Args:
        hidden_BTD: hidden state from which each target is predicted, any float dtype.
        unembedding_DV: output layer; cast to the hidden states' dtype for the product, which is
            accumulated and normalised in float32.
        targets_BT: int32.
        cap: of the logits, see `soft_cap`.
        chunk: tokens of all rows in a window, rounded down to whole columns and up to one; None
            takes as many as have 2^25 logits, 128 MiB, but from 128 to 1024, for each part.
        parts: on different devices, that the rows lie in.

    Returns:
        logprobs_BT, entropies_BT: float32.
    """
    rows, columns = targets_BT.shape
    if chunk is None:
        chunk = parts * min(max(2**25 // unembedding_DV.shape[1], 128), 1024)
    width = min(max(chunk // max(rows, 1), 1), max(columns, 1))
    missing = -columns % width
    kernel_DV = unembedding_DV.astype(hidden_BTD.dtype)

    def windows(x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, ((0, 0), (0, missing), *((0, 0),) * (x.ndim - 2)))
        return padded.reshape(rows, -1, width, *x.shape[2:]).swapaxes(0, 1)

    @jax.checkpoint
    def score(kernel_DV: jax.Array, hidden_BWD: jax.Array, targets_BW: jax.Array):
        logits_BWV = jnp.dot(hidden_BWD, kernel_DV, preferred_element_type=jnp.float32)
        normalised_BWV = jax.nn.log_softmax(soft_cap(logits_BWV, cap), axis=-1)
        logprobs_BW = jnp.take_along_axis(normalised_BWV, targets_BW[..., None], axis=-1)[..., 0]
        return logprobs_BW, -(jnp.exp(normalised_BWV) * normalised_BWV).sum(axis=-1)

    _, scored = jax.lax.scan(
        lambda carry, window: (carry, score(kernel_DV, *window)),
        None,
        (windows(hidden_BTD), windows(targets_BT)),
    )
    logprobs_BT, entropies_BT = (
        x.swapaxes(0, 1).reshape(rows, -1)[:, :columns] for x in scored
    )
    return logprobs_BT, entropies_BT
