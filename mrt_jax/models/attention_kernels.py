"""Attention of whole rows to themselves by the kernel that is fastest on each backend.

| kernel | what it is | on |
| --- | --- | --- |
| plain | `attention.attend`, in blocks of queries | CPU, and wherever the others do not fit |
| splash | JAX's Pallas kernel, which skips what nobody sees; shows no parents | TPU |
| cudnn | flash attention through `jax.nn.dot_product_attention` | GPU |

Rows that read from caches always use `attend`, whose one pass over a parent's keys for all of its
branches no kernel here offers.

Where a mesh splits the tokens of rows, each device has queries of its own and gathers the keys and
values of the whole row, which grouped heads make small.
"""

import flax.linen as nn
import jax
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_kernel import (
    SplashAttentionKernel,
)
from jax.sharding import NamedSharding, PartitionSpec

from mrt_jax.models.attention import Source, attend
from mrt_jax.models.config import ModelConfig
from mrt_jax.models.logical_axes import axis_in_use

KERNELS = ('plain', 'splash', 'cudnn')
_WIDEST_HEAD = 128  # That cuDNN takes everywhere.
ROW_MULTIPLE = 128  # Tokens on a device of a row that a kernel takes, see `takes`.


def fastest_kernel(
    platform: str, config: ModelConfig, *, dtype: str, tokens_split: bool = False
) -> str:
    """The kernel for a backend's name and a network, on a mesh that splits tokens or not."""
    return fitting_kernels(platform, config, dtype=dtype, tokens_split=tokens_split)[0]


def fitting_kernels(
    platform: str,
    config: ModelConfig,
    *,
    dtype: str,
    tokens_split: bool = False,
    parents: bool = False,
) -> tuple[str, ...]:
    """The kernels that run on a backend, by its name, for a network; 'plain' is the last.

    cuDNN takes half precision only and caps no scores, its queries begin where its keys do, and its
    heads are multiples of 8 wide, up to 128 on GPUs before Hopper; so float32, networks that cap
    (Gemma 2), split tokens and other heads (Gemma 3) have 'plain' alone on GPU.

    Args:
        platform: the backend's name.
        config: the policy's.
        dtype: of activations.
        tokens_split: whether the mesh splits the tokens of rows.
        parents: whether segments have parents, see `attend_to_self`.
    """
    fits = {
        'splash': platform == 'tpu' and not parents,
        'cudnn': (
            platform == 'gpu' and dtype == 'bfloat16' and config.attention_cap is None
            and not tokens_split and config.head_width % 8 == 0
            and config.head_width <= _WIDEST_HEAD
        ),
        'plain': True,
    }
    return tuple(kernel for kernel, here in fits.items() if here)


def splits_tokens(rows: int, length: int) -> bool:
    """Whether the mesh in use splits the tokens of so many rows of this length, evenly."""
    parts = axis_in_use('tokens')
    return parts > 1 and length % parts == 0 and rows % axis_in_use('rows') == 0


def takes(kernel: str, rows: int, length: int) -> bool:
    """Whether a kernel other than 'plain' takes so many rows of this length on the mesh in use.

    A device has whole rows, and `ROW_MULTIPLE` tokens of each or a multiple of that.
    """
    multiple = ROW_MULTIPLE * axis_in_use('tokens')
    return kernel != 'plain' and length % multiple == 0 and rows % axis_in_use('rows') == 0


def attend_to_self(
    kernel: str,
    q_XHTC: jax.Array,
    k_XKTC: jax.Array,
    v_XKTC: jax.Array,
    segments_XT: jax.Array,
    parents_XT: jax.Array | None = None,
    positions_XT: jax.Array | None = None,
    *,
    window: int | None,
    scale: float | None = None,
    cap: float | None = None,
) -> jax.Array:
    """Causal softmax attention within segments and, with 'cudnn', to their parents.

    Args:
        kernel: of `KERNELS`, except 'plain'.
        q_XHTC: rotated queries; query head h reads key-value head h // (H / K). Rows and tokens
            are as `takes` wants them.
        k_XKTC, v_XKTC: keys and values.
        segments_XT: int32; consecutive tokens of one number see each other.
        parents_XT: int32, the segment earlier in the row that a token sees beside its own; None if
            each sees its own only.
        positions_XT: int32, of the tokens, which ascend in a segment and from its parent to it.
            Beside parents the window is of positions, else of columns, which is the same there.
        window: tokens back that a query sees, its own included; None for all.
        scale: factor on the scores; None: 1 / sqrt(C).
        cap: see `soft_cap`.

    Returns:
        [X, H, T, C] in the queries' dtype.
    """
    scale = q_XHTC.shape[-1] ** -0.5 if scale is None else scale
    if kernel == 'splash':
        if parents_XT is not None:
            raise ValueError('splash attention sees one segment only: give no parents_XT')
        return _splash(q_XHTC * scale, k_XKTC, v_XKTC, segments_XT, window, cap)
    return _dot_product(
        q_XHTC, k_XKTC, v_XKTC, segments_XT, window, scale, kernel, parents_XT, positions_XT
    )


def within_segments(segments_XT: jax.Array, parents_XT: jax.Array | None) -> jax.Array:
    """What each token may see of its row: its own segment and its parent; bool[X, T, S]."""
    seen_XTS = segments_XT[:, :, None] == segments_XT[:, None, :]
    if parents_XT is not None:
        seen_XTS |= parents_XT[:, :, None] == segments_XT[:, None, :]
    return seen_XTS


