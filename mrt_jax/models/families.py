"""One table of model families: their switches, and the names of their tensors."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from mrt_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Family:
    """What tells a family of Hugging Face models from the others.

    Attributes:
        architecture: class that transformers loads it with.
        biases: of attention's projections: none, always on queries, keys and values, or on all four
            if the config has `attention_bias`.
        mlp_bias: the config may ask for biases in the feed-forward layer.
        qk_norm: RMS norm on each head's queries and keys.
        window: whether `sliding_window` counts: never, always, or with `use_sliding_window`.
        head_width: width of a head when the config does not say; None: width / heads.
        max_positions: context when the config does not say.
    """

    architecture: str
    biases: Literal['none', 'qkv', 'config'] = 'none'
    mlp_bias: bool = False
    qk_norm: bool = False
    window: Literal['never', 'always', 'switch'] = 'never'
    head_width: int | None = None
    max_positions: int = 32_768


FAMILIES: Mapping[str, Family] = {
    'llama': Family('LlamaForCausalLM', biases='config', mlp_bias=True, max_positions=2048),
    'mistral': Family('MistralForCausalLM', window='always', max_positions=131_072),
    'qwen2': Family('Qwen2ForCausalLM', biases='qkv', window='switch'),
    'qwen3': Family(
        'Qwen3ForCausalLM', biases='config', qk_norm=True, window='switch', head_width=128
    ),
}


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A parameter and its name in a policy folder.

    Attributes:
        path: keys in the tree of parameters.
        name: in the folder; within the layer for tensors of the layers.
        shape: of the parameter, without the axis of layers.
        inputs: leading axes that a kernel contracts, 0 for biases and scales. A folder has kernels
            as [outputs, inputs], each of the two in one axis.
    """

    path: tuple[str, str]
    name: str
    shape: tuple[int, ...]
    inputs: int = 0

    def to_hf(self, param: np.ndarray) -> np.ndarray:
        if not self.inputs:
            return param.reshape(-1)
        return param.reshape(math.prod(self.shape[: self.inputs]), -1).T

    def from_hf(self, tensor: np.ndarray) -> np.ndarray:
        return tensor.T.reshape(self.shape)


def _layer_tensors(config: 'ModelConfig') -> Iterator[_Tensor]:
    """Tensors of one layer, in the order in which the layer uses them."""
    width, ffn = (config.width,), (config.ffn_width,)
    heads = (config.num_heads, config.head_width)
    kv_heads = (config.num_kv_heads, config.head_width)
    bias, output_bias, mlp_bias = config.attention_bias, config.output_bias, config.mlp_bias
    linears = (
        ('query', 'self_attn.q_proj', width, heads, bias),
        ('key', 'self_attn.k_proj', width, kv_heads, bias),
        ('value', 'self_attn.v_proj', width, kv_heads, bias),
        ('output', 'self_attn.o_proj', heads, width, output_bias),
        ('gate', 'mlp.gate_proj', width, ffn, mlp_bias),
        ('up', 'mlp.up_proj', width, ffn, mlp_bias),
        ('down', 'mlp.down_proj', ffn, width, mlp_bias),
    )
    yield _Tensor(('attention_norm', 'scale'), 'input_layernorm.weight', width)
    for path, name, inputs, outputs, has_bias in linears:
        yield _Tensor((path, 'kernel'), f'{name}.weight', inputs + outputs, len(inputs))
        if has_bias:
            yield _Tensor((path, 'bias'), f'{name}.bias', outputs)
    if config.qk_norm:
        yield _Tensor(('query_norm', 'scale'), 'self_attn.q_norm.weight', heads[1:])
        yield _Tensor(('key_norm', 'scale'), 'self_attn.k_norm.weight', heads[1:])
    yield _Tensor(('mlp_norm', 'scale'), 'post_attention_layernorm.weight', width)


def to_hf_tensors(params: Any, config: 'ModelConfig') -> Iterator[tuple[str, np.ndarray]]:
    """Names and values of the tensors of a policy folder, one at a time.

    Args:
        params: parameters of a `Transformer`, on devices or not.
        config: its config.

    Yields:
        Names as transformers has them, and views in the parameters' dtype, not row-major.
    """
    yield 'model.embed_tokens.weight', np.asarray(params['embedding'])
    tensors = [
        (tensor, np.asarray(params['layers'][tensor.path[0]][tensor.path[1]]))
        for tensor in _layer_tensors(config)
    ]
    for layer in range(config.num_layers):
        for tensor, stacked in tensors:
            yield f'model.layers.{layer}.{tensor.name}', tensor.to_hf(stacked[layer])
    yield 'model.norm.weight', np.asarray(params['final_norm']['scale'])
    if not config.tie_embeddings:
        yield 'lm_head.weight', np.asarray(params['unembedding']).T


def from_hf_tensors(get: Callable[[str], np.ndarray], config: 'ModelConfig') -> Any:
    """Parameters of a `Transformer` from the tensors of a policy folder.

    Args:
        get: reads the tensor of a name; each name is asked for once.
        config: shape and switches.

    Returns:
        The tree of parameters, layers stacked, in the dtype of the tensors.

    Raises:
        ValueError: a tensor's shape is not what the config says.
    """

    def checked(name: str, shape: tuple[int, ...]) -> np.ndarray:
        tensor = get(name)
        if tensor.shape != shape:
            raise ValueError(f'tensor {name} has shape {tensor.shape}, the config says {shape}')
        return tensor

    vocabulary = (config.vocab_size, config.width)
    params: dict[str, Any] = {
        'embedding': checked('model.embed_tokens.weight', vocabulary),
        'layers': {},
        'final_norm': {'scale': checked('model.norm.weight', (config.width,))},
    }
    for tensor in _layer_tensors(config):
        shape = tensor.to_hf(np.broadcast_to(np.float32(0), tensor.shape)).shape
        names = [f'model.layers.{layer}.{tensor.name}' for layer in range(config.num_layers)]
        stacked = None
        for layer, name in enumerate(names):
            param = tensor.from_hf(checked(name, shape))
            if stacked is None:
                stacked = np.empty((config.num_layers, *tensor.shape), param.dtype)
            stacked[layer] = param
        params['layers'].setdefault(tensor.path[0], {})[tensor.path[1]] = stacked
    if not config.tie_embeddings:
        params['unembedding'] = checked('lm_head.weight', vocabulary).T
    return params
