"""Shape and switches of a decoder-only transformer, read from a Hugging Face `config.json`."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from mrt_jax.errors import InputError
from mrt_jax.models.families import FAMILIES, Family

_ROPE_KINDS = ('linear', 'llama3', 'yarn')
# Names in a config, and the activation that they stand for.
_ACTIVATIONS = {'silu': 'silu', 'swish': 'silu', 'gelu_pytorch_tanh': 'gelu_tanh'}
_LAYER_KINDS = ('full_attention', 'sliding_attention')
_CAP_KEYS = {'attention_cap': 'attn_logit_softcapping', 'logit_cap': 'final_logit_softcapping'}
_MISSING = object()
_T = TypeVar('_T', int, float, bool)


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the context of pretraining.

    Attributes:
        kind: 'linear', 'llama3' or 'yarn'.
        factor: how many times longer the context becomes.
        original_positions: context of pretraining (llama3, yarn).
        low_frequency_factor, high_frequency_factor: ends of llama3's ramp.
        beta_fast, beta_slow: ends of yarn's ramp, in rotations over the original context.
        attention_factor: yarn's factor on queries and keys; None takes 0.1 ln(factor) + 1.
    """

    kind: str
    factor: float
    original_positions: int = 0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in _ROPE_KINDS:
            raise InputError(f'rope scaling {self.kind!r} is none of {", ".join(_ROPE_KINDS)}')
        if self.factor <= 0:
            raise InputError(f'rope scaling needs a factor above 0, got {self.factor}')
        if self.kind != 'linear' and self.original_positions < 1:
            raise InputError(f'rope scaling {self.kind} needs original_positions')


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder's shape and switches. Hashable: a static argument of jitted functions.

    Attributes:
        family: `model_type` in `families.FAMILIES`; names the tensors of a policy folder.
        vocab_size: V.
        width: D.
        num_layers: L.
        num_heads: H, query heads.
        num_kv_heads: K, key-value heads; divides H.
        head_width: C; even.
        ffn_width: F.
        max_positions: longest sequence.
        norm_eps: epsilon of every RMS norm.
        rope_base: base of the rotary frequencies.
        rope_scaling: None for plain rotary positions.
        attention_bias: biases on queries, keys and values.
        output_bias: bias on attention's output.
        mlp_bias: biases in the feed-forward layer.
        qk_norm: RMS norm on each head's queries and keys.
        tie_embeddings: the output layer is the embedding.
        sliding_window: keys that a query sees, itself included; None for all before it.
        local_layers: for each layer, whether `sliding_window` holds there; None: for all the same.
        local_rope_base: base of the rotary frequencies, which are not scaled, in layers with a
            window; None: they rotate like the others.
        activation: 'silu' or 'gelu_tanh', of the feed-forward layer's gate.
        post_norms: RMS norm on what attention and the feed-forward layer add, too.
        unit_offset: RMS norms multiply by 1 + scale.
        embedding_scale: embeddings are multiplied by the square root of the width.
        query_scalar: scores are divided by its square root; None: by that of head_width.
        attention_cap, logit_cap: scores and logits x become cap * tanh(x / cap); None: they stay.
    """

    family: str
    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    ffn_width: int
    max_positions: int
    norm_eps: float = 1e-6
    rope_base: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tie_embeddings: bool = True
    sliding_window: int | None = None
    local_layers: tuple[bool, ...] | None = None
    local_rope_base: float | None = None
    activation: str = 'silu'
    post_norms: bool = False
    unit_offset: bool = False
    embedding_scale: bool = False
    query_scalar: int | None = None
    attention_cap: float | None = None
    logit_cap: float | None = None

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise InputError(f'family {self.family!r} is none of {", ".join(FAMILIES)}')
        sizes = ('vocab_size', 'width', 'num_layers', 'num_heads', 'num_kv_heads', 'head_width',
                 'ffn_width', 'max_positions')
        for name in sizes:
            if getattr(self, name) < 1:
                raise InputError(f'{name} must be at least 1, got {getattr(self, name)}')
        if self.num_heads % self.num_kv_heads:
            raise InputError(
                f'{self.num_heads} query heads cannot share {self.num_kv_heads} key-value heads; '
                'the second must divide the first'
            )
        if self.head_width % 2:
            raise InputError(f'rotary positions need an even head_width, got {self.head_width}')
        if self.activation not in _ACTIVATIONS.values():
            raise InputError(f'activation {self.activation!r} is neither silu nor gelu_tanh')
        for name in ('sliding_window', 'query_scalar', 'attention_cap', 'logit_cap'):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f'{name} must be above 0, got {value}')
        if self.local_layers is not None:
            if len(self.local_layers) != self.num_layers:
                raise InputError(
                    f'local_layers has {len(self.local_layers)} entries, num_layers is '
                    f'{self.num_layers}'
                )
            if self.sliding_window is None or len(set(self.local_layers)) == 1:
                raise InputError('local_layers needs a sliding_window and layers of both kinds')

    @property
    def score_scale(self) -> float:
        """Factor on the products of queries and keys."""
        return (self.query_scalar or self.head_width) ** -0.5


def from_hf(config: Mapping[str, Any], source: str = 'config.json') -> ModelConfig:
    """Reads a Hugging Face config; keys that are absent have the family's defaults.

    Args:
        config: the parsed `config.json`.
        source: file that messages name.

    Raises:
        InputError: an architecture, activation or switch that this decoder does not compute, or a
            value of the wrong type; named together with `source`. Nothing is approximated.
    """
    name = config.get('model_type')
    if name not in FAMILIES:
        raise InputError(
            f'{source}: model_type {name!r} is not supported; supported: {", ".join(FAMILIES)}'
        )
    if config.get('quantization_config'):
        raise InputError(f'{source}: quantised weights are not supported; dequantise them first')
    family = FAMILIES[name]
    activation = config.get(family.activation_key) or family.activation
    if activation not in _ACTIVATIONS:
        raise InputError(
            f'{source}: {family.activation_key} {activation!r} is not supported; supported: '
            f'{", ".join(_ACTIVATIONS)}'
        )
    if config.get('use_bidirectional_attention'):
        raise InputError(f'{source}: use_bidirectional_attention is not supported')
    width = _read(config, 'hidden_size', int, source)
    heads = _read(config, 'num_attention_heads', int, source)
    positions = _read(config, 'max_position_embeddings', int, source, family.max_positions)
    asked_biases = family.biases == 'config' and _read(
        config, 'attention_bias', bool, source, False
    )
    layers = _read(config, 'num_hidden_layers', int, source)
    window, local_layers = _read_window(config, family, layers, source)
    rope, local_base = _read_rope(config, family, source)
    try:
        return ModelConfig(
            family=name,
            vocab_size=_read(config, 'vocab_size', int, source),
            width=width,
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=_read(config, 'num_key_value_heads', int, source, heads),
            head_width=_read(
                config, 'head_dim', int, source, family.head_width or width // max(heads, 1)
            ),
            ffn_width=_read(config, 'intermediate_size', int, source),
            max_positions=positions,
            norm_eps=_read(config, 'rms_norm_eps', float, source, 1e-6),
            rope_base=_read(rope, 'rope_theta', float, source),
            rope_scaling=_read_rope_scaling(rope, positions, source),
            attention_bias=asked_biases or family.biases == 'qkv',
            output_bias=asked_biases,
            mlp_bias=family.mlp_bias and _read(config, 'mlp_bias', bool, source, False),
            qk_norm=family.qk_norm,
            tie_embeddings=_read(
                config, 'tie_word_embeddings', bool, source, family.tie_embeddings
            ),
            sliding_window=window,
            local_layers=local_layers,
            local_rope_base=local_base,
            activation=_ACTIVATIONS[activation],
            post_norms=family.post_norms,
            unit_offset=family.unit_offset,
            embedding_scale=family.embedding_scale,
            query_scalar=family.query_scalar and _read(
                config, 'query_pre_attn_scalar', int, source, family.query_scalar
            ),
            attention_cap=_read_cap(config, family, 'attention_cap', source),
            logit_cap=_read_cap(config, family, 'logit_cap', source),
        )
    except InputError as error:
        raise error if source in str(error) else InputError(f'{source}: {error}') from error


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """Writes a config that `from_hf` and transformers read back as this one.

    Raises:
        ValueError: the family's format cannot say what the config asks for.
    """
    family = FAMILIES[config.family]
    result: dict[str, Any] = {
        'architectures': [family.architecture],
        'model_type': config.family,
        'vocab_size': config.vocab_size,
        'hidden_size': config.width,
        'num_hidden_layers': config.num_layers,
        'num_attention_heads': config.num_heads,
        'num_key_value_heads': config.num_kv_heads,
        'head_dim': config.head_width,
        'intermediate_size': config.ffn_width,
        'max_position_embeddings': config.max_positions,
        'rms_norm_eps': config.norm_eps,
        'rope_theta': config.rope_base,
        family.activation_key: next(
            name for name, meant in _ACTIVATIONS.items() if meant == config.activation
        ),
        'tie_word_embeddings': config.tie_embeddings,
    }
    if config.rope_scaling:
        result['rope_scaling'] = _write_rope_scaling(config.rope_scaling)
    if family.biases == 'config':
        result['attention_bias'] = config.attention_bias
    if family.mlp_bias:
        result['mlp_bias'] = config.mlp_bias
    if family.query_scalar:
        result['query_pre_attn_scalar'] = config.query_scalar
    result |= {_CAP_KEYS[cap]: getattr(config, cap) for cap in family.caps}
    if family.local_rope_base:
        result['rope_local_base_freq'] = config.local_rope_base
    result |= _write_window(config, family)
    read_back = dataclasses.asdict(from_hf(result))
    if lost := [name for name, value in dataclasses.asdict(config).items()
                if read_back[name] != value]:
        raise ValueError(
            f"the family {config.family} cannot express {lost[0]}={getattr(config, lost[0])!r}"
        )
    return result


def _read(
    config: Mapping[str, Any], key: str, kind: type[_T], source: str, default: Any = _MISSING
) -> _T:
    """A number or switch; null counts as absent.

    Raises:
        InputError: absent without a default, or of another type.
    """
    value = config.get(key)
    if value is None:
        if default is _MISSING:
            raise InputError(f'{source}: key {key!r} is missing')
        return default
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f'{source}: {key} must be of type {kind.__name__}, got {value!r}')
    return kind(value)


def _read_rope_scaling(
    rope: Mapping[str, Any], max_positions: int, source: str
) -> RopeScaling | None:
    if any(isinstance(value, Mapping) for value in rope.values()):
        raise InputError(f'{source}: rotary parameters that differ by layer are not supported')
    kind = rope.get('rope_type') or rope.get('type') or 'default'
    if kind == 'default':
        return None
    if kind not in _ROPE_KINDS:
        raise InputError(
            f'{source}: rope scaling {kind!r} is not supported; supported: default, '
            f'{", ".join(_ROPE_KINDS)}'
        )
    for key, neutral in (('mscale', None), ('mscale_all_dim', None), ('truncate', True)):
        if rope.get(key) not in (None, neutral):
            raise InputError(f'{source}: rope scaling key {key!r} is not supported')
    factor = _read(rope, 'factor', float, source)
    if kind == 'linear':
        return RopeScaling(kind, factor)
    original = _read(rope, 'original_max_position_embeddings', int, source, max_positions)
    if kind == 'llama3':
        return RopeScaling(
            kind, factor, original_positions=original,
            low_frequency_factor=_read(rope, 'low_freq_factor', float, source),
            high_frequency_factor=_read(rope, 'high_freq_factor', float, source),
        )
    return RopeScaling(
        kind, factor, original_positions=original,
        beta_fast=_read(rope, 'beta_fast', float, source, 32.0),
        beta_slow=_read(rope, 'beta_slow', float, source, 1.0),
        attention_factor=_read(rope, 'attention_factor', float, source, None),
    )


def _write_rope_scaling(scaling: RopeScaling) -> dict[str, Any]:
    result: dict[str, Any] = {'rope_type': scaling.kind, 'factor': scaling.factor}
    if scaling.kind != 'linear':
        result['original_max_position_embeddings'] = scaling.original_positions
    if scaling.kind == 'llama3':
        result['low_freq_factor'] = scaling.low_frequency_factor
        result['high_freq_factor'] = scaling.high_frequency_factor
    if scaling.kind == 'yarn':
        result |= {'beta_fast': scaling.beta_fast, 'beta_slow': scaling.beta_slow}
        if scaling.attention_factor is not None:
            result['attention_factor'] = scaling.attention_factor
    return result


def _read_rope(
    config: Mapping[str, Any], family: Family, source: str
) -> tuple[dict[str, Any], float | None]:
    """Rotary parameters, `rope_theta` among them, and the base in layers with a window."""
    # Older files have `rope_theta` and `rope_scaling` side by side, newer ones all in one.
    newer = config.get('rope_parameters') or {}
    local = {}
    if family.local_rope_base and any(kind in newer for kind in _LAYER_KINDS):
        local, newer = newer.get('sliding_attention') or {}, newer.get('full_attention') or {}
    rope = {
        'rope_theta': _read(config, 'rope_theta', float, source, family.rope_base),
        **newer,
        **(config.get('rope_scaling') or {}),
    }
    if any(keys.get('partial_rotary_factor') not in (None, 1) for keys in (config, rope, local)):
        raise InputError(f'{source}: partial_rotary_factor is not supported')
    if not family.local_rope_base:
        return rope, None
    if local.get('rope_type', 'default') != 'default':
        raise InputError(
            f"{source}: rope scaling {local['rope_type']!r} in layers with a sliding window is not "
            'supported'
        )
    base = _read(config, 'rope_local_base_freq', float, source, family.local_rope_base)
    return rope, _read(local, 'rope_theta', float, source, base)


def _read_cap(
    config: Mapping[str, Any], family: Family, cap: str, source: str
) -> float | None:
    """A cap; null says that there is none."""
    key = _CAP_KEYS[cap]
    if cap not in family.caps:
        if config.get(key) is not None:
            raise InputError(f'{source}: {key} is not supported in this family')
        return None
    if key in config and config[key] is None:
        return None
    return _read(config, key, float, source, getattr(family, cap))


def _read_window(
    config: Mapping[str, Any], family: Family, layers: int, source: str
) -> tuple[int | None, tuple[bool, ...] | None]:
    """The window, and the layers that have it where only some have."""
    window = None
    slides = family.window != 'switch' or _read(config, 'use_sliding_window', bool, source, False)
    says_none = 'sliding_window' in config and config['sliding_window'] is None
    if family.window != 'never' and slides and not says_none:
        window = _read(config, 'sliding_window', int, source, 4096)
    usual = _usual_layers(config, family, layers, window, source)
    local = usual
    if config.get('layer_types') is not None:
        kinds = config['layer_types']
        if not isinstance(kinds, list) or len(kinds) != layers:
            raise InputError(f'{source}: layer_types must be a list of {layers} kinds of layers')
        if strange := [kind for kind in kinds if kind not in _LAYER_KINDS]:
            raise InputError(
                f'{source}: layer type {strange[0]!r} is not supported; supported: '
                f'{", ".join(_LAYER_KINDS)}'
            )
        local = tuple(kind == 'sliding_attention' for kind in kinds)
        if family.window in ('never', 'always') and local != usual:
            raise InputError(f'{source}: layer_types is not supported in this family')
    if not any(local):
        return None, None
    if window is None:
        raise InputError(f'{source}: sliding_window is missing, which layers need')
    return window, None if all(local) else local


def _usual_layers(
    config: Mapping[str, Any], family: Family, layers: int, window: int | None, source: str
) -> tuple[bool, ...]:
    """Which layers have the window, if `layer_types` does not say."""
    first, every = layers, 0
    if family.window == 'always' and window is not None:
        first = 0
    if family.window == 'switch' and window is not None:
        first = _read(config, 'max_window_layers', int, source, 28)
    if family.window == 'pattern':
        first, every = 0, family.global_every or 0
        if family.local_rope_base:
            every = _read(config, 'sliding_window_pattern', int, source, every)
    return tuple(
        layer >= first and (not every or (layer + 1) % every != 0) for layer in range(layers)
    )


def _write_window(config: ModelConfig, family: Family) -> dict[str, Any]:
    if family.window == 'never':
        return {}
    result: dict[str, Any] = {'sliding_window': config.sliding_window}
    if family.window == 'always':
        return result
    slides = config.sliding_window is not None
    local = config.local_layers or (slides,) * config.num_layers
    if family.window == 'pattern' and not slides:
        del result['sliding_window']  # transformers wants a number, though no layer uses it.
    result['layer_types'] = [_LAYER_KINDS[is_local] for is_local in local]
    if family.window == 'switch':
        # For readers that know no `layer_types`: the layers from here on have the window.
        result['use_sliding_window'] = slides
        result['max_window_layers'] = local.index(True) if slides else config.num_layers
    return result
