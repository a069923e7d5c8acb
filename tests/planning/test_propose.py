"""The search for the largest size that fits, against memory of known laws."""

import pytest

from configs import countdown
from mrt_jax.planning.propose import largest_that_fits, with_prompts, with_thinking

MEMORY = 1000


def search(held, **changes):
    asked = []

    def ask(value):
        asked.append(value)
        return held(value)

    options = dict(start=16, unit=4, most=4096, memory=MEMORY, tries=4) | changes
    found = largest_that_fits(ask, **options)
    assert [*found.held_bytes] == sorted(asked) and len({*asked}) == len(asked)
    assert len(asked) <= options['tries'] and all(value % options['unit'] == 0 for value in asked)
    return found


@pytest.mark.parametrize(('base', 'slope'), [(200, 5), (0, 1), (900, 1), (100, 50), (500, 40)])
def test_a_line_is_found_with_few_compilations(base, slope):
    found = search(lambda value: base + slope * value)
    best = (MEMORY - base) // slope // 4 * 4
    assert found.fits == best and found.too_much in (best + 4, None)


def test_bends_and_steps_stay_in_the_bracket():
    found = search(lambda value: 10 * value + value**2 // 8, tries=8)
    assert found.fits == 56 and found.too_much == 60
    found = search(lambda value: 400 if value < 40 else 1200, tries=8)
    assert found.fits == 36 and found.too_much == 40


def test_where_the_compiler_gives_up_the_search_halves():
    found = search(lambda value: value if value < 100 else None, tries=12)
    assert found.fits == 96 and found.too_much == 100 and found.held_bytes[100] is None
    found = search(lambda value: None, start=64, tries=9)
    assert found.fits is None and found.too_much == 4


def test_the_largest_sensible_value_ends_the_search():
    found = search(lambda value: value, most=103)
    assert found.fits == 100 and found.too_much is None
    assert search(lambda value: 2000, tries=1).fits is None


def test_only_the_key_in_question_changes():
    config = countdown.get_config('mrt')
    larger = with_prompts(config, 64)
    assert larger.prompts_per_step == 64 and config.prompts_per_step == 16
    config.row_tokens = 300
    longer = with_thinking(config, config.max_thinking_tokens + 30)
    assert longer.row_tokens == 330
    config.row_tokens = 384  # As attention kernels take them.
    assert with_thinking(config, config.max_thinking_tokens + 30).row_tokens == 512
    larger = with_prompts(config, 64)
    assert larger.row_tokens == config.row_tokens and longer.prompts_per_step == 16
