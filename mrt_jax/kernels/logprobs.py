"""Log-probabilities and entropies of tokens without an array over batch, time and vocabulary."""

import functools
import math
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from mrt_jax.kernels.products import multiply_operands, round_operand


class _Rounded(NamedTuple):
    """The output layer and its transpose, as operands of rounded products."""

    kernel_DV: jax.Array
    kernel_VD: jax.Array


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
    product_dtype: str | None = None,
    temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Natural log-probability of each target and entropy of its distribution, at a temperature.

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
        product_dtype: what operands of products are rounded to, see `kernels.products`; None for
            the hidden states' dtype.
        temperature: capped logits are divided by it.

    Returns:
        logprobs_BT, entropies_BT: float32.
    """
    rows, columns = targets_BT.shape
    if chunk is None:
        chunk = parts * min(max(2**25 // unembedding_DV.shape[1], 128), 1024)
    some = max(columns, 1)
    count = -(-some // max(chunk // max(rows, 1), 1))
    width = -(-some // count)  # As even as they can be: what fills up is wasted.
    missing = -columns % width
    kernel_DV = unembedding_DV.astype(hidden_BTD.dtype)
    rounded = None
    if product_dtype is not None:
        rounded = _Rounded(
            round_operand(kernel_DV, product_dtype), round_operand(kernel_DV.T, product_dtype)
        )

    def windows(x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, ((0, 0), (0, missing), *((0, 0),) * (x.ndim - 2)))
        return padded.reshape(rows, -1, width, *x.shape[2:]).swapaxes(0, 1)

    def score(
        carry: None, window: tuple[jax.Array, jax.Array]
    ) -> tuple[None, tuple[jax.Array, jax.Array]]:
        scored = _score((cap, temperature), kernel_DV, rounded, *window)
        return carry, cast('tuple[jax.Array, jax.Array]', scored)

    _, scored = jax.lax.scan(score, None, (windows(hidden_BTD), windows(targets_BT)))
    logprobs_BT, entropies_BT = (
        x.swapaxes(0, 1).reshape(rows, -1)[:, :columns] for x in scored
    )
    return logprobs_BT, entropies_BT


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _score(
    bend: tuple[float | None, float],
    kernel_DV: jax.Array,
    rounded: _Rounded | None,
    hidden_BWD: jax.Array,
    targets_BW: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """`token_logprobs` of one window; the derivative is that of the kernel, rounded or not.

    Args:
        bend: cap and temperature.
    """
    scored, _ = _score_forward(bend, kernel_DV, rounded, hidden_BWD, targets_BW)
    return scored


def _logits(
    bend: tuple[float | None, float],
    kernel_DV: jax.Array,
    rounded: _Rounded | None,
    hidden_BWD: jax.Array,
) -> jax.Array:
    cap, temperature = bend
    if rounded is None:
        logits_BWV = jnp.dot(hidden_BWD, kernel_DV, preferred_element_type=jnp.float32)
    else:
        hidden_ND = hidden_BWD.reshape(-1, hidden_BWD.shape[-1])
        logits_NV = multiply_operands(
            round_operand(hidden_ND, rounded.kernel_DV.dtype.name), rounded.kernel_DV
        )
        logits_BWV = logits_NV.reshape(*hidden_BWD.shape[:-1], -1)
    return soft_cap(logits_BWV, cap) / temperature


def _sum_both(x_BWV: jax.Array, y_BWV: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums over the last axis, of both in one pass, which CPUs do several times faster.

    Of parts first, as a running sum over a whole vocabulary is off by 1e-4 of itself; a vocabulary
    that has no such parts is summed twice.
    """
    parts = math.gcd(x_BWV.shape[-1], 512)
    if parts < 64:
        return x_BWV.sum(axis=-1), y_BWV.sum(axis=-1)
    parted = [x.reshape(*x.shape[:-1], parts, -1) for x in (x_BWV, y_BWV)]

    def add(one: tuple[jax.Array, ...], two: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        return tuple(a + b for a, b in zip(one, two, strict=True))

    zero = jnp.float32(0)
    x_BWp, y_BWp = jax.lax.reduce(parted, [zero, zero], add, (parted[0].ndim - 1,))
    return x_BWp.sum(axis=-1), y_BWp.sum(axis=-1)


def _score_forward(
    bend: tuple[float | None, float],
    kernel_DV: jax.Array,
    rounded: _Rounded | None,
    hidden_BWD: jax.Array,
    targets_BW: jax.Array,
) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, ...]]:
    logits_BWV = _logits(bend, kernel_DV, rounded, hidden_BWD)
    highest_BW1 = logits_BWV.max(axis=-1, keepdims=True)
    below_BWV = logits_BWV - highest_BW1
    weights_BWV = jnp.exp(below_BWV)
    total_BW, moment_BW = _sum_both(weights_BWV, weights_BWV * below_BWV)
    logarithm_BW = jnp.log(total_BW)
    entropies_BW = logarithm_BW - moment_BW / total_BW
    chosen_BW1 = jnp.take_along_axis(logits_BWV, targets_BW[..., None], axis=-1)
    logprobs_BW = (chosen_BW1 - highest_BW1)[..., 0] - logarithm_BW
    kept = kernel_DV, rounded, hidden_BWD, targets_BW, highest_BW1, logarithm_BW, entropies_BW
    return (logprobs_BW, entropies_BW), kept


