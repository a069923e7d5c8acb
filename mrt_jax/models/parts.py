"""What layers are made of: norms and linear maps, of rows or of columns."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrt_jax.kernels.products import multiply_operands, multiply_rounded, round_operand
from mrt_jax.models.lora import DOWN, UP


class RMSNorm(nn.Module):
    """x / rms(x) * scale, in float32; 1 + scale with `unit_offset`.

    Over the last axis, or with `columns` over the first of [width, N].
    """

    epsilon: float
    axis_name: str | None
    unit_offset: bool = False
    columns: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        axis = 0 if self.columns else -1
        fresh = nn.initializers.zeros if self.unit_offset else nn.initializers.ones
        initializer = nn.with_logical_partitioning(fresh, (self.axis_name,))
        scale = self.param('scale', initializer, (x.shape[axis],), jnp.float32)
        if self.columns:
            scale = scale[:, None]
        if self.unit_offset:
            scale = 1 + scale.astype(jnp.float32)
        x32 = x.astype(jnp.float32)
        rms = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=axis, keepdims=True) + self.epsilon)
        return (x32 * rms * scale).astype(x.dtype)


class Linear(nn.Module):
    """Multiplies rows by a kernel, which keeps its axes apart for sharding by name.

    Two flat matrices are the shape that every backend multiplies, and differentiates, best.

    Attributes:
        in_shape, out_shape: axes contracted and produced.
        axes: logical names of both, in order.
        bias: adds a bias of `out_shape`.
        scale: multiplies the standard deviation 1 / sqrt(fan in) of fresh kernels.
        lora_rank: rank of the adapter, see `models.lora`; 0 for none.
        columns: multiplies [inputs, N] to [outputs, N], by a kernel whose outputs come first.
        product_dtype: what operands of the product are rounded to; None for the dtype of the rows.
    """

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    axes: tuple[str, ...]
    bias: bool = False
    scale: float = 1.0
    lora_rank: int = 0
    columns: bool = False
    product_dtype: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., all inputs] to [..., all outputs]."""
        if self.columns:
            return self._multiply_columns(x)
        inputs = len(self.in_shape)
        initializer = nn.initializers.variance_scaling(
            self.scale**2, 'fan_in', 'normal', in_axis=tuple(range(inputs)),
            out_axis=tuple(range(inputs, len(self.axes))),
        )
        kernel = self.param(
            'kernel', nn.with_logical_partitioning(initializer, self.axes),
            (*self.in_shape, *self.out_shape), jnp.float32,
        )
        kernel_DF = kernel.reshape(x.shape[-1], -1)
        if self.product_dtype is None:
            y = x @ kernel_DF.astype(x.dtype)
        else:
            y = multiply_rounded(x, kernel_DF, self.product_dtype).astype(x.dtype)
        if self.bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, self.axes[inputs:])
            bias = self.param('bias', zeros, self.out_shape, jnp.float32)
            y += bias.reshape(-1).astype(y.dtype)
        if self.lora_rank:
            y += self._adapter(x)
        return y

    def _multiply_columns(self, x_DN: jax.Array) -> jax.Array:
        kernel_FD = self.get_variable('params', 'kernel').reshape(-1, x_DN.shape[0])
        if self.product_dtype is None:
            y_FN = kernel_FD @ x_DN
        else:
            y_FN = multiply_operands(kernel_FD, round_operand(x_DN, self.product_dtype))
        # Where rows are wanted of it, the compiler would turn the product around again.
        y_FN = jax.lax.optimization_barrier(y_FN)
        if self.bias:
            y_FN += self.get_variable('params', 'bias').reshape(-1, 1)
        if self.lora_rank:
            y_FN += self._adapter(x_DN.T).T
        return y_FN

    def _adapter(self, x: jax.Array) -> jax.Array:
        inputs, rank = len(self.in_shape), self.lora_rank
        fan_in = nn.initializers.variance_scaling(
            1.0, 'fan_in', 'normal', in_axis=tuple(range(inputs)), out_axis=-1
        )
        down = self.param(
            DOWN, nn.with_logical_partitioning(fan_in, (*self.axes[:inputs], None)),
            (*self.in_shape, rank), jnp.float32,
        )
        up = self.param(
            UP, nn.with_logical_partitioning(nn.initializers.zeros, (None, *self.axes[inputs:])),
            (rank, *self.out_shape), jnp.float32,
        )
        low = x @ down.reshape(-1, rank).astype(x.dtype)
        return low @ up.reshape(rank, -1).astype(x.dtype)
