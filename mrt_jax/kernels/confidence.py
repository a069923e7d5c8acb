"""A supervised loss that limits confidence, so that more samples go on to find more.

Cross entropy pushes the probability p of a demonstration to 1 whether or not that helps; a policy
that is tried N times is right once with probability 1 - (1 - p)^N, which is near 1 long before p
is. Direct coverage optimisation (Chen et al., arXiv 2502.07154) minimises -log of that instead:
the gradient of cross entropy times a factor in [0, 1] that falls to 0 as p nears 1.
"""

import functools

import jax
import jax.numpy as jnp

# Below it, e^x is so small that the next term of a series in it is lost in float32.
_TINY = -10.0


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def coverage_loss(logprobs: jax.Array, n: int) -> jax.Array:
    """-log(1 - (1 - p)^n): negative log-probability that one of n samples is the demonstration.

    Computed in log space: whole demonstrations are so improbable that the formula itself would
    round to log 0. n = 1 is cross entropy.

    Args:
        logprobs: float32, log p of whole demonstrations, at most 0; any shape.
        n: samples, at least 1; static.
    """
    if n < 1:
        raise ValueError(f'n must be at least 1, got {n}')
    if n == 1:
        return -logprobs
    return -_log1mexp(_log_surprise(logprobs, n))


@coverage_loss.defjvp
def _coverage_loss_jvp(n, primals, tangents):
    (logprobs,), (change,) = primals, tangents
    return coverage_loss(logprobs, n), -confidence_factor(logprobs, n) * change


def confidence_factor(logprobs: jax.Array, n: int) -> jax.Array:
    """What is left of the gradient of cross entropy: n p (1 - p)^(n - 1) / (1 - (1 - p)^n).

    Args are those of `coverage_loss`; in [0, 1], falling in p, and 1 for n = 1.
    """
    if n == 1:
        return jnp.ones_like(logprobs)
    log_factor = jnp.log(n) + logprobs + (n - 1) * _log_miss(logprobs)
    return jnp.exp(jnp.minimum(log_factor + coverage_loss(logprobs, n), 0))


def _log_miss(logprobs: jax.Array) -> jax.Array:
    """log(1 - p), that one sample is another."""
    return _log1mexp(jnp.log(-jnp.minimum(logprobs, 0)))


def _log_surprise(logprobs: jax.Array, n: int) -> jax.Array:
    """log(-n log(1 - p)), how surprising it would be that all n samples are others."""
    # -log(1 - p) = p (1 + p / 2 + ...).
    series = logprobs + jnp.exp(logprobs) / 2
    return jnp.log(n) + jnp.where(logprobs < _TINY, series, jnp.log(-_log_miss(logprobs)))


def _log1mexp(log_x: jax.Array) -> jax.Array:
    """log(1 - e^-x) from log x, for x from far below the smallest float32 to infinity."""
    x = jnp.exp(log_x)
    # 1 - e^-x = x (1 - x / 2 + ...).
    exact = jnp.where(x < 0.7, jnp.log(-jnp.expm1(-x)), jnp.log1p(-jnp.exp(-x)))
    return jnp.where(log_x < _TINY, log_x - x / 2, exact)