def _score_backward(
    bend: tuple[float | None, float],
    kept: tuple[Any, ...],
    gradients: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, None, jax.Array, None]:
    """In closed form: with z the logits, p their distribution and H its entropy,

    d log p_y / d z_v = [v = y] - p_v and d H / d z_v = -p_v (log p_v + H).
    """
    kernel_DV, rounded, hidden_BWD, targets_BW, highest_BW1, logarithm_BW, entropies_BW = kept
    of_logprob_BW1, of_entropy_BW1 = (gradient[..., None] for gradient in gradients)
    cap, temperature = bend
    logits_BWV = _logits(bend, kernel_DV, rounded, hidden_BWD)
    logprobs_BWV = (logits_BWV - highest_BW1) - logarithm_BW[..., None]
    surplus_BWV = of_logprob_BW1 + of_entropy_BW1 * (logprobs_BWV + entropies_BW[..., None])
    is_target_BWV = jnp.arange(kernel_DV.shape[1]) == targets_BW[..., None]
    of_logits_BWV = jnp.where(is_target_BWV, of_logprob_BW1, 0)
    of_logits_BWV -= jnp.exp(logprobs_BWV) * surplus_BWV
    if cap is not None:
        of_logits_BWV *= 1 - jnp.square(logits_BWV * temperature / cap)
    of_logits_BWV /= temperature
    if rounded is None:
        of_logits_BWV = of_logits_BWV.astype(hidden_BWD.dtype)
        of_kernel_DV = jnp.einsum(
            'bwd,bwv->dv', hidden_BWD, of_logits_BWV, preferred_element_type=jnp.float32
        )
        of_hidden_BWD = jnp.einsum(
            'bwv,dv->bwd', of_logits_BWV, kernel_DV, preferred_element_type=jnp.float32
        )
    else:
        dtype, width = rounded.kernel_VD.dtype.name, hidden_BWD.shape[-1]
        of_logits_NV = round_operand(of_logits_BWV.reshape(-1, of_logits_BWV.shape[-1]), dtype)
        hidden_DN = round_operand(hidden_BWD.reshape(-1, width).T, dtype)
        of_kernel_DV = multiply_operands(hidden_DN, of_logits_NV)
        of_hidden_BWD = multiply_operands(of_logits_NV, rounded.kernel_VD).reshape(hidden_BWD.shape)
    of_kernel_DV = of_kernel_DV.astype(kernel_DV.dtype)
    return of_kernel_DV, None, of_hidden_BWD.astype(hidden_BWD.dtype), None


_score.defvjp(_score_forward, _score_backward)
