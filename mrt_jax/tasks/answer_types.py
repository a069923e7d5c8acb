"""Kinds of answers: how each is read, and when two are the same.

A policy under optimisation writes these texts. They are matched against small regular grammars and
compared in exact arithmetic; nothing in them is evaluated, and `MAX_CHARACTERS` bounds the work.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

MAX_CHARACTERS = 1000
MAX_POWER = 99  # largest exponent of a prime

_UNSIGNED = r'(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)'
_THOUSANDS = re.compile(r'[-+]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?')
_NUMBER = re.compile(rf'([-+]?)({_UNSIGNED})(?:[eE]([-+]?[0-9]{{1,3}}))?')
_FRACTION = re.compile(r'([-+]?[0-9]+)\s*/\s*([0-9]+)')
_LATEX_FRACTION = re.compile(r'(-?)\\d?frac\s*\{\s*([0-9]+)\s*\}\s*\{\s*([0-9]+)\s*\}')
_COMPLEX = re.compile(
    rf'(?P<real>[-+]?{_UNSIGNED}(?![0-9.]*[ij]))?(?:(?P<sign>[-+]?)(?P<imaginary>{_UNSIGNED})?[ij])?'
)
_POWER = re.compile(r'([0-9]+)(?:\s*\^\s*(?:([0-9]{1,2})|\{([0-9]{1,2})\}))?')
_HEXADECIMAL = re.compile(r'([-+]?)(?:0[xX]([0-9a-fA-F]+)|([0-9]+)|([0-9a-fA-F]+))')
_WORD = re.compile(r'[A-Za-z0-9]+')
_DURATION = re.compile(
    r'(?:(-?[0-9]+) days?)?(?:, ?|^|$)(?:([0-9]+):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,6}))?)?)?'
)


class AnswerError(ValueError):
    """The text is not an answer of this kind."""


@dataclasses.dataclass(frozen=True)
class AnswerType:
    """A kind of answer.

    Attributes:
        form: what it is called in messages.
        read: an answer from its text; raises AnswerError.
        same: whether an answer, as read, is the reference, as read.
    """

    form: str
    read: Callable[[str], Any]
    same: Callable[[Any, Any], bool]

    def readable(self, text: str) -> bool:
        """Whether `read` takes the text."""
        try:
            self.read(text)
        except AnswerError:
            return False
        return True


@dataclasses.dataclass(frozen=True)
class Number:
    """A number and how exactly it is written.

    Attributes:
        value: exact.
        unit: of the last place written; 0 where the value is exact, as in a fraction.
        loosest_unit: the same, zeros at the end of a whole number not taken as exact.
        digits: written from the first that is not 0.
    """

    value: Fraction
    unit: Fraction
    loosest_unit: Fraction
    digits: int


def _clean(text: str) -> str:
    """Leaves out what may surround an answer: spaces, dollar signs, a full stop."""
    if len(text) > MAX_CHARACTERS:
        raise AnswerError(f'longer than {MAX_CHARACTERS} characters')
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '$':
        text = text[1:-1].strip()
    return text.removesuffix('.').replace('\N{MINUS SIGN}', '-')


def _match(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    found = pattern.fullmatch(text)
    if found is None:
        raise AnswerError(f'unexpected {text[:40]!r}')
    return found


def _plain_number(text: str) -> Number:
    sign, unsigned, exponent = _match(_NUMBER, text).groups()
    whole, _, decimals = unsigned.partition('.')
    digits = whole + decimals
    unit = Fraction(10) ** (int(exponent or 0) - len(decimals))
    zeros = len(digits) - len(digits.rstrip('0')) if whole == unsigned and not exponent else 0
    value = int(digits) * unit
    return Number(
        -value if sign == '-' else value, unit, unit * 10**zeros, len(digits.lstrip('0'))
    )


def _read_number(text: str) -> Number:
    text = _clean(text)
    if _THOUSANDS.fullmatch(text):
        text = text.replace(',', '')
    return _plain_number(text)


def _read_ratio(text: str) -> tuple[int, int]:
    """Numerator and denominator as they are written; a whole number has the denominator 1."""
    text = _clean(text)
    latex = _LATEX_FRACTION.fullmatch(text)
    if latex:
        over, under = int(latex[1] + latex[2]), int(latex[3])
    elif '/' in text:
        over, under = map(int, _match(_FRACTION, text).groups())
    else:
        number = _plain_number(text)
        if number.unit != 1:
            raise AnswerError('neither a fraction nor a whole number')
        over, under = number.value.numerator, 1
    if under == 0:
        raise AnswerError('divides by zero')
    return over, under


def _read_probability(text: str) -> Number:
    if '/' not in text and 'frac' not in text:
        return _read_number(text)
    return Number(Fraction(*_read_ratio(text)), Fraction(0), Fraction(0), 0)


def _read_complex(text: str) -> tuple[Fraction, Fraction]:
    text = re.sub(r'\s+', '', _clean(text))
    if text.startswith('(') and text.endswith(')'):
        text = text[1:-1]
    found = _match(_COMPLEX, text)
    if not text or (found['real'] and text[-1] in 'ij' and not found['sign']):
        raise AnswerError('neither a + bi nor a part of it')
    imaginary = Fraction(0)
    if text[-1] in 'ij':
        imaginary = Fraction((found['sign'] or '') + (found['imaginary'] or '1').removesuffix('.'))
    return Fraction((found['real'] or '0').removesuffix('.')), imaginary


def _read_list(text: str) -> tuple[Number, ...]:
    """Numbers between commas or, where there are none, spaces; brackets and quotes may be there."""
    text = _clean(text)
    for left, right in ('[]', '()'):
        if text.startswith(left) and text.endswith(right):
            text = text[1:-1].strip()
            break
    items = [item.strip() for item in text.split(',')] if ',' in text else text.split()
    return tuple(_plain_number(_unquote(item)) for item in items)


def _unquote(item: str) -> str:
    return item[1:-1] if len(item) > 1 and item[0] == item[-1] and item[0] in '\'"' else item


def _read_factors(text: str) -> tuple[int, ...]:
    """Factors in ascending order, a power as often as it counts."""
    factors = []
    for part in re.split(r'[×*·⋅]|\\times|\\cdot', _clean(text)):
        base, plain, braced = _match(_POWER, part.strip()).groups()
        factors += [int(base)] * int(plain or braced or 1)
    return tuple(sorted(factors))


def _read_hexadecimal(text: str) -> int:
    """With 0x, or of digits only a decimal number, or with a letter that makes it hexadecimal."""
    sign, prefixed, decimal, bare = _match(_HEXADECIMAL, _clean(text)).groups()
    value = int(decimal) if decimal else int(prefixed or bare, 16)
    return -value if sign == '-' else value


def _read_word(text: str) -> str:
    return _match(_WORD, _clean(text)).group().casefold()


def _read_calendar(text: str) -> Fraction | str:
    """A count or the name of a day, or yes or no."""
    text = _clean(text)
    return _plain_number(text).value if _NUMBER.fullmatch(text) else _read_word(text)


def _read_duration(text: str) -> tuple[Fraction, bool]:
    """Seconds, and whether they are written with decimals."""
    found = _match(_DURATION, _clean(text))
    days, hours, minutes, seconds, decimals = found.groups()
    if days is None and hours is None:
        raise AnswerError('no duration')
    whole = 86400 * int(days or 0) + 3600 * int(hours or 0) + 60 * int(minutes or 0)
    part = Fraction(int(decimals or 0), 10 ** len(decimals or ''))
    return whole + int(seconds or 0) + part, decimals is not None


def _read_coordinates(text: str) -> tuple[Number, ...]:
    """A point, or one number, an angle in degrees perhaps."""
    return _read_list(_clean(text).removesuffix('°'))


def _same_value(given: Number, reference: Number) -> bool:
    return given.value == reference.value


def _same_values(given: tuple[Number, ...], reference: tuple[Number, ...]) -> bool:
    return [n.value for n in given] == [n.value for n in reference]


def _same_in_lowest_terms(given: tuple[int, int], reference: tuple[int, int]) -> bool:
    return math.gcd(*given) == 1 and Fraction(*given) == Fraction(*reference)


def _same_duration(given: tuple[Fraction, bool], reference: tuple[Fraction, bool]) -> bool:
    # The generator cuts milliseconds that it computes in floating point, and may lose one.
    return abs(given[0] - reference[0]) <= (Fraction(1, 1000) if reference[1] else 0)


def _rounds_to(given: Number, reference: Number, least_unit: Fraction, digits: int) -> bool:
    """Whether a number is the reference, rounded rightly to the places in which it is written.

    Args:
        given: the number.
        reference: what it should be.
        least_unit: it is rounded to this or finer.
        digits: of the reference when it is rounded itself; its last place is then uncertain.
    """
    if given.value == reference.value:
        return True
    unit = max(given.unit, min(given.loosest_unit, least_unit))
    slack = reference.unit if reference.digits >= digits else 0
    return unit <= least_unit and abs(given.value - reference.value) <= unit / 2 + slack


def rounded_to_places(places: int, *, digits: int) -> AnswerType:
    """A number rounded to so many decimal places or more; `digits` as the reference is rounded."""
    unit = Fraction(1, 10**places)
    same = lambda given, reference: _rounds_to(given, reference, unit, digits)  # noqa: E731
    return AnswerType(f'a number to {places} decimal places', _read_number, same)


def rounded_to_figures(
    figures: int, *, digits: int, read: Callable[[str], Number] = _read_number
) -> AnswerType:
    """A number rounded to so many significant figures or more; `digits` as above."""

    def same(given: Number, reference: Number) -> bool:
        return _rounds_to(given, reference, _unit_of_figures(reference.value, figures), digits)

    return AnswerType(f'a number to {figures} significant figures', read, same)


def _unit_of_figures(value: Fraction, figures: int) -> Fraction:
    """Unit of the last of so many significant figures of a number; 0 for 0, which has none."""
    if value == 0:
        return Fraction(0)
    value, exponent = abs(value), 0
    exponent = len(str(value.numerator)) - len(str(value.denominator))
    if value < Fraction(10) ** exponent:
        exponent -= 1
    return Fraction(10) ** (exponent - figures + 1)


def _rounds_to_reference(given: tuple[Number, ...], reference: tuple[Number, ...]) -> bool:
    return len(given) == len(reference) and all(
        g.unit <= r.unit and abs(g.value - r.value) <= r.unit / 2 or g.value == r.value
        for g, r in zip(given, reference, strict=True)
    )


NUMBER = AnswerType('a number such as -12', _read_number, _same_value)
NUMBERS = AnswerType("a list of numbers such as ['1', '-2.5']", _read_list, _same_values)
FRACTION = AnswerType('a fraction such as 3/8', _read_ratio, _same_in_lowest_terms)
PROBABILITY = rounded_to_figures(4, digits=10, read=_read_probability)
COMPLEX = AnswerType('a complex number such as 3 - 2i', _read_complex, lambda a, b: a == b)
FACTORS = AnswerType('prime factors such as 2 × 2 × 3', _read_factors, lambda a, b: a == b)
HEXADECIMAL = AnswerType('a number such as -0x1f', _read_hexadecimal, lambda a, b: a == b)
WORD = AnswerType('a word such as True', _read_word, lambda a, b: a == b)
CALENDAR = AnswerType('a number or a word', _read_calendar, lambda a, b: a == b)
DURATION = AnswerType('a duration such as 3 days, 02:15', _read_duration, _same_duration)
COORDINATES = AnswerType(
    'a number or a point such as (1.500, -2.000)', _read_coordinates, _rounds_to_reference
)
