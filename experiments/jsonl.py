"""JSON Lines files: read with errors that name the line, written in one piece."""

import contextlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from mrt_jax.errors import InputError


@dataclass(frozen=True)
class Line:
    """A line of a JSONL file.

    Attributes:
        fields: the JSON object.
        where: file and line number, to begin an error message with.
    """

    fields: Mapping[str, Any]
    where: str

    def fail(self, problem: str) -> NoReturn:
        """Raises an InputError that names the line."""
        raise InputError(f'{self.where}: {problem}')

    def token_ids(self, key: str, vocab_size: int) -> list[int]:
        """A field that holds token ids of the policy.

        Args:
            key: name of the field.
            vocab_size: number of ids that the policy's network has.

        Raises:
            InputError: the field is missing, is not a list of integers, or has an id that the
                vocabulary has not.
        """
        if key not in self.fields:
            self.fail(f'{key!r} is missing: give a list of token ids')
        ids = self.fields[key]
        if not isinstance(ids, list) or not all(type(i) is int for i in ids):
            self.fail(f'{key!r} must be a list of token ids (integers)')
        for i in ids:
            if not 0 <= i < vocab_size:
                self.fail(
                    f'{key!r} has the id {i}, and the policy has ids 0 to {vocab_size - 1}: '
                    'tokenise with the tokenizer of this policy'
                )
        return ids


def read_lines(file: str | Path) -> list[Line]:
    """Reads a file with one JSON object a line; blank lines are left out.

    Raises:
        InputError: the file cannot be read as UTF-8, or a line does not hold a JSON object.
    """
    try:
        content = Path(file).read_bytes().decode('utf-8-sig')
    except OSError as error:
        raise InputError(f'{file}: cannot be read: {error.strerror}') from error
    except UnicodeDecodeError as error:
        raise InputError(f'{file}: is not UTF-8 at byte {error.start}') from error
    lines = []
    # Not splitlines(), which also splits at separators that JSON strings may contain.
    for number, text in enumerate(content.split('\n'), start=1):
        if not text.strip():
            continue
        where = f'{file}, line {number}'
        try:
            fields = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise InputError(f'{where}: not JSON: {error}') from error
        if not isinstance(fields, dict):
            raise InputError(f'{where}: must hold a JSON object, not {type(fields).__name__}')
        lines.append(Line(fields, where))
    return lines


def write_lines(file: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line; the file appears whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    file = Path(file)
    partial = file.with_name(f'.{file.name}.{os.getpid()}.partial')
    try:
        with partial.open('wb') as stream:
            for row in rows:
                stream.write(_encode(row) + b'\n')
        os.replace(partial, file)
    except OSError as error:
        raise InputError(f'{file}: cannot be written: {error.strerror}') from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def finite_floats(values: Iterable[Any], where: str) -> list[float]:
    """Numbers as JSON can hold them.

    Raises:
        InputError: one is not finite, which means that the policy's parameters are broken.
    """
    floats = [float(value) for value in values]
    if not all(map(math.isfinite, floats)):
        raise InputError(f'{where}: the policy gives a log-probability that is not finite')
    return floats


def _encode(row: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:  # Half of a surrogate pair, which JSON can write only as an escape.
        return json.dumps(row, allow_nan=False).encode()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f'{name} is not a JSON number')
