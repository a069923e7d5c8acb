"""A decoder-only transformer, applied functionally.

RMS norm before attention (grouped queries, rotary positions) and before a gated feed-forward
layer; whatever else a family does is a switch of `ModelConfig`. Layers are stacked along a leading
axis and scanned, so a deep model compiles as fast as a shallow one; `for_decoding` takes the
stack apart for a decode loop, which would else copy every layer at every step.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrt_jax.models.attention import Source, attend, visible
from mrt_jax.models.attention_kernels import (
    KERNELS,
    attend_plainly,
    attend_to_self,
    splits_tokens,
    takes,
    within_segments,
)
from mrt_jax.models.cache import (
    CACHE_DTYPES,
    COMPUTE,
    Context,
    KVCache,
    NewKV,
    Room,
    append,
)
from mrt_jax.models.config import ModelConfig
from mrt_jax.models.logical_axes import on_one_cpu
from mrt_jax.models.lora import DOWN, UP
from mrt_jax.models.parts import Linear, RMSNorm
from mrt_jax.models.rotary import rotate, rotation

REMAT_POLICIES = {
    'none': None,
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    'full': jax.checkpoint_policies.nothing_saveable,
}

ACTIVATIONS = {'silu': nn.silu, 'gelu_tanh': lambda x: nn.gelu(x, approximate=True)}

KV = tuple[jax.Array, jax.Array]
# How a layer looks at tokens: rotation_XT, and what is visible of each source or, for a kernel,
# segments_XT and, where segments have parents, parents_XT and positions_XT.
View = tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]


def _by_row(x_XTD: jax.Array) -> jax.Array:
    """Pins activations to the mesh within `sharding.rules.use_mesh`; elsewhere the identity."""
    return nn.with_logical_constraint(x_XTD, ('rows', 'tokens', None))


@functools.partial(jax.checkpoint, static_argnums=0, prevent_cse=False)
def _gated(activation: str, gate_NF: jax.Array, up_NF: jax.Array) -> jax.Array:
    """Input of the layer's last product; of what it consists of only the two inputs are kept."""
    return ACTIVATIONS[activation](gate_NF) * up_NF


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then + feed_forward(norm(x)); the sums' norms if asked."""

    config: ModelConfig
    lora_rank: int = 0
    kernel: str = 'plain'
    columns: bool = False
    product_dtype: str | None = None

    @nn.compact
    def __call__(
        self,
        x_XTD: jax.Array,
        views: tuple[View, ...],
        is_local: jax.Array | None,
        context_kv: tuple[KV, ...] = (),
        room: tuple[KV, jax.Array | int] | None = None,
    ) -> tuple[jax.Array, KV]:
        c = self.config
        linear = functools.partial(
            Linear, lora_rank=self.lora_rank, columns=self.columns,
            product_dtype=self.product_dtype,
        )
        rows, length, _ = x_XTD.shape
        width, ffn = (c.width,), (c.ffn_width,)
        heads, kv_heads = (c.num_heads, c.head_width), (c.num_kv_heads, c.head_width)
        # Both writes to the residual stream start smaller the more layers there are.
        depth_scale = (2 * c.num_layers) ** -0.5

        def turned(x_ND: jax.Array) -> jax.Array:
            """Columns for rows, or back, where the layer multiplies columns."""
            return x_ND.T if self.columns else x_ND

        # One axis N of rows and tokens, unless devices split tokens: then [X, T] stay two.
        tokens_split = splits_tokens(rows, length)
        lead = (rows, length) if tokens_split else (rows * length,)
        x_ND = turned(x_XTD.reshape(*lead, c.width))
        rotation_XT, visible_parts = views[0]
        if is_local is not None:
            rotation_XT, visible_parts = jax.tree.map(
                lambda everywhere, near: jnp.where(is_local, near, everywhere), *views
            )

        def norm(name: str, axis: str = 'embed') -> RMSNorm:
            columns = self.columns and axis == 'embed'
            return RMSNorm(c.norm_eps, axis, c.unit_offset, columns, name=name)

        h_ND = norm('attention_norm')(x_ND)
        q_axes, kv_axes = ('embed', 'heads', 'head'), ('embed', 'kv_heads', 'head')
        q = linear(width, heads, q_axes, c.attention_bias, name='query')(h_ND)
        k = linear(width, kv_heads, kv_axes, c.attention_bias, name='key')(h_ND)
        v = linear(width, kv_heads, kv_axes, c.attention_bias, name='value')(h_ND)
        q_XTHC, k_XTKC, v_XTKC = (
            turned(y).reshape(rows, length, -1, c.head_width) for y in (q, k, v)
        )
        if c.qk_norm:
            q_XTHC = norm('query_norm', 'head')(q_XTHC)
            k_XTKC = norm('key_norm', 'head')(k_XTKC)
        q_XHTC, k_XKTC, v_XKTC = (y.swapaxes(1, 2) for y in (q_XTHC, k_XTKC, v_XTKC))
        q_XHTC, k_XKTC = rotate(q_XHTC, *rotation_XT), rotate(k_XKTC, *rotation_XT)
        new_kv = k_XKTC, v_XKTC
        if self.kernel != 'plain':
            mixed_XHTC = self._run_kernel(is_local, q_XHTC, *new_kv, *visible_parts)
        elif room is None and not context_kv:
            mixed_XHTC = attend_plainly(
                q_XHTC, *new_kv, *visible_parts, scale=c.score_scale, cap=c.attention_cap
            )
        else:
            own_kv = k_XKTC.swapaxes(2, 3), v_XKTC
            if room is not None:
                new_kv = own_kv = append(room[0], k_XKTC, v_XKTC, room[1])
            sources = [
                Source(keys, values, seen)
                for (keys, values), seen in zip((*context_kv, own_kv), visible_parts, strict=True)
            ]
            mixed_XHTC = attend(q_XHTC, sources, scale=c.score_scale, cap=c.attention_cap)
        mixed_ND = turned(mixed_XHTC.swapaxes(1, 2).reshape(*lead, -1))
        mixed_ND = linear(
            heads, width, ('heads', 'head', 'embed'), c.output_bias, depth_scale, name='output'
        )(mixed_ND)
        x_ND += norm('attention_post_norm')(mixed_ND) if c.post_norms else mixed_ND

        h_ND = norm('mlp_norm')(x_ND)
        gate_NF = linear(width, ffn, ('embed', 'mlp'), c.mlp_bias, name='gate')(h_ND)
        up_NF = linear(width, ffn, ('embed', 'mlp'), c.mlp_bias, name='up')(h_ND)
        fed_ND = linear(ffn, width, ('mlp', 'embed'), c.mlp_bias, depth_scale, name='down')(
            _gated(c.activation, gate_NF, up_NF)
        )
        x_ND += norm('mlp_post_norm')(fed_ND) if c.post_norms else fed_ND
        return _by_row(turned(x_ND).reshape(x_XTD.shape)), new_kv

    def _run_kernel(self, is_local: jax.Array | None, *operands: jax.Array) -> jax.Array:
        """Of the operands of `attend_to_self`."""
        c = self.config

        def run(window: int | None) -> Callable[..., jax.Array]:
            return functools.partial(
                attend_to_self, self.kernel, window=window, scale=c.score_scale,
                cap=c.attention_cap,
            )

        if is_local is None:
            return run(c.sliding_window)(*operands)
        return jax.lax.cond(is_local, run(c.sliding_window), run(None), *operands)


