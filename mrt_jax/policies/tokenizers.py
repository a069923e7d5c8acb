"""One interface to the tokenisers of policy folders.

`tokenizer.json` is read through the `tokenizers` package, `tokenizer.model` through
`sentencepiece`. Both encode in their package; decoding is by the bytes of each token, the same for
both, so that the text a user sees and the text in which markers are found are one and the same.
"""

import codecs
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from mrt_jax.errors import InputError
from mrt_jax.policies.json_files import read_json
from mrt_jax.policies.token_pieces import PieceSpelling, spelling_of_decoder

SETTINGS_FILE = 'tokenizer_config.json'
_SPECIAL_NAMES = ('bos_token', 'eos_token', 'unk_token', 'pad_token')


class Tokenizer(ABC):
    """Text to token ids and back.

    Attributes:
        settings: what `tokenizer_config.json` holds, without the chat template.
        token_bytes: the bytes of every token id; b'' for ids that no token has. Special tokens
            have the bytes of their name, such as b'</think>'.
        hidden_ids: tokens that `decode` leaves out: beginning, end and padding of a sequence.
    """

    settings: Mapping[str, Any]

    @cached_property
    @abstractmethod
    def token_bytes(self) -> list[bytes]:
        """Bytes of every token id."""

    @property
    @abstractmethod
    def spelling(self) -> PieceSpelling:
        """How pieces of the vocabulary spell bytes."""

    @abstractmethod
    def id_of(self, token: str) -> int | None:
        """Id of a token by its name in the vocabulary; None if there is none."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Token ids of a text; names of special tokens in it become those tokens, none is added."""

    @abstractmethod
    def encode_document(self, text: str) -> list[int]:
        """Like `encode`, with the token that the tokeniser puts at the beginning of a sequence."""

    @abstractmethod
    def save_vocabulary(self, folder: Path) -> None:
        """Writes the tokeniser's own file, without its settings."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; special tokens are text too, but for those in `hidden_ids`.

        Bytes that are not UTF-8, such as half a character at the end of a cut response, become
        U+FFFD. Ids beyond the vocabulary, which a padded output layer can emit, have no text.
        """
        return ''.join(self.decode_parts([ids]))

    def decode_parts(self, parts: Sequence[Iterable[int]]) -> list[str]:
        """Texts of the parts of a response, such as its episodes or single tokens.

        Together they are what `decode` makes of the whole. A character whose bytes lie in several
        parts is in the one that completes it; half a character at the very end, in the last.
        """
        table, hidden = self.token_bytes, self.hidden_ids
        decoder = codecs.getincrementaldecoder('utf-8')(errors='replace')
        texts: list[str] = []
        begun = not self.spelling.drops_first_space
        for number, ids in enumerate(parts, start=1):
            shown = (i for i in ids if i not in hidden and 0 <= i < len(table))
            text = decoder.decode(b''.join(table[i] for i in shown), final=number == len(parts))
            texts.append(text if begun else text.removeprefix(' '))
            begun = begun or bool(text)
        return texts

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id."""
        return len(self.token_bytes)

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        """Names of the special tokens by their role, such as {'eos_token': '</s>'}."""
        named = {role: _token_name(self.settings.get(role)) for role in _SPECIAL_NAMES}
        return {role: name for role, name in named.items() if name is not None}

    @property
    def bos_id(self) -> int | None:
        """Token at the beginning of a sequence, if the tokeniser has one."""
        return self._special_id('bos_token')

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end a sequence according to the tokeniser alone."""
        eos_id = self._special_id('eos_token')
        return () if eos_id is None else (eos_id,)

    @property
    def pad_id(self) -> int:
        """Token that fills up rows: the padding token, else the end of a sequence, else 0."""
        pad_id = self._special_id('pad_token')
        return pad_id if pad_id is not None else next(iter(self.eos_ids), 0)

    @cached_property
    def hidden_ids(self) -> frozenset[int]:
        ids = [self.bos_id, self._special_id('pad_token'), *self.eos_ids]
        return frozenset(i for i in ids if i is not None)

    def _special_id(self, role: str) -> int | None:
        name = self.special_tokens.get(role)
        return None if name is None else self.id_of(name)


