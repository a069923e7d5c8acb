"""Matrix products whose operands are rounded, and only they.

CPUs with AMX or AVX512-BF16 multiply bfloat16 several times as fast as float32. XLA leaves a
product to the kernels that do so if its result is float32 and no operand is a transpose, as it was
traced; the rest of a program it computes in float32 whatever it is told, converting whole arrays,
caches and stacks of activations among them, to and fro. So here operands are bfloat16 and nothing
else is.
"""

import functools

import jax
import jax.numpy as jnp


def laid_out(x: jax.Array) -> jax.Array:
    """The same matrix as one that was never transposed: XLA may not look through it."""
    return jax.lax.optimization_barrier(x.reshape(-1)).reshape(x.shape)


def round_operand(x: jax.Array, dtype: str) -> jax.Array:
    """A matrix as an operand of `multiply_operands`."""
    return laid_out(x.astype(dtype))


def multiply_operands(x_NK: jax.Array, y_KM: jax.Array) -> jax.Array:
    """The product of two operands, summed in float32: float32[N, M]."""
    return jnp.dot(x_NK, y_KM, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def multiply_rounded(x_ND: jax.Array, kernel_DF: jax.Array, dtype: str) -> jax.Array:
    """The product of two matrices rounded to a dtype; those of its derivatives are rounded as well.

    Args:
        x_ND: rows, any float dtype.
        kernel_DF: what they are multiplied by, any float dtype.
        dtype: what operands are rounded to.

    Returns:
        float32[N, F]. Cotangents have the dtypes of the arguments.
    """
    return multiply_operands(round_operand(x_ND, dtype), round_operand(kernel_DF, dtype))


def _forward(
    x_ND: jax.Array, kernel_DF: jax.Array, dtype: str
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return multiply_rounded(x_ND, kernel_DF, dtype), (x_ND, kernel_DF)


def _backward(
    dtype: str, kept: tuple[jax.Array, jax.Array], of_product_NF: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x_ND, kernel_DF = kept
    gradient_NF = round_operand(of_product_NF, dtype)
    of_x_ND = multiply_operands(gradient_NF, round_operand(kernel_DF.T, dtype))
    of_kernel_DF = multiply_operands(round_operand(x_ND.T, dtype), gradient_NF)
    return of_x_ND.astype(x_ND.dtype), of_kernel_DF.astype(kernel_DF.dtype)


multiply_rounded.defvjp(_forward, _backward)