class Transformer(nn.Module):
    """Tokens to final hidden states; `unembedding` gives the output layer.

    Attributes:
        config: shape and switches.
        dtype: of activations and matrix products; norms and softmax are float32.
        remat: what the backward pass recomputes, a key of `REMAT_POLICIES`.
        param_dtype: of the parameters; adapters are float32.
        lora_rank: rank of the adapter of every linear layer, see `models.lora`; 0 for none.
        kernel: of rows that attend to themselves only, see `attention_kernels`; rows that
            `attention_kernels.takes` turns down are attended to plainly.
        cache_dtype: of keys and values that are kept, of `CACHE_DTYPES`.
        columns: whether it decodes on one CPU: layers multiply [outputs, inputs] by [inputs, N],
            and rotations are computed once a step; see `for_decoding`.
        product_dtype: what the operands of products with parameters are rounded to, see
            `kernels.products`; on one CPU only. None: they have `dtype`.
    """

    config: ModelConfig
    dtype: str = 'float32'
    remat: str = 'none'
    param_dtype: str = 'float32'
    lora_rank: int = 0
    kernel: str = 'plain'
    cache_dtype: str = COMPUTE
    columns: bool = False
    product_dtype: str | None = None

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise ValueError(f'kernel {self.kernel!r} is none of {", ".join(KERNELS)}')
        if self.cache_dtype not in CACHE_DTYPES:
            known = ', '.join(CACHE_DTYPES)
            raise ValueError(f'cache_dtype {self.cache_dtype!r} is none of {known}')
        if self.remat not in REMAT_POLICIES:
            raise ValueError(f'remat {self.remat!r} is none of {", ".join(REMAT_POLICIES)}')
        super().__post_init__()

    @property
    def stored_dtype(self) -> str:
        """What caches are made of."""
        return self.dtype if self.cache_dtype == COMPUTE else self.cache_dtype

    @nn.compact
    def __call__(
        self,
        tokens_XT: jax.Array,
        positions_XT: jax.Array,
        segments_XT: jax.Array | None = None,
        parents_XT: jax.Array | None = None,
        contexts: tuple[Context, ...] = (),
        room: Room | None = None,
    ) -> tuple[jax.Array, NewKV | KVCache]:
        """Reads tokens, attending to them and to what was read before.

        Training and prefill have neither contexts nor room; decoding has room in the row's cache;
        the meta-prover has the parent trace's cache, up to a limit, and room in its own.

        Args:
            tokens_XT: int32.
            positions_XT: int32, ascending along each segment; -1 marks padding, which nobody
                attends to.
            segments_XT: int32; tokens attend within their segment only. None, as always with room:
                one segment a row.
            parents_XT: int32, with segments: a segment earlier in the row that tokens attend to as
                well, their own where there is none. None: no segment has one.
            contexts: earlier keys and values, only read.
            room: earlier keys and values to which those of the tokens are added first.

        Raises:
            ValueError: parents without segments, or rounded products elsewhere than on one CPU;
                while tracing.

        Returns:
            hidden_XTD after the final norm, in the compute dtype, and the room's cache with the
            tokens in it; without room the rotated keys and values of the tokens.
        """
        c = self.config
        if self.product_dtype is not None and not on_one_cpu():
            raise ValueError("products are rounded on one CPU only: give dtype='bfloat16' alone")
        if parents_XT is not None and segments_XT is None:
            raise ValueError('parents_XT are numbers of segments: give segments_XT as well')
        small = nn.initializers.normal(0.02)
        embedding_VD = self.param(
            'embedding', nn.with_logical_partitioning(small, ('vocab', 'embed')),
            (c.vocab_size, c.width), jnp.float32,
        )
        if not c.tie_embeddings and not self.columns:
            # Used by callers only, which never hold logits of a whole batch.
            self.param(
                'unembedding', nn.with_logical_partitioning(small, ('embed', 'vocab')),
                (c.width, c.vocab_size), jnp.float32,
            )
        own_positions_XS = positions_XT
        if room is not None:
            own_positions_XS = jax.lax.dynamic_update_slice_in_dim(
                room.cache.positions_BS, positions_XT, room.slot, 1
            )

        stacked = not (contexts or room or isinstance(self.get_variable('params', 'layers'), tuple))
        kernel = self.kernel if stacked and takes(self.kernel, *tokens_XT.shape) else 'plain'

        def view(local: bool) -> View:
            turn = self._rotation(positions_XT, local)
            if kernel != 'plain':
                segments = 0 if segments_XT is None else segments_XT
                used_XT = jnp.where(positions_XT >= 0, segments, -1)
                related = () if parents_XT is None else (parents_XT, positions_XT)
                return turn, (used_XT, *related)
            window = c.sliding_window if local else None
            own_XTS = visible(positions_XT, own_positions_XS, window=window)
            if segments_XT is not None:
                own_XTS &= within_segments(segments_XT, parents_XT)
            seen = [
                visible(positions_XT, context.cache.positions_BS, window=window,
                        limit_X=context.limit_X)
                for context in contexts
            ]
            return turn, (*seen, own_XTS)

        # Gathering rows of a table split by width would make the compiler split x by width too.
        table_VD = nn.with_logical_constraint(embedding_VD.astype(self.dtype), ('vocab', None))
        x_XTD = _by_row(table_VD[tokens_XT])
        if c.embedding_scale:
            x_XTD *= jnp.asarray(c.width**0.5, x_XTD.dtype)
        if stacked:
            x_XTD, new_kv = self._scan(x_XTD, view, kernel)
        else:
            x_XTD, new_kv = self._layer_by_layer(x_XTD, view, contexts, room)
        if room is not None:
            new_kv = KVCache(*zip(*new_kv, strict=True), positions_BS=own_positions_XS)
        final_norm = RMSNorm(c.norm_eps, 'embed', c.unit_offset, name='final_norm')
        return final_norm(x_XTD), new_kv

    def _rotation(self, positions_XT: jax.Array, local: bool) -> tuple[jax.Array, jax.Array]:
        """Cosines and sines of the tokens; with `columns` zeros where all of them are padding.

        A branch is what XLA's fusions on CPU stop at: every layer would compute the sines again.
        """
        turn = functools.partial(rotation, self.config, local=local)
        if not self.columns:
            return turn(positions_XT)
        shapes = jax.eval_shape(turn, positions_XT)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.cond((positions_XT >= 0).any(), turn, lambda _: zeros, positions_XT)

    def _scan(
        self, x_XTD: jax.Array, view: Callable[[bool], View], kernel: str
    ) -> tuple[jax.Array, NewKV]:
        """All layers, one program for all of them."""
        c = self.config
        if c.local_layers is None:
            views, are_local = (view(c.sliding_window is not None),), None
        else:
            views, are_local = (view(False), view(True)), jnp.array(c.local_layers)
        block = Block
        if self.remat != 'none':
            block = nn.remat(Block, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
        layers = nn.scan(
            block,
            variable_axes={'params': 0},
            split_rngs={'params': True},
            in_axes=(nn.broadcast, 0),
            length=c.num_layers,
            metadata_params={nn.PARTITION_NAME: 'layers'},
        )(c, self.lora_rank, kernel, product_dtype=self.product_dtype, name='layers')
        x_XTD, stacked = layers(x_XTD, views, are_local)
        return x_XTD, _unstack(stacked, c.num_layers)

    def _layer_by_layer(
        self,
        x_XTD: jax.Array,
        view: Callable[[bool], View],
        contexts: tuple[Context, ...],
        room: Room | None,
    ) -> tuple[jax.Array, NewKV]:
        """All layers, a program for each: their parameters and caches are read where they lie."""
        c = self.config
        block = Block(
            c, self.lora_rank, columns=self.columns, product_dtype=self.product_dtype, parent=None
        )
        layers = self.get_variable('params', 'layers')
        if not isinstance(layers, tuple):
            layers = _unstack(layers, c.num_layers)
        local_layers = c.local_layers or (c.sliding_window is not None,) * c.num_layers
        views = {local: view(local) for local in set(local_layers)}
        new_kv = []
        for index, (params, local) in enumerate(zip(layers, local_layers, strict=True)):
            earlier = [context.cache.layer(index) for context in contexts]
            own = None if room is None else (room.cache.layer(index), room.slot)
            x_XTD, own_kv = block.apply(
                {'params': params}, x_XTD, (views[local],), None, tuple(earlier), own
            )
            new_kv.append(own_kv)
        return x_XTD, tuple(new_kv)


def for_decoding(model: Transformer, params: Any) -> tuple[Transformer, Any]:
    """The network and its parameters as a decode loop runs them best; within a jitted program.

    The parameters are a copy in the compute dtype, with a tree for each layer in place of the
    stack, and on a mesh whole along the axis that training splits by width: a loop would else cut
    the stack, cast it, and gather it from all devices, at every step. On one CPU the network
    multiplies columns and kernels lie transposed: XLA computes products with a few rows up to a
    third faster so. Samplers then keep keys in blocks, see `cache.split_keys`. Where products are
    rounded, so are kernels; an output layer that is the embedding becomes a copy of its own.
    """
    decoder = decoder_of(model)

    def prepare(path: tuple[Any, ...], param: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
        if path[-1].key in ('kernel', 'unembedding'):
            param = param.astype(model.product_dtype or model.dtype)
        elif path[-1].key != 'scale':  # Norms are float32.
            param = param.astype(model.dtype)
        param = nn.with_logical_constraint(
            param, tuple(None if axis == 'embed' else axis for axis in axes)
        )
        if decoder.columns and path[-1].key == 'unembedding':
            return param.T
        if decoder.columns and path[-1].key == 'kernel':
            # Behind the layers' axis stand the inputs, then the outputs; the width is one of them.
            outputs = 2 if axes[1] == 'embed' else len(axes) - 1
            return param.transpose(0, *range(outputs, len(axes)), *range(1, outputs))
        return param

    embedding_VD = params['embedding']
    params = jax.tree_util.tree_map_with_path(prepare, params, logical_axes(model))
    if model.product_dtype and model.config.tie_embeddings:
        params['unembedding'] = embedding_VD.astype(model.product_dtype)
    layers = _unstack(params['layers'], model.config.num_layers)
    return decoder, {**params, 'layers': layers}


def decoder_of(model: Transformer) -> Transformer:
    """The network of `for_decoding`."""
    return model.clone(columns=on_one_cpu())


def _unstack(stacked: Any, count: int) -> tuple[Any, ...]:
    """A tree for each layer from the tree of their stacks."""

    def take(layer: int) -> Any:
        return jax.tree.map(lambda x: x[layer], stacked)

    return tuple(map(take, range(count)))


def unembedding(params: Any, config: ModelConfig) -> jax.Array:
    """Output layer [D, V], float32; the embedding transposed where the two are tied."""
    return params['embedding'].T if config.tie_embeddings else params['unembedding']


def init_params(model: Transformer, key: jax.Array, shardings: Any = None) -> Any:
    """Fresh parameters, a tree of arrays in the network's `param_dtype`.

    Kernels are normal with variance 1 / (fan in), smaller by 2 L for those that write to the
    residual stream; embedding and output layer are normal with standard deviation 0.02.

    Args:
        model: the network.
        key: typed PRNG key; the values depend on it only, not on the shardings.
        shardings: where to make each, see `sharding.rules.param_shardings`; None: on one device.
    """
    if shardings is None:
        return _fresh(model, key)
    return jax.jit(lambda key: _fresh(model, key), out_shardings=shardings)(key)


def logical_axes(model: Transformer) -> Any:
    """Logical axis names of every parameter: the tree of `init_params` with tuples as leaves."""
    return jax.tree.map(
        lambda box: tuple(box.names), _boxed_shapes(model.config, model.lora_rank), is_leaf=_is_box
    )


def abstract_params(model: Transformer) -> Any:
    """Shapes and dtypes of the parameters, without making them."""
    return jax.tree_util.tree_map_with_path(
        lambda path, box: jax.ShapeDtypeStruct(box.value.shape, _dtype(model, path)),
        _boxed_shapes(model.config, model.lora_rank), is_leaf=_is_box,
    )


def _is_box(x: Any) -> bool:
    return isinstance(x, nn.meta.AxisMetadata)


@functools.lru_cache
def _boxed_shapes(config: ModelConfig, lora_rank: int) -> Any:
    """Shapes of the parameters, in boxes with the names of their axes; all that they depend on.

    Kept, as tracing a network takes a while and runs ask often; shared, so not to be changed.
    """
    model = Transformer(config, lora_rank=lora_rank)
    return jax.eval_shape(lambda: _boxed(model, jax.random.key(0)))


def _boxed(model: Transformer, key: jax.Array) -> Any:
    tokens_XT = jnp.zeros((1, 1), jnp.int32)
    return model.init(key, tokens_XT, tokens_XT)['params']


def _fresh(model: Transformer, key: jax.Array) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, param: param.astype(_dtype(model, path)), nn.meta.unbox(_boxed(model, key))
    )


def _dtype(model: Transformer, path: tuple[Any, ...]) -> Any:
    """Dtype of the parameter at a path of the tree."""
    return jnp.dtype('float32' if path[-1].key in (DOWN, UP) else model.param_dtype)