def attend_plainly(
    q_XHTC: jax.Array,
    k_XKTC: jax.Array,
    v_XKTC: jax.Array,
    visible_XTS: jax.Array,
    *,
    scale: float | None = None,
    cap: float | None = None,
) -> jax.Array:
    """`attend` of rows to themselves, causally: the kernel 'plain'.

    Args:
        q_XHTC, k_XKTC, v_XKTC: as in `attend_to_self`; rows and tokens are any.
        visible_XTS: bool, what each query sees.
        scale, cap: as in `attend`.

    Returns:
        [X, H, T, C] in the queries' dtype.
    """
    if splits_tokens(q_XHTC.shape[0], q_XHTC.shape[2]):
        return _attend_split(q_XHTC, k_XKTC, v_XKTC, visible_XTS, scale, cap)
    source = Source(k_XKTC.swapaxes(2, 3), v_XKTC, visible_XTS)
    return attend(q_XHTC, [source], scale=scale, cap=cap, causal=True)


def _attend_split(
    q_XHTC: jax.Array,
    k_XKTC: jax.Array,
    v_XKTC: jax.Array,
    visible_XTS: jax.Array,
    scale: float | None,
    cap: float | None,
) -> jax.Array:
    """`attend_plainly`, each device of the mesh in use with its own queries."""

    def own(
        q_XHtC: jax.Array, k_XKTC: jax.Array, v_XKTC: jax.Array, visible_XtS: jax.Array
    ) -> jax.Array:
        source = Source(k_XKTC.swapaxes(2, 3), v_XKTC, visible_XtS)
        return attend(q_XHtC, [source], scale=scale, cap=cap)

    return jax.shard_map(
        own, in_specs=(_spec(*_QUERIES), _spec(*_KEYS), _spec(*_KEYS), _spec('rows', 'tokens')),
        out_specs=_spec(*_QUERIES), check_vma=False,
    )(q_XHTC, k_XKTC, v_XKTC, visible_XTS)


_QUERIES = 'rows', 'heads', 'tokens'
_KEYS = 'rows', 'kv_heads'


def _spec(*axes: str) -> PartitionSpec:
    """Where an array lies on the mesh in use, by the logical names of its first axes."""
    return nn.logical_to_mesh_axes(axes) or PartitionSpec()


def _splash(
    q_XHTC: jax.Array,
    k_XKTC: jax.Array,
    v_XKTC: jax.Array,
    segments_XT: jax.Array,
    window: int | None,
    cap: float | None,
) -> jax.Array:
    """Splash attention, which the compiler cannot split: each device runs it on its own part.

    The queries are scaled.
    """
    heads, length = q_XHTC.shape[1:3]
    parts = axis_in_use('tokens')
    kernel = _splash_kernel(heads // axis_in_use('heads'), length, parts, window, cap)

    def run(
        kernel: SplashAttentionKernel, q_XHtC: jax.Array, k_XKTC: jax.Array,
        v_XKTC: jax.Array, segments_Xt: jax.Array, segments_XT: jax.Array,
    ) -> jax.Array:
        segments = splash_attention.SegmentIds(segments_Xt, segments_XT)
        return jax.vmap(kernel)(q_XHtC, k_XKTC, v_XKTC, segments).astype(q_XHtC.dtype)

    arrays = q_XHTC, k_XKTC, v_XKTC, segments_XT, segments_XT
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return run(kernel, *arrays)
    # The kernel's mask is split as the queries are.
    masks = kernel.manual_sharding_spec(NamedSharding(mesh, PartitionSpec(None, *_spec('tokens'))))
    rows = _spec('rows')
    return jax.shard_map(
        run,
        in_specs=(
            masks, _spec(*_QUERIES), _spec(*_KEYS), _spec(*_KEYS), _spec('rows', 'tokens'), rows
        ),
        out_specs=_spec(*_QUERIES), check_vma=False,
    )(kernel, *arrays)


def _splash_kernel(
    heads: int, length: int, parts: int, window: int | None, cap: float | None
) -> SplashAttentionKernel:
    """The kernel of so many heads, for rows of `length` tokens in so many parts."""
    shape = length, length
    mask = splash_attention.CausalMask(shape)
    if window is not None:
        mask = splash_attention.LocalMask(shape, (window - 1, 0), 0)
    block = next(size for size in (512, 256, ROW_MULTIPLE) if length // parts % size == 0)
    return splash_attention.make_splash_mha(
        splash_attention.MultiHeadMask([mask] * heads),
        block_sizes=splash_attention.BlockSizes(
            block_q=block, block_kv=block, block_kv_compute=block, block_q_dkv=block,
            block_kv_dkv=block, block_kv_dkv_compute=block, block_q_dq=block, block_kv_dq=block,
        ),
        head_shards=1,
        q_seq_shards=parts,
        attn_logits_soft_cap=cap,
    )


def _dot_product(
    q_XHTC: jax.Array,
    k_XKTC: jax.Array,
    v_XKTC: jax.Array,
    segments_XT: jax.Array,
    window: int | None,
    scale: float,
    implementation: str,
    parents_XT: jax.Array | None = None,
    positions_XT: jax.Array | None = None,
) -> jax.Array:
    seen_XTS = within_segments(segments_XT, parents_XT)
    if window is not None and positions_XT is not None:
        # A parent may lie further away in the row than in the text.
        seen_XTS &= positions_XT[:, None, :] > positions_XT[:, :, None] - window
        window = None
    mixed_XTHC = jax.nn.dot_product_attention(
        *(x.swapaxes(1, 2) for x in (q_XHTC, k_XKTC, v_XKTC)),
        mask=seen_XTS[:, None],
        scale=scale,
        is_causal=True,
        local_window_size=None if window is None else (window - 1, 0),
        implementation=implementation,
    )
    return mixed_XTHC.swapaxes(1, 2)
