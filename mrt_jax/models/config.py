"""Shape and switches of a decoder-only transformer, read from a Hugging Face `config.json`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mrt_jax.errors import InputError
from mrt_jax.models.families import FAMILIES


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

    def __post_init__(self) -> None:
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


def from_hf(config: Mapping[str, Any], source: str = 'config.json') -> ModelConfig:
    """Reads a Hugging Face config.

    Raises:
        InputError: an architecture, activation or switch that this decoder does not compute, named
            together with `source`; nothing is approximated.
    """
    family = config.get('model_type')
    if family not in FAMILIES:
        raise InputError(
            f'{source}: model_type {family!r} is not supported; supported: {", ".join(FAMILIES)}'
        )
    if 'quantization_config' in config:
        raise InputError(f'{source}: quantised weights are not supported; convert them first')
    activation = config.get('hidden_act', 'silu')
    if activation not in ('silu', 'swish'):
        raise InputError(f'{source}: hidden_act {activation!r} is not supported, only silu')
    switches = FAMILIES[family]
    try:
        width, heads = int(config['hidden_size']), int(config['num_attention_heads'])
        layers = int(config['num_hidden_layers'])
        return ModelConfig(
            family=family,
            vocab_size=int(config['vocab_size']),
            width=width,
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=int(config.get('num_key_value_heads') or heads),
            head_width=int(config.get('head_dim') or width // heads),
            ffn_width=int(config['intermediate_size']),
            max_positions=int(config.get('max_position_embeddings', switches.max_positions)),
            norm_eps=float(config.get('rms_norm_eps', 1e-6)),
            rope_base=_rope_base(config),
            rope_scaling=_rope_scaling(config, source),
            attention_bias=bool(config.get('attention_bias', switches.attention_bias)),
            output_bias=switches.output_bias and bool(config.get('attention_bias', False)),
            mlp_bias=bool(config.get('mlp_bias', False)),
            qk_norm=switches.qk_norm,
            tie_embeddings=bool(config.get('tie_word_embeddings', False)),
            sliding_window=_sliding_window(config, switches.window_by_default, layers, source),
        )
    except KeyError as error:
        raise InputError(f'{source}: key {error} is missing') from error


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """Writes a config that `from_hf` reads back and transformers understands."""
    switches = FAMILIES[config.family]
    result: dict[str, Any] = {
        'model_type': config.family,
        'architectures': [switches.architecture],
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
        'hidden_act': 'silu',
        'tie_word_embeddings': config.tie_embeddings,
        'sliding_window': config.sliding_window,
    }
    if config.family in ('llama', 'qwen3'):
        result['attention_bias'] = config.attention_bias
    if config.mlp_bias:
        result['mlp_bias'] = True
    if config.family in ('qwen2', 'qwen3'):
        result['use_sliding_window'] = config.sliding_window is not None
        result['max_window_layers'] = 0 if config.sliding_window else config.num_layers
    if config.rope_scaling:
        result['rope_scaling'] = _scaling_to_hf(config.rope_scaling)
    return result


def _rope_base(config: Mapping[str, Any]) -> float:
    parameters = config.get('rope_parameters') or {}
    return float(parameters.get('rope_theta', config.get('rope_theta', 10_000.0)))


def _rope_scaling(config: Mapping[str, Any], source: str) -> RopeScaling | None:
    scaling = config.get('rope_parameters') or config.get('rope_scaling')
    if not scaling:
        return None
    kind = scaling.get('rope_type', scaling.get('type', 'default'))
    if kind == 'default':
        return None
    if kind not in ('linear', 'llama3', 'yarn'):
        raise InputError(
            f'{source}: rope scaling {kind!r} is not supported; supported: linear, llama3, yarn'
        )
    for key in ('mscale', 'mscale_all_dim', 'truncate'):
        if scaling.get(key) not in (None, True):
            raise InputError(f'{source}: rope scaling key {key!r} is not supported')
    original = scaling.get('original_max_position_embeddings')
    factor = scaling.get('attention_factor')
    return RopeScaling(
        kind=kind,
        factor=float(scaling['factor']),
        original_positions=int(original or config.get('max_position_embeddings', 0)),
        low_frequency_factor=float(scaling.get('low_freq_factor', 1.0)),
        high_frequency_factor=float(scaling.get('high_freq_factor', 4.0)),
        beta_fast=float(scaling.get('beta_fast') or 32),
        beta_slow=float(scaling.get('beta_slow') or 1),
        attention_factor=None if factor is None else float(factor),
    )


def _scaling_to_hf(scaling: RopeScaling) -> dict[str, Any]:
    result: dict[str, Any] = {'rope_type': scaling.kind, 'factor': scaling.factor}
    if scaling.kind in ('llama3', 'yarn'):
        result['original_max_position_embeddings'] = scaling.original_positions
    if scaling.kind == 'llama3':
        result['low_freq_factor'] = scaling.low_frequency_factor
        result['high_freq_factor'] = scaling.high_frequency_factor
    if scaling.kind == 'yarn':
        result['beta_fast'], result['beta_slow'] = scaling.beta_fast, scaling.beta_slow
        if scaling.attention_factor is not None:
            result['attention_factor'] = scaling.attention_factor
    return result


def _sliding_window(
    config: Mapping[str, Any], by_default: bool, layers: int, source: str
) -> int | None:
    window = config.get('sliding_window')
    if window is None or not config.get('use_sliding_window', by_default):
        return None
    kinds = set(config.get('layer_types') or [])
    if len(kinds) > 1 or 0 < config.get('max_window_layers', 0) < layers:
        raise InputError(f'{source}: a sliding window on some layers only is not supported')
    if kinds == {'full_attention'} or config.get('max_window_layers', 0) >= layers:
        return None
    return int(window)