class JsonTokenizer(Tokenizer):
    """A `tokenizer.json`.

    Args:
        backend: tokeniser of the `tokenizers` package; its truncation and padding are turned off.
        settings: see `Tokenizer`; 'eos_token' and the like name the special tokens.
        source: file name for error messages.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        settings: Mapping[str, Any] | None = None,
        source: str = 'tokenizer.json',
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.settings = dict(settings or {})
        self._spec = json.loads(backend.to_str())
        self._source = source
        self._spelling = spelling_of_decoder(self._spec['decoder'], source)

    def without_added(self, first: int) -> 'JsonTokenizer':
        """The same without the added tokens from an id on: their names are text like any other."""
        added = self._spec['added_tokens']
        spec = self._spec | {'added_tokens': [token for token in added if token['id'] < first]}
        beyond = {token['content'] for token in added if token['id'] >= first}
        vocabulary = spec['model']['vocab']
        if isinstance(vocabulary, dict):  # Some name added tokens there too.
            kept = {piece: i for piece, i in vocabulary.items() if piece not in beyond}
            spec['model'] = spec['model'] | {'vocab': kept}
        backend = tokenizers.Tokenizer.from_str(json.dumps(spec))
        return JsonTokenizer(backend, self.settings, self._source)

    @property
    def spelling(self) -> PieceSpelling:
        return self._spelling

    @cached_property
    def token_bytes(self) -> list[bytes]:
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        table = [b''] * (max(vocabulary.values(), default=-1) + 1)
        for piece, i in vocabulary.items():
            table[i] = self.spelling.to_bytes(piece)
        for added in self._spec['added_tokens']:
            # Added tokens are found in the raw text, so their name is their text.
            table[added['id']] = (self.spelling.prefix + added['content']).encode()
        return table

    def id_of(self, token: str) -> int | None:
        return self.backend.token_to_id(token)

    def encode(self, text: str) -> list[int]:
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_document(self, text: str) -> list[int]:
        ids = self.backend.encode(text, add_special_tokens=True).ids
        # Some end sequences too, and this one goes on.
        added = self._ends(ids) - self._ends(self.encode(text))
        ids = ids[: len(ids) - added]
        if self.settings.get('add_bos_token') and self.bos_id not in (None, *ids[:1]):
            return [self.bos_id, *ids]
        return ids

    def _ends(self, ids: Sequence[int]) -> int:
        """How many tokens at the end of a sequence are its end."""
        return len(list(itertools.takewhile(lambda i: i in self.eos_ids, reversed(ids))))

    def save_vocabulary(self, folder: Path) -> None:
        self.backend.save(str(folder / 'tokenizer.json'))


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Reads the tokeniser of a policy folder, `tokenizer.json` before `tokenizer.model`.

    Raises:
        InputError: neither file is there, or one of the files cannot be read; names it.
    """
    folder = Path(folder)
    settings = _read_settings(folder)
    json_file, model_file = folder / 'tokenizer.json', folder / 'tokenizer.model'
    if json_file.is_file():
        try:
            backend = tokenizers.Tokenizer.from_file(str(json_file))
        except Exception as error:  # The package raises bare Exception for whatever is wrong.
            raise InputError(f'{json_file}: not a tokenizer.json: {error}') from error
        return JsonTokenizer(backend, settings, str(json_file))
    if model_file.is_file():
        from mrt_jax.policies.sentencepiece_tokenizer import SentencePieceTokenizer

        return SentencePieceTokenizer(model_file.read_bytes(), settings, str(model_file))
    raise InputError(
        f'{folder}: no tokenizer: put a tokenizer.json or a SentencePiece tokenizer.model there'
    )


def _read_settings(folder: Path) -> dict[str, Any]:
    """Content of `tokenizer_config.json`, with the roles that older folders keep elsewhere."""
    settings: dict[str, Any] = {}
    for name in ('special_tokens_map.json', SETTINGS_FILE):
        if (folder / name).is_file():
            settings |= read_json(folder / name)
    settings.pop('chat_template', None)
    return settings


def _token_name(entry: Any) -> str | None:
    """Name of a special token, given as a string or as a description of it."""
    return entry.get('content') if isinstance(entry, Mapping) else entry
