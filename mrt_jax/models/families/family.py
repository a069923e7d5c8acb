"""What a family of Hugging Face models says of itself."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

# Parameters of a layer, by their key in the tree, and what most families call them in a folder.
LAYER_TENSORS: Mapping[str, str] = MappingProxyType({
    'attention_norm': 'input_layernorm',
    'query': 'self_attn.q_proj',
    'key': 'self_attn.k_proj',
    'value': 'self_attn.v_proj',
    'output': 'self_attn.o_proj',
    'query_norm': 'self_attn.q_norm',
    'key_norm': 'self_attn.k_norm',
    'mlp_norm': 'post_attention_layernorm',
    'gate': 'mlp.gate_proj',
    'up': 'mlp.up_proj',
    'down': 'mlp.down_proj',
})


@dataclasses.dataclass(frozen=True)
class Family:
    """What tells a family of Hugging Face models from the others.

    Attributes:
        architecture: class that transformers loads it with.
        tensors: names of a layer's tensors, by parameter.
        biases: of attention's projections: none, always on queries, keys and values, or on all four
            if the config has `attention_bias`.
        mlp_bias: the config may ask for biases in the feed-forward layer.
        qk_norm: RMS norm on each head's queries and keys.
        post_norms: RMS norm on what attention and the feed-forward layer add, too.
        unit_offset: RMS norms multiply by 1 + scale.
        embedding_scale: embeddings are multiplied by the square root of the width.
        query_scalar: the config may give `query_pre_attn_scalar`; its default. None: it may not.
        attention_cap, logit_cap: defaults of the caps, where the config may give them.
        caps: which caps the config may give.
        activation_key, activation: entry of the config that names the activation; its default.
        window: layers with a sliding window: none, all, those from `max_window_layers` on if the
            config has `use_sliding_window`, or all but every `global_every`-th.
        global_every: see `window`; what `sliding_window_pattern` is when the config does not say.
        rope_base: base of the rotary frequencies when the config does not say.
        local_rope_base: the same for layers with a window; None: they are like the others.
        head_width: width of a head when the config does not say; None: width / heads.
        max_positions: context when the config does not say.
        tie_embeddings: whether the output layer is the embedding when the config does not say.
    """

    architecture: str
    tensors: Mapping[str, str] = dataclasses.field(default_factory=lambda: LAYER_TENSORS)
    biases: Literal['none', 'qkv', 'config'] = 'none'
    mlp_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    unit_offset: bool = False
    embedding_scale: bool = False
    query_scalar: int | None = None
    attention_cap: float | None = None
    logit_cap: float | None = None
    caps: tuple[Literal['attention_cap', 'logit_cap'], ...] = ()
    activation_key: str = 'hidden_act'
    activation: str = 'silu'
    window: Literal['never', 'always', 'switch', 'pattern'] = 'never'
    global_every: int | None = None
    rope_base: float = 10_000.0
    local_rope_base: float | None = None
    head_width: int | None = None
    max_positions: int = 32_768
    tie_embeddings: bool = False
