"""Rounded products and their derivatives against NumPy's on rounded numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt_jax.kernels.products import multiply_rounded
from tests.dot_operands import dot_operands


def rounded(x):
    return np.asarray(x).astype(jnp.bfloat16).astype(np.float64)


@pytest.mark.parametrize('dtypes', [('float32', 'float32'), ('float32', 'bfloat16')])
def test_values_and_derivatives(dtypes):
    rng = np.random.default_rng(0)
    x_ND, kernel_DF, weights_NF = (
        rng.normal(size=shape).astype(np.float32) for shape in ((12, 20), (20, 9), (12, 9))
    )
    arguments = jnp.asarray(x_ND, dtypes[0]), jnp.asarray(kernel_DF, dtypes[1])

    @jax.jit
    def both(x_ND, kernel_DF):
        product_NF, pull_back = jax.vjp(
            lambda *pair: multiply_rounded(*pair, 'bfloat16'), x_ND, kernel_DF
        )
        return product_NF, *pull_back(jnp.asarray(weights_NF))

    product_NF, of_x_ND, of_kernel_DF = both(*arguments)
    assert product_NF.dtype == jnp.float32
    assert (of_x_ND.dtype, of_kernel_DF.dtype) == dtypes
    x_ND, kernel_DF, weights_NF = map(rounded, (x_ND, kernel_DF, weights_NF))
    np.testing.assert_allclose(product_NF, x_ND @ kernel_DF, atol=1e-5)
    np.testing.assert_allclose(of_x_ND, weights_NF @ kernel_DF.T, atol=1e-5)
    rtol = 0 if dtypes[1] == 'float32' else 2**-8  # A derivative has its argument's dtype.
    np.testing.assert_allclose(
        of_kernel_DF.astype(np.float32), x_ND.T @ weights_NF, rtol=rtol, atol=1e-5
    )


@pytest.mark.parametrize('seed', range(10))
def test_small_whole_numbers_are_multiplied_exactly(seed):
    """Of any shape: bfloat16 has all whole numbers up to 256, and float32 all of their sums."""
    rng = np.random.default_rng(seed)
    rows, inner, columns = rng.integers(1, 70, 3)
    x_ND = rng.integers(-256, 257, (rows, inner))
    kernel_DF = rng.integers(-256, 257, (inner, columns))
    product_NF = jax.jit(multiply_rounded, static_argnums=2)(
        jnp.float32(x_ND), jnp.float32(kernel_DF), 'bfloat16'
    )
    np.testing.assert_array_equal(product_NF, x_ND @ kernel_DF)


def test_no_product_is_left_to_float32():
    """Whatever was transposed before: XLA would else multiply numbers that it has converted."""

    def total(x_DN, kernel_FD):
        product_NF = multiply_rounded(x_DN.T, kernel_FD.T, 'bfloat16')
        return jnp.square(product_NF.T).sum()

    shapes = jnp.zeros((64, 32)), jnp.zeros((48, 64))
    compiled = jax.jit(jax.grad(total, argnums=(0, 1))).lower(*shapes).compile()
    assert dot_operands(compiled) == {'bf16': 3}
