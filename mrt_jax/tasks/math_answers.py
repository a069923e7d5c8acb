r"""When two mathematical answers are the same, as far as their form alone tells.

What forms cannot tell goes to `math-verify` (see `math_judge`), which reads more into some answers
than they say: a chain `8=7` equals 7 to it, a tuple equals a set, `12_8` equals 12, and 0.333333
equals 1/3. A policy would learn to use that, so such pairs are decided here.
"""

import re
from fractions import Fraction
from typing import Literal

Decision = Literal['equal', 'different', 'ask']

MAX_CHARACTERS = 300  # longest answer that is read
_MAX_DEPTH = 12  # of brackets
_MAX_EXPONENT = 30  # in numbers such as 1e3

_REMOVED = re.compile(
    r'\\(?:left|right|bigl?|bigr|Bigl?|Bigr|displaystyle|textstyle|limits|!)|\\?\$'
)
_SPACES = re.compile(r'(?:\s|~|\\[,;:\s])+')
_SPACED_SCRIPT = re.compile(r'([_^])(\w) (?=\d)')
_SCRIPT = re.compile(r'([_^])\{(\w)\}')
_SPACED_MIXED = re.compile(r'(?<![\w./}])(\d{1,20}) ([1-9]\d{0,19})/(\d{1,20})(?![\w./])')
_SPACED_FRACTION = re.compile(r'(\\frac ?\d) (?=\d)')
_IDLE_SPACE = re.compile(r'(?<!\d) | (?!\d)')
_DEGREES = re.compile(r'\^\{?\\circ\}?|°|\\degree')
_TEXT = re.compile(r'\\(?:text|mathrm|textbf|mathbf|mbox|textit|operatorname)\{([^{}]*)\}')
_SHORT_FRACTION = re.compile(r'\\frac(?:(\d)(\d)|(\d)\{([^{}]*)\}|\{([^{}]*)\}(\d))')
_THOUSANDS = re.compile(r'(?<![\d.,])(?<!\d )\d{1,3}(?:(?:,|\{,\}| )\d{3})+(?!\d|[ ,]\d)')
_NUMBER = re.compile(r'([-+]?)(\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE]([-+]?\d{1,3}))?')
_FRACTION = re.compile(
    r'([-+]?)(?:\\frac\{([-+]?\d{1,40})\}\{([-+]?\d{1,40})\}|(\d{1,40})/(\d{1,40}))'
)
_MIXED = re.compile(r'([-+]?)(\d{1,20})\\frac\{(\d{1,20})\}\{(\d{1,20})\}')
_VARIABLE = re.compile(r'(?:[a-zA-Z]|\\[a-z]+)(?:_\{?\w\}?)?(?:\([a-z]\))?')
_UNITS = re.compile(
    r'(?<=[\d)}])(?:\\%|%|(?:square|cubic)?(?:units?|inch(?:es)?|feet|foot|miles?|meters?|metres?|'
    r'centimeters?|kilometers?|hours?|minutes?|seconds?|days?|weeks?|years?|degrees?|dollars?|'
    r'cents?|cm|mm|km|kg|mph|ft|yd|oz|lbs?|points?|people|ways)(?:\^\{?[23]\}?)?)$'
)
_CHOICE = re.compile(r'\(?([A-Ja-j])\)?')
_BASE = re.compile(r'(?<![A-Za-z\\])\d[0-9A-F]*_\{?\d')
_ORDINARY = str.maketrans(
    {'\N{MINUS SIGN}': '-', '\N{EN DASH}': '-', '∞': '\\infty ', 'π': '\\pi '}
)


def normalize(text: str, *, join_thousands: bool = True) -> str:
    """The same answer without what does not count: spaces, sizes, text commands, units, a stop.

    Spaces that keep two numbers apart stay.

    Args:
        text: an answer.
        join_thousands: reads 1,234 as one number, outside of parentheses, brackets and sets; else
            as two.
    """
    text = text.translate(_ORDINARY).strip().rstrip('.')
    text = re.sub(r'\\[dtc]frac', r'\\frac', text)
    text = _TEXT.sub(lambda found: found[1].strip(), text)
    text = _DEGREES.sub('', text)
    text = _SPACES.sub(' ', _REMOVED.sub('', text)).strip()
    text = _SPACED_MIXED.sub(_write_mixed, _SPACED_SCRIPT.sub(r'\1{\2}', text))
    if join_thousands:
        text = _THOUSANDS.sub(_join, text)
    text = _IDLE_SPACE.sub('', _SPACED_FRACTION.sub(r'\1', text))
    text = _SHORT_FRACTION.sub(
        lambda f: f'\\frac{{{f[1] or f[3] or f[5]}}}{{{f[2] or f[4] or f[6]}}}', text
    )
    return _SCRIPT.sub(r'\1\2', _UNITS.sub('', text))


def _write_mixed(found: re.Match[str]) -> str:
    """1 1/2 as LaTeX writes it; 1 3/2 is no such number."""
    whole, over, under = found.groups()
    return f'{whole}\\frac{{{over}}}{{{under}}}' if int(over) < int(under) else found[0]


