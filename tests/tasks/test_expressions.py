"""The parser against trees whose value is known, and against hostile text."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.tasks.expressions import MAX_CHARACTERS, ExpressionError, parse

LEAVES = st.integers(0, 999)
TREES = st.recursive(
    LEAVES, lambda node: st.tuples(node, st.sampled_from('+-*/'), node), max_leaves=12
)


def write(tree):
    """Fully parenthesised text, value (None for a division by zero) and numbers of a tree."""
    if isinstance(tree, int):
        return str(tree), Fraction(tree), (tree,)
    (left, a, m), operator, (right, b, n) = write(tree[0]), tree[1], write(tree[2])
    value = None
    if a is not None and b is not None:
        value = {
            '+': lambda: a + b, '-': lambda: a - b, '*': lambda: a * b,
            '/': lambda: a / b if b else None,
        }[operator]()
    return f'({left} {operator} {right})', value, m + n


@settings(max_examples=200, deadline=None)
@given(TREES)
def test_values_are_exact(tree):
    text, value, numbers = write(tree)
    if len(text) > MAX_CHARACTERS or value is None:
        with pytest.raises(ExpressionError):
            parse(text)
        return
    parsed = parse(text)
    assert (parsed.value, parsed.numbers) == (value, numbers)


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('1+2*3', 7), ('(1+2)*3', 9), ('10-3-2', 5), ('100/5/2', 10), ('2*(3+4)*5', 70),
        ('8/3', Fraction(8, 3)), (' 7 × 6 ', 42), ('84÷2', 42), ('50−8', 42), ('((5))', 5),
        ('007', 7), ('12 * 2 / 3', 8),
    ],
)
def test_precedence_and_signs(text, value):
    assert parse(text).value == value


@pytest.mark.parametrize(
    'text',
    [
        '', ' ', '+', '1+', '+1', '-1', '2*-3', '1 2', '(1', '1)', '()', '1//2', '2**3', '1.5',
        '1e3', '1/0', '5/(2-2)', 'a+1', '__import__("os")', '²', '٣+٤', '1_000', '0x10', '9' * 13,
        '(' * 21 + '1' + ')' * 21, '1+' * 101 + '1', '9**9**9', '1;2', 'import os', '\x00', '1=1',
    ],
)
def test_everything_else_is_refused(text):
    with pytest.raises(ExpressionError):
        parse(text)
