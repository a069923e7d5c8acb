"""The parameters of a `Transformer` and the tensors of a policy folder, one for the other."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from mrt_jax.models.config import ModelConfig
from mrt_jax.models.families import FAMILIES


@dataclasses.dataclass(frozen=True)
class Mapping:
    """A parameter and the tensors of a policy folder that hold it.

    Attributes:
        path: keys in the tree of parameters.
        names: tensors in the folder: one a layer for parameters of the layers, else one.
        shape: of the parameter, without the axis of layers.
        stacked: it has an axis of layers.
        inputs: leading axes that a kernel contracts, 0 for other parameters. A folder has kernels
            as [outputs, inputs], each of the two in one axis.
    """

    path: tuple[str, ...]
    names: tuple[str, ...]
    shape: tuple[int, ...]
    stacked: bool = True
    inputs: int = 0

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """Shape of each of the folder's tensors."""
        if self.inputs:
            sizes = self.shape[: self.inputs], self.shape[self.inputs :]
            return math.prod(sizes[1]), math.prod(sizes[0])
        return (math.prod(self.shape),) if self.stacked else self.shape

    def to_tensor(self, param: np.ndarray) -> np.ndarray:
        """A layer's part of the parameter as the folder has it; a view where that can be."""
        if self.inputs:
            param = param.reshape(math.prod(self.shape[: self.inputs]), -1).T
        return param.reshape(self.tensor_shape)

    def from_tensor(self, tensor: np.ndarray) -> np.ndarray:
        """The inverse of `to_tensor`."""
        return (tensor.T if self.inputs else tensor).reshape(self.shape)


def map_tensors(config: ModelConfig) -> Iterator[Mapping]:
    """Every parameter of a network, once, in the order in which a token meets them."""
    c, tensors = config, FAMILIES[config.family].tensors

    def in_layers(path: tuple[str, str], shape: tuple[int, ...], inputs: int = 0) -> Mapping:
        suffix = 'bias' if path[1] == 'bias' else 'weight'
        names = tuple(
            f'model.layers.{layer}.{tensors[path[0]]}.{suffix}' for layer in range(c.num_layers)
        )
        return Mapping(path, names, shape, inputs=inputs)

    width, ffn = (c.width,), (c.ffn_width,)
    heads, kv_heads = (c.num_heads, c.head_width), (c.num_kv_heads, c.head_width)
    norms = {'attention_norm': width, 'mlp_norm': width}
    if c.post_norms:
        norms |= {'attention_post_norm': width, 'mlp_post_norm': width}
    if c.qk_norm:
        norms |= {'query_norm': heads[1:], 'key_norm': heads[1:]}
    linears = (
        ('query', width, heads, c.attention_bias),
        ('key', width, kv_heads, c.attention_bias),
        ('value', width, kv_heads, c.attention_bias),
        ('output', heads, width, c.output_bias),
        ('gate', width, ffn, c.mlp_bias),
        ('up', width, ffn, c.mlp_bias),
        ('down', ffn, width, c.mlp_bias),
    )
    vocabulary = (c.vocab_size, c.width)
    yield Mapping(('embedding',), ('model.embed_tokens.weight',), vocabulary, stacked=False)
    for name, shape in norms.items():
        yield in_layers((name, 'scale'), shape)
    for name, inputs, outputs, has_bias in linears:
        yield in_layers((name, 'kernel'), inputs + outputs, len(inputs))
        if has_bias:
            yield in_layers((name, 'bias'), outputs)
    yield Mapping(('final_norm', 'scale'), ('model.norm.weight',), width, stacked=False)
    if not c.tie_embeddings:
        yield Mapping(
            ('unembedding',), ('lm_head.weight',), vocabulary[::-1], stacked=False, inputs=1
        )


def find_leaf(tree: Any, mapping: Mapping) -> Any:
    """What a tree of the parameters' form has in the place of a parameter."""
    for key in ('layers', *mapping.path) if mapping.stacked else mapping.path:
        tree = tree[key]
    return tree


def to_hf_tensors(
    params: Any, config: ModelConfig, gather: Callable[[Any], Any] = lambda param: param
) -> Iterator[tuple[str, np.ndarray]]:
    """Names and values of the tensors of a policy folder, a parameter at a time.

    Args:
        params: parameters of a `Transformer`, on devices or not.
        config: its config.
        gather: called with each parameter for one that this process has all parts of.

    Yields:
        Names as transformers has them, and views in the parameters' dtype, not row-major. A
        parameter is on the host only while its tensors are asked for.
    """
    for mapping in map_tensors(config):
        yield from _tensors_of(mapping, gather(find_leaf(params, mapping)))


def _tensors_of(mapping: Mapping, param: Any) -> Iterator[tuple[str, np.ndarray]]:
    fetched = _fetch(param)
    for index, name in enumerate(mapping.names):
        yield name, mapping.to_tensor(fetched[index] if mapping.stacked else fetched)


def _fetch(param: Any) -> np.ndarray:
    """A parameter on the host. An array keeps what `np.asarray` fetches: a new one is asked."""
    if not isinstance(param, jax.Array):
        return np.asarray(param)
    parts = [shard.data for shard in param.addressable_shards]
    return np.asarray(
        jax.make_array_from_single_device_arrays(param.shape, param.sharding, parts)
    )
