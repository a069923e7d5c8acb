"""The tokeniser that a GGUF file holds, as a `tokenizer.json`."""

from collections.abc import Callable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from mrt_jax.errors import InputError
from mrt_jax.policies.gguf_file import GGUFFile
from mrt_jax.policies.tokenizers import JsonTokenizer

# Kinds of token in `tokenizer.ggml.token_type`.
_CONTROL, _USER_DEFINED = 3, 4
_ROLES = {'bos_token': 'bos', 'eos_token': 'eos', 'unk_token': 'unknown', 'pad_token': 'padding'}


def _split_by(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior='isolated'),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])


def _words(digits: str) -> str:
    """The word pattern that Qwen2 and Llama 3 share but for the digits that stay together."""
    return (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits
        + r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
    )


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


# By `tokenizer.ggml.pre`.
_PRE_TOKENIZERS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    'gpt-2': _gpt2,
    'smollm': lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), _gpt2()]
    ),
    'qwen2': lambda: _split_by(_words(r'\p{N}')),
    'llama-bpe': lambda: _split_by(_words(r'\p{N}{1,3}')),
}


def gguf_tokenizer(file: GGUFFile) -> JsonTokenizer:
    """The tokeniser of a GGUF file.

    Raises:
        InputError: it is missing, not a byte-level BPE, or splits text in an unknown way.
    """
    model = file.value('tokenizer.ggml.model', str)
    if model != 'gpt2':
        raise InputError(
            f'{file.file}: tokenizer.ggml.model {model!r} is not supported, only gpt2 (byte-level '
            'BPE): convert from the Hugging Face folder instead'
        )
    pre = file.value('tokenizer.ggml.pre', str)
    if pre not in _PRE_TOKENIZERS:
        raise InputError(
            f'{file.file}: tokenizer.ggml.pre {pre!r} is not supported; supported: '
            f'{", ".join(_PRE_TOKENIZERS)}'
        )
    tokens = file.value('tokenizer.ggml.tokens', list)
    merges = file.value('tokenizer.ggml.merges', list)
    kinds = file.value('tokenizer.ggml.token_type', list)
    try:
        backend = Tokenizer(models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=[tuple(merge.split(' ')) for merge in merges],
            ignore_merges=pre == 'llama-bpe',
        ))
    except Exception as error:  # The package raises bare Exception for whatever is wrong.
        raise InputError(f'{file.file}: tokenizer.ggml.merges: {error}') from error
    if pre == 'qwen2':
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = _PRE_TOKENIZERS[pre]()
    backend.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, kinds, strict=True):
        if kind in (_CONTROL, _USER_DEFINED):
            added = AddedToken(token, special=kind == _CONTROL, normalized=False)
            backend.add_special_tokens([added]) if added.special else backend.add_tokens([added])
    settings: dict[str, object] = {
        # Llama 3's files leave it out, and llama.cpp then adds one.
        'add_bos_token': file.value('tokenizer.ggml.add_bos_token', bool, pre == 'llama-bpe')
    }
    for role, name in _ROLES.items():
        i = file.value(f'tokenizer.ggml.{name}_token_id', int, -1)
        if i >= len(tokens):
            raise InputError(f'{file.file}: tokenizer.ggml.{name}_token_id {i} is no token')
        if i >= 0:
            settings[role] = tokens[i]
    return JsonTokenizer(backend, settings, str(file.file))