def _join(found: re.Match[str]) -> str:
    """The digits of 1,234, unless the comma may separate the parts of a tuple or a set."""
    before = found.string[: found.start()]
    open_brackets = sum(before.count(left) for left in '([') + before.count('\\{')
    closed = sum(before.count(right) for right in ')]') + before.count('\\}')
    inside = open_brackets > closed and ',' in found[0].replace('{,}', '')
    return found[0] if inside else re.sub('[{}, ]', '', found[0])


def vote_key(text: str) -> str:
    """What answers have in common that count as one candidate in a vote: number, word or form.

    As `decide` has it, short of what only an algebra system can tell.
    """
    if len(text) > MAX_CHARACTERS:
        return text
    form = normalize(text)
    if (number := _value(form)) is not None:
        return str(number)
    if choice := _CHOICE.fullmatch(form):
        return choice[1]
    return form.casefold() if _is_word(form) else form


def decide(answer: str, reference: str) -> Decision:
    """Whether an answer is the reference, if their forms tell.

    Args:
        answer: what a policy wrote; any text.
        reference: the answer of the problem.

    Returns:
        'ask' where an algebra system has to say.
    """
    if len(answer) > MAX_CHARACTERS:
        return 'different'
    answer = ' '.join(answer.split())
    if not answer or not answer.isprintable() or _depth(answer) > _MAX_DEPTH or 'box' in answer:
        return 'different'
    given, expected = normalize(answer), normalize(reference)
    given, expected = _without_name(given, expected), _without_name(expected, given)
    if not given or not expected:
        return 'different'
    if given == expected or ',' in given and _as_list(answer) == _as_list(reference):
        return 'equal'
    letter = _CHOICE.fullmatch(expected)
    if letter and expected.strip('()').isupper():
        found = _CHOICE.fullmatch(given)
        return 'equal' if found and found[1] == letter[1] else 'different'
    numbers = _value(given), _value(expected)
    if None not in numbers:
        return 'equal' if numbers[0] == numbers[1] else 'different'
    if _is_word(given) or _is_word(expected):
        return 'equal' if given.casefold() == expected.casefold() else 'different'
    return 'ask' if _same_form(given, expected) and not _ambiguous(answer, given) else 'different'


def _as_list(text: str) -> str:
    return normalize(text, join_thousands=False)


def _ambiguous(answer: str, given: str) -> bool:
    """Whether it holds several formulas, or numbers side by side: equal only as written."""
    return bool(re.search(r'(?<!\\)\$', answer.strip('$ '))) or ' ' in given


def _same_form(given: str, expected: str) -> bool:
    """Whether both are of one kind: numbers of a base, equations, tuples, lists or sets."""
    if _BASE.search(given) or _BASE.search(expected):
        return False  # Equal only as written.
    if given.count('=') != expected.count('=') or given.count('=') > 1:
        return False
    if _split(given)[1:] and '=' in given:
        return False
    return _shape(given) == _shape(expected)


def _shape(text: str) -> tuple[str, str, int]:
    """Brackets around the whole, and how many parts are between commas in them or without."""
    for left, right in (('\\{', '\\}'), ('(', ')'), ('[', ']'), ('(', ']'), ('[', ')')):
        if text.startswith(left) and text.endswith(right):
            inside = text[len(left) : -len(right)]
            # (1)(2) is no tuple, and parentheses around one part are only parentheses.
            if _closes_at_end(text) and ((parts := len(_split(inside))) > 1 or left == '\\{'):
                return left, right, parts
    return '', '', len(_split(text))


def _closes_at_end(text: str) -> bool:
    """Whether the bracket that begins the text is closed by its last character."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character in '([{') - (character in ')]}')
        if depth == 0 and character in ')]}':
            return i == len(text) - 1
    return False


def _split(text: str) -> list[str]:
    """Parts between the commas that are in no bracket."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        depth += (character in '([{') - (character in ')]}')
        if character == ',' and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]


def _without_name(text: str, other: str) -> str:
    """5 for x=5, unless the other has a name too."""
    name, equals, value = text.partition('=')
    if equals and '=' not in value and '=' not in other and _VARIABLE.fullmatch(name):
        return value
    return text


def _value(text: str) -> Fraction | None:
    """A number or a fraction of whole numbers, exactly; None for anything else."""
    while text.startswith('(') and text.endswith(')') and _closes_at_end(text):
        text = text[1:-1]
    if number := _NUMBER.fullmatch(text):
        exponent = int(number[3] or 0)
        if abs(exponent) > _MAX_EXPONENT:
            return None
        return Fraction(f'{number[1]}{number[2]}'.rstrip('.')) * Fraction(10) ** exponent
    if found := _FRACTION.fullmatch(text):
        over, under = int(found[2] or found[4]), int(found[3] or found[5])
        sign = -1 if found[1] == '-' else 1
        return Fraction(sign * over, under) if under else None
    if found := _MIXED.fullmatch(text):
        whole, over, under = (int(found[i]) for i in (2, 3, 4))
        sign = -1 if found[1] == '-' else 1
        return sign * (whole + Fraction(over, under)) if under else None
    return None


def _is_word(text: str) -> bool:
    return len(text) > 2 and text.replace('-', '').isalpha()


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in '([{') - (character in ')]}')
        deepest = max(deepest, depth)
    return deepest
