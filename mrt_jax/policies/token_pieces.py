"""The exact bytes that each token stands for, from a vocabulary's spelling of its tokens.

Vocabularies do not store bytes: GPT-2 spells a space as `Ġ`, SentencePiece as U+2581, and Llama 2
the byte E2 as `<0xE2>`. Everything that looks into text token by token, such as finding a marker
in a response, needs the bytes instead.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mrt_jax.errors import InputError

SPACE_MARK = '\u2581'
_BYTE_PIECE = re.compile(r'<0x([0-9A-Fa-f]{2})>')


@dataclass(frozen=True)
class PieceSpelling:
    """How the pieces of a vocabulary spell bytes.

    Attributes:
        byte_level: pieces are written in the 256 stand-in characters of GPT-2.
        byte_fallback: a piece `<0xNN>` is the byte NN.
        replacements: (spelling, text) pairs, applied in order.
        prefix: text in front of every piece.
        drops_first_space: the tokeniser puts a space before the text that it encodes, so decoding
            a text takes one away from its beginning.
    """

    byte_level: bool = False
    byte_fallback: bool = False
    replacements: tuple[tuple[str, str], ...] = ()
    prefix: str = ''
    drops_first_space: bool = False

    def to_bytes(self, piece: str) -> bytes:
        """Bytes of a piece of the vocabulary."""
        if self.byte_fallback and (byte := _BYTE_PIECE.fullmatch(piece)):
            return bytes([int(byte[1], 16)])
        if self.byte_level:
            stand_ins = byte_of_stand_in()
            if all(character in stand_ins for character in piece):
                return bytes(stand_ins[character] for character in piece)
            return piece.encode()
        for spelling, text in self.replacements:
            piece = piece.replace(spelling, text)
        return (self.prefix + piece).encode()


@functools.cache
def byte_of_stand_in() -> dict[str, int]:
    """The byte that each stand-in character of byte-level vocabularies means.

    Printable characters of Latin-1 mean themselves; the other 68 bytes are numbered on from U+0100
    (Radford et al. 2019, GPT-2).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(0x100)) - set(printable))
    stand_ins = {chr(byte): byte for byte in printable}
    return stand_ins | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def spelling_of_decoder(decoder: Mapping[str, Any] | None, source: str) -> PieceSpelling:
    """Reads the `decoder` entry of a `tokenizer.json`.

    Args:
        decoder: the entry; None means that tokens are words, separated by spaces.
        source: file name for error messages.

    Raises:
        InputError: a decoder whose text for a token depends on the tokens around it.
    """
    if decoder is None:
        return PieceSpelling(prefix=' ', drops_first_space=True)
    spelling: dict[str, Any] = {'replacements': ()}
    for step in decoder['decoders'] if decoder['type'] == 'Sequence' else [decoder]:
        match step:
            case {'type': 'ByteLevel'}:
                spelling['byte_level'] = True
            case {'type': 'ByteFallback'}:
                spelling['byte_fallback'] = True
            case {'type': 'Fuse'}:
                pass
            case {'type': 'Replace', 'pattern': {'String': pattern}, 'content': text}:
                spelling['replacements'] += ((pattern, text),)
            case {'type': 'Metaspace', 'replacement': mark}:
                spelling['replacements'] += ((mark, ' '),)
                spelling['drops_first_space'] = step.get('prepend_scheme', 'always') != 'never'
            case {'type': 'Strip', 'content': ' ', 'start': 0 | 1 as start, 'stop': 0}:
                spelling['drops_first_space'] = start == 1
            case _:
                raise InputError(
                    f'{source}: decoder {step} is not supported, because the text of one of its '
                    'tokens depends on the tokens around it: use a byte-level or SentencePiece '
                    'tokenizer'
                )
    return PieceSpelling(**spelling)
