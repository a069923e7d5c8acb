"""Reading GGUF files, llama.cpp's format, under the names of Hugging Face folders.

A file holds the config, the tensors (most of them quantised), the tokeniser and the chat template.
Tensors are dequantised one at a time, when they are asked for.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from mrt_jax.errors import InputError

# Names in a GGUF file and in a folder; in a layer, behind 'blk.N.' and 'model.layers.N.'.
_TENSORS = {
    'token_embd': 'model.embed_tokens', 'output_norm': 'model.norm', 'output': 'lm_head'
}
_LAYER_TENSORS = {
    'attn_norm': 'input_layernorm',
    'attn_q': 'self_attn.q_proj',
    'attn_k': 'self_attn.k_proj',
    'attn_v': 'self_attn.v_proj',
    'attn_output': 'self_attn.o_proj',
    'attn_q_norm': 'self_attn.q_norm',
    'attn_k_norm': 'self_attn.k_norm',
    'ffn_norm': 'post_attention_layernorm',
    'ffn_gate': 'mlp.gate_proj',
    'ffn_up': 'mlp.up_proj',
    'ffn_down': 'mlp.down_proj',
}
# Keys behind the architecture's name, and those of config.json that they become.
_SIZES = {
    'block_count': 'num_hidden_layers',
    'context_length': 'max_position_embeddings',
    'embedding_length': 'hidden_size',
    'feed_forward_length': 'intermediate_size',
    'attention.head_count': 'num_attention_heads',
    'attention.head_count_kv': 'num_key_value_heads',
    'attention.key_length': 'head_dim',
    'attention.layer_norm_rms_epsilon': 'rms_norm_eps',
    'rope.freq_base': 'rope_theta',
}
_ROPE_FACTORS = 'rope_freqs.weight'
_CHECKED = ('vocab_size', 'rope.dimension_count', 'attention.value_length')
ARCHITECTURES = ('llama', 'qwen2', 'qwen3')


class GGUFFile:
    """One GGUF file, with the interface of `tensor_files.TensorFiles` for its tensors.

    Attributes:
        file: its path.
        shapes: shape of every tensor, by its name in a folder.

    Raises:
        InputError: not a whole GGUF file, or an architecture or setting that is not supported.
    """

    def __init__(self, file: Path) -> None:
        self.file = self.folder = file
        try:
            reader = gguf.GGUFReader(file)
            self._values = {name: field.contents() for name, field in reader.fields.items()}
        except (OSError, ValueError, IndexError, KeyError) as error:
            raise InputError(
                f'{file}: not a whole GGUF file ({error}): copy or download it again'
            ) from error
        self._architecture = self.value('general.architecture', str)
        if self._architecture not in ARCHITECTURES:
            raise InputError(
                f'{file}: general.architecture {self._architecture!r} is not supported; supported: '
                f'{", ".join(ARCHITECTURES)}'
            )
        self._tensors = {_folder_name(tensor.name): tensor for tensor in reader.tensors}
        self.shapes = {
            name: tuple(int(n) for n in reversed(tensor.shape))
            for name, tensor in self._tensors.items()
        }

    def value(self, key: str, kind: type, default: Any = None) -> Any:
        """A value of the file's header.

        Raises:
            InputError: it is of another type, or missing where there is no default.
        """
        value = self._values.get(key, default)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            state = 'is missing' if value is None else f'is {str(value)[:40]!r}'
            raise InputError(f'{self.file}: {key} {state}; it should be of type {kind.__name__}')
        return value

    def config(self) -> dict[str, Any]:
        """What `config.json` of a folder would hold.

        Raises:
            InputError: a setting that changes the network and is not supported.
        """
        prefix = f'{self._architecture}.'
        settings = {
            name.removeprefix(prefix): value
            for name, value in self._values.items() if name.startswith(prefix)
        }
        known = {*_SIZES, *_CHECKED, 'rope.scaling.type', 'rope.scaling.factor'}
        if unknown := sorted(set(settings) - known):
            raise InputError(f'{self.file}: {prefix}{unknown[0]} is not supported')
        if _ROPE_FACTORS in self.shapes:
            raise InputError(
                f'{self.file}: tensor {_ROPE_FACTORS}, which scales rotary positions as Llama 3.1 '
                'does, is not supported: give the policy folder that the file was made from'
            )
        config: dict[str, Any] = {
            'model_type': self._architecture,
            'vocab_size': self.shapes.get('model.embed_tokens.weight', (0,))[0],
            'tie_word_embeddings': 'lm_head.weight' not in self.shapes,
            'rope_scaling': self._rope_scaling(settings),
        }
        config |= {_SIZES[key]: settings[key] for key in _SIZES if key in settings}
        if self._architecture != 'qwen2':
            config['attention_bias'] = 'model.layers.0.self_attn.q_proj.bias' in self.shapes
        for role in ('bos', 'eos'):
            if (i := self._values.get(f'tokenizer.ggml.{role}_token_id')) is not None:
                config[f'{role}_token_id'] = i
        self._check_widths(settings)
        return config

    def read(self, name: str) -> np.ndarray:
        """One tensor, dequantised to float32.

        Raises:
            InputError: there is no such tensor, it is quantised in a way that the gguf package does
                not undo, or its numbers are not finite.
        """
        if name not in self._tensors:
            raise InputError(f'{self.file}: tensor {name} is missing')
        tensor = self._tensors[name]
        try:
            array = gguf.dequantize(tensor.data, tensor.tensor_type)
        except (NotImplementedError, ValueError) as error:
            raise InputError(
                f'{self.file}: tensor {tensor.name} cannot be dequantised from '
                f'{tensor.tensor_type.name}: {error}'
            ) from error
        array = np.asarray(array, np.float32).reshape(self.shapes[name])
        if not np.isfinite(array).all():
            raise InputError(f'{self.file}: tensor {tensor.name} holds numbers that are not finite')
        found = re.search(r'self_attn\.([qk])_proj', name)
        if self._architecture == 'llama' and found:
            return self._rotary_halves(array, found[1])
        return array

    def file_of(self, name: str) -> Path:
        """The file; `TensorFiles` may have several."""
        del name
        return self.file

    def _rotary_halves(self, array: np.ndarray, which: str) -> np.ndarray:
        """Rows of each head in the order of folders, where llama.cpp has the two halves in turn."""
        suffix = {'q': '', 'k': '_kv'}[which]
        key = f'{self._architecture}.attention.head_count'
        heads = self._values.get(key + suffix, self._values[key])
        by_pair = array.reshape(heads, array.shape[0] // heads // 2, 2, -1)
        return by_pair.swapaxes(1, 2).reshape(array.shape)

    def _rope_scaling(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        kind = settings.get('rope.scaling.type', 'none')
        if kind == 'none':
            return None
        if kind != 'linear':
            raise InputError(
                f'{self.file}: {self._architecture}.rope.scaling.type {kind!r} is not supported, '
                'only linear: convert from the Hugging Face folder instead'
            )
        return {'rope_type': kind, 'factor': settings.get('rope.scaling.factor')}

    def _check_widths(self, settings: Mapping[str, Any]) -> None:
        """Settings that say what others or the tensors say already must agree with them."""
        heads = max(settings.get('attention.head_count', 1), 1)
        width = settings.get('attention.key_length', settings.get('embedding_length', 0) // heads)
        expected = {
            'vocab_size': self.shapes.get('model.embed_tokens.weight', (0,))[0],
            'rope.dimension_count': width,
            'attention.value_length': width,
        }
        for key in _CHECKED:
            if settings.get(key, expected[key]) != expected[key]:
                raise InputError(
                    f'{self.file}: {self._architecture}.{key} {settings[key]} is not supported '
                    f'where the rest of the file says {expected[key]}'
                )


def _folder_name(name: str) -> str:
    """Name of a tensor in a folder; an unknown one stays, to be refused by that name."""
    stem, _, kind = name.rpartition('.')
    if layer := re.fullmatch(r'blk\.(\d+)\.(\w+)', stem):
        known = _LAYER_TENSORS.get(layer[2])
        return f'model.layers.{layer[1]}.{known}.{kind}' if known else name
    return f'{_TENSORS[stem]}.{kind}' if stem in _TENSORS else name
