"""Arithmetic expressions, parsed exactly and never evaluated as code.

    sum     = product {('+' | '-') product}
    product = factor {('*' | '/') factor}
    factor  = integer | '(' sum ')'
"""

import dataclasses
import re
from fractions import Fraction

MAX_CHARACTERS = 200
MAX_DEPTH = 20
MAX_DIGITS = 12

_TOKEN = re.compile(r'\s*(?:([0-9]+)|([-+*/()]))')
_ALIASES = str.maketrans({'×': '*', '·': '*', '÷': '/', '−': '-', '–': '-'})


class ExpressionError(ValueError):
    """The text is not an expression of this grammar, or divides by zero."""


@dataclasses.dataclass(frozen=True)
class Value:
    """An expression's exact value and the integers written in it, in order."""

    value: Fraction
    numbers: tuple[int, ...]


def parse(text: str) -> Value:
    """Parses an expression in integers, + - * / and parentheses.

    Limits on length, depth and digits bound the work that a hostile text can cause.

    Raises:
        ExpressionError: anything else, a sign before a number included.
    """
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f'longer than {MAX_CHARACTERS} characters')
    parser = _Parser(_tokens(text.translate(_ALIASES)))
    value = parser.sum(depth=0)
    if parser.next is not None:
        raise ExpressionError(f'unexpected {parser.next!r}')
    return Value(value, tuple(parser.numbers))


def _tokens(text: str) -> list[str]:
    text = text.strip()
    tokens, place = [], 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise ExpressionError(f'unexpected {text[place]!r}')
        tokens.append(match.group(1) or match.group(2))
        place = match.end()
    return tokens


class _Parser:
    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._place = 0
        self.numbers: list[int] = []

    @property
    def next(self) -> str | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def _take(self) -> str:
        token = self.next
        if token is None:
            raise ExpressionError('ends too soon')
        self._place += 1
        return token

    def sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while self.next in ('+', '-'):
            sign = 1 if self._take() == '+' else -1
            value += sign * self._product(depth)
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._factor(depth)
        while self.next in ('*', '/'):
            if self._take() == '*':
                value *= self._factor(depth)
            else:
                divisor = self._factor(depth)
                if divisor == 0:
                    raise ExpressionError('divides by zero')
                value /= divisor
        return value

    def _factor(self, depth: int) -> Fraction:
        token = self._take()
        if token == '(':
            if depth >= MAX_DEPTH:
                raise ExpressionError(f'nested deeper than {MAX_DEPTH}')
            value = self.sum(depth + 1)
            if self._take() != ')':
                raise ExpressionError("')' is missing")
            return value
        if not token.isdigit():
            raise ExpressionError(f'unexpected {token!r}')
        if len(token) > MAX_DIGITS:
            raise ExpressionError(f'a number of more than {MAX_DIGITS} digits')
        self.numbers.append(int(token))
        return Fraction(self.numbers[-1])
