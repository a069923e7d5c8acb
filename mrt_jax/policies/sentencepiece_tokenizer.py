"""SentencePiece models with the special tokens that policy folders add to them."""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import sentencepiece

from mrt_jax.errors import InputError
from mrt_jax.policies.token_pieces import SPACE_MARK, PieceSpelling
from mrt_jax.policies.tokenizers import Tokenizer

_UNKNOWN_TEXT = ' \u2047 '.encode()  # What SentencePiece itself writes for an unknown piece.
# `normalizer_spec { add_dummy_prefix: false }` of the model's protocol buffer. Appended to a model
# it overrides that one setting: fields of a repeated occurrence of a message are merged.
_NO_FIRST_SPACE = b'\x1a\x02\x18\x00'


class SentencePieceTokenizer(Tokenizer):
    """A `tokenizer.model`.

    SentencePiece puts a space before the text that it encodes. Here that is the beginning of a
    text; text behind a special token is taken as it is, so that decoding gives it back. Folders
    with `"legacy": true` in their settings want the space after every special token as well.

    Args:
        model: content of the file.
        settings: see `Tokenizer`. 'added_tokens_decoder' adds tokens to the vocabulary;
            'add_bos_token' (default true) decides about the token at the beginning of documents.
        source: file name for error messages.
    """

    def __init__(
        self,
        model: bytes,
        settings: Mapping[str, Any] | None = None,
        source: str = 'tokenizer.model',
    ) -> None:
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, OSError) as error:
            raise InputError(f'{source}: not a SentencePiece model: {error}') from error
        self._model = model
        self._continue = sentencepiece.SentencePieceProcessor(model_proto=model + _NO_FIRST_SPACE)
        self._adds_space = self._processor.encode('a') != self._continue.encode('a')
        # Said outright, because transformers has changed its mind about `add_bos_token`.
        self.settings = {'add_bos_token': True, **self._own_settings(), **(settings or {})}
        self._added = {
            int(i): entry['content']
            for i, entry in self.settings.get('added_tokens_decoder', {}).items()
        }
        self._special_ids = self._named_pieces() | {name: i for i, name in self._added.items()}
        longest_first = sorted(self._special_ids, key=len, reverse=True)
        self._special_pattern = re.compile(f'({"|".join(map(re.escape, longest_first))})')

    @property
    def spelling(self) -> PieceSpelling:
        return PieceSpelling(
            byte_fallback=True,
            replacements=((SPACE_MARK, ' '),),
            drops_first_space=self._adds_space,
        )

    @cached_property
    def token_bytes(self) -> list[bytes]:
        processor = self._processor
        size = max([processor.vocab_size(), *(i + 1 for i in self._added)])
        table = [b''] * size
        for i in range(processor.vocab_size()):
            piece = processor.id_to_piece(i)
            if processor.is_control(i):
                table[i] = piece.encode()
            elif processor.is_unknown(i):
                table[i] = _UNKNOWN_TEXT
            elif not processor.is_unused(i):
                table[i] = self.spelling.to_bytes(piece)
        for i, name in self._added.items():
            table[i] = name.encode()
        return table

    def id_of(self, token: str) -> int | None:
        if token in self._special_ids:
            return self._special_ids[token]
        i = self._processor.piece_to_id(token)
        return i if self._processor.id_to_piece(i) == token else None

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        # With a group in its pattern, split() gives text and special tokens in turn.
        for part, piece in enumerate(self._special_pattern.split(text)):
            if part % 2:
                ids.append(self._special_ids[piece])
            elif piece:
                spaced = part == 0 or self.settings.get('legacy')
                ids += (self._processor if spaced else self._continue).encode(piece)
        return ids

    def encode_document(self, text: str) -> list[int]:
        ids = self.encode(text)
        bos_id = self.bos_id if self.settings['add_bos_token'] else None
        return ids if bos_id in (None, *ids[:1]) else [bos_id, *ids]

    def save_vocabulary(self, folder: Path) -> None:
        (folder / 'tokenizer.model').write_bytes(self._model)

    def _own_settings(self) -> dict[str, str]:
        """Special tokens of the model itself, under the names of the settings."""
        processor = self._processor
        ids = {
            'bos_token': processor.bos_id(),
            'eos_token': processor.eos_id(),
            'pad_token': processor.pad_id(),
            'unk_token': processor.unk_id(),
        }
        return {role: processor.id_to_piece(i) for role, i in ids.items() if i >= 0}

    def _named_pieces(self) -> dict[str, int]:
        """Ids of the pieces that SentencePiece itself does not find in a text."""
        processor = self._processor
        return {
            processor.id_to_piece(i): i
            for i in range(processor.vocab_size())
            if processor.is_control(i) or processor.is_unknown(i)
        }
