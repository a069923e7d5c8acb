import pytest

from mrt_jax.evaluation.number_text import (
    HEADLINES,
    PASS_AT_1,
    REGRET,
    describe_differences,
    format_table,
    judge,
    table_measures,
    write_interval,
    write_number,
)


def interval(mean, low, high):
    return {'mean': mean, 'low': low, 'high': high}


NONE = interval(None, None, None)


@pytest.mark.parametrize(
    'value, unit, signed, text',
    [
        (0.4567, 'share', False, '45.7%'),
        (-0.0123, 'share', True, '−1.2'),
        (81.26, 'tokens', False, '81.3'),
        (12345.6, 'tokens', True, '+12,346'),
        (3.456, 'count', False, '3.46'),
        (0.1234, 'area', False, '0.123'),
        (None, 'area', False, '–'),
    ],
)
def test_numbers_have_the_digits_that_their_unit_deserves(value, unit, signed, text):
    assert write_number(value, unit, signed=signed) == text


def test_intervals_name_the_unit_once():
    assert write_interval(interval(0.5, 0.4, 0.6), 'share') == '40.0 to 60.0%'
    assert write_interval(interval(0.0, -0.1, 0.1), 'area', signed=True) == '−0.100 to +0.100'
    assert write_interval(NONE, 'tokens') == 'not defined'


def test_only_what_excludes_zero_is_judged():
    assert judge(interval(-0.1, -0.2, -0.01), REGRET) == 'better'
    assert judge(interval(0.1, 0.01, 0.2), REGRET) == 'worse'
    assert judge(interval(0.1, 0.01, 0.2), PASS_AT_1) == 'better'
    assert judge(interval(0.1, -0.01, 0.2), PASS_AT_1) == 'open'
    assert judge(NONE, REGRET) == 'open'
    neither = next(measure for measure in table_measures(1) if not measure.better)
    assert judge(interval(1, 0.5, 2), neither) == 'open'


def differences(regret, tokens, right):
    return {'normalized_regret': {'208': regret}, 'tokens_per_correct': tokens, 'pass_at_1': right}


def test_sentences_say_what_is_resolved_and_what_is_not():
    less, more = interval(-0.05, -0.06, -0.04), interval(0.12, 0.1, 0.14)
    nothing = interval(0.0, -1.0, 1.0)
    assert describe_differences('mrt', 'base', differences(less, nothing, more), '208') == (
        'Against base, mrt has 0.050 less normalized regret at 208 tokens and is right 12.0 points '
        'more often; no difference shows in tokens per right answer.'
    )
    assert describe_differences('mrt', 'base', differences(nothing, NONE, nothing), '208') == (
        'Against base, mrt shows no difference in normalized regret, tokens per right answer or '
        'pass@1.'
    )


def test_the_table_has_a_row_for_each_policy():
    numbers = differences(interval(0.5, 0.4, 0.6), NONE, interval(0.25, 0.2, 0.3))
    table = format_table({'a longer name': numbers, 'b': numbers}, 208).splitlines()
    assert len(table) == 3
    assert all(measure.name in table[0] for measure in HEADLINES)
    assert '0.500 (0.400 to 0.600)' in table[1] and '– (not defined)' in table[1]
    assert table[1].index('0.500') == table[2].index('0.500')
