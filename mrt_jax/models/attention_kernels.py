"""Attention of whole rows to themselves by the kernel that is fastest on each backend.

| kernel | what it is | on |
| --- | --- | --- |
| plain | `attention.attend`, in blocks of queries | CPU, and wherever the others do not fit |
| splash | JAX's Pallas kernel, which skips what nobody sees | TPU |
| cudnn | flash attention through `jax.nn.dot_product_attention` | GPU |

Rows that read from caches always use `attend`, whose one pass over a parent's keys for all of its
branches no kernel here offers.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import PartitionSpec

from mrt_jax.models.config import ModelConfig

KERNELS = ('plain', 'splash', 'cudnn')
ROW_MULTIPLE = 128  # Tokens of a row that a kernel takes; other rows are attended to plainly.


def fastest_kernel(platform: str, config: ModelConfig) -> str:
    """The kernel for a backend's name and a network.

    cuDNN caps no scores, so networks that do (Gemma 2) get 'plain' on GPU.
    """
    if platform == 'tpu':
        return 'splash'
    return 'cudnn' if platform == 'gpu' and config.attention_cap is None else 'plain'


def attend_to_self(
    kernel: str,
    q_XHTC: jax.Array,
    k_XKTC: jax.Array,
    v_XKTC: jax.Array,
    segments_XT: jax.Array,
    *,
    window: int | None,
    scale: float | None = None,
    cap: float | None = None,
) -> jax.Array:
    """Causal softmax attention within segments.

    Args:
        kernel: of `KERNELS`, except 'plain'.
        q_XHTC: rotated queries; query head h reads key-value head h // (H / K). T is a multiple of
            `ROW_MULTIPLE`.
        k_XKTC, v_XKTC: keys and values.
        segments_XT: int32; consecutive tokens of one number see each other.
        window: tokens back that a query sees, its own included; None for all.
        scale: factor on the scores; None: 1 / sqrt(C).
        cap: see `soft_cap`.

    Returns:
        [X, H, T, C] in the queries' dtype.
    """
    scale = q_XHTC.shape[-1] ** -0.5 if scale is None else scale
    if kernel == 'splash':
        attend = functools.partial(_splash, window=window, cap=cap)
        return _by_device(attend, q_XHTC * scale, k_XKTC, v_XKTC, segments_XT)
    return _dot_product(q_XHTC, k_XKTC, v_XKTC, segments_XT, window, scale, kernel)


def _by_device(attend: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """Runs a kernel, which the compiler cannot split, on each device's own rows and heads."""
    if jax.sharding.get_abstract_mesh().empty:
        return attend(*arrays)
    q_spec, kv_spec, rows_spec = (
        nn.logical_to_mesh_axes(axes) or PartitionSpec()
        for axes in (
            ('rows', 'heads', None, None), ('rows', 'kv_heads', None, None), ('rows', None)
        )
    )
    return jax.shard_map(
        attend, in_specs=(q_spec, kv_spec, kv_spec, rows_spec), out_specs=q_spec, check_vma=False
    )(*arrays)


def _splash(
    q_XHTC: jax.Array,
    k_XKTC: jax.Array,
    v_XKTC: jax.Array,
    segments_XT: jax.Array,
    *,
    window: int | None,
    cap: float | None,
) -> jax.Array:
    """Rows and heads of one device; the queries are scaled."""
    heads, length = q_XHTC.shape[1:3]
    shape = length, length
    mask = splash_attention.CausalMask(shape)
    if window is not None:
        mask = splash_attention.LocalMask(shape, (window - 1, 0), 0)
    block = next(size for size in (512, 256, ROW_MULTIPLE) if length % size == 0)
    kernel = splash_attention.make_splash_mha(
        splash_attention.MultiHeadMask([mask] * heads),
        block_sizes=splash_attention.BlockSizes(
            block_q=block, block_kv=block, block_kv_compute=block, block_q_dkv=block,
            block_kv_dkv=block, block_kv_dkv_compute=block, block_q_dq=block, block_kv_dq=block,
        ),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=cap,
    )
    segments = splash_attention.SegmentIds(segments_XT, segments_XT)
    return jax.vmap(kernel)(q_XHTC, k_XKTC, v_XKTC, segments).astype(q_XHTC.dtype)


def _dot_product(
    q_XHTC: jax.Array,
    k_XKTC: jax.Array,
    v_XKTC: jax.Array,
    segments_XT: jax.Array,
    window: int | None,
    scale: float,
    implementation: str,
) -> jax.Array:
    mixed_XTHC = jax.nn.dot_product_attention(
        *(x.swapaxes(1, 2) for x in (q_XHTC, k_XKTC, v_XKTC)),
        mask=(segments_XT[:, :, None] == segments_XT[:, None, :])[:, None],
        scale=scale,
        is_causal=True,
        local_window_size=None if window is None else (window - 1, 0),
        implementation=implementation,
    )
    return mixed_XTHC.swapaxes(1, 2)
