"""Each warning on both sides of its bound, when it begins, and what a resumed run knows of it."""

import json
import math

import jax.numpy as jnp
import pytest

from configs.countdown import reinforcement
from mrt_jax.training.health import SIGNS, STEPS_IN_A_ROW, Health, examine
from tests.training.noted_config import declared_keys

# By metric: the last value that is all right, and one that is not.
SIDES = {
    'truncated': (0.1, 0.101),
    'forced': (0.75, 0.76),
    'groups_with_signal': (0.0625, 0.0),
    'unanimous': (0.99, 1.0),
    'sampler_trainer_difference': (0.05, 0.0501),
    'kl_to_sampler': (0.1, 0.11),
    'kl_to_reference': (1.0, 1.01),
}


def run(metric: str, values: list[float]) -> list[Health]:
    found = [Health({})]
    for value in values:
        found.append(examine(found[-1].streaks, {metric: value, 'loss': 1.0}))
    return found[1:]


def test_every_sign_is_tried():
    assert SIDES.keys() == {sign.metric for sign in SIGNS}


@pytest.mark.parametrize('sign', SIGNS, ids=lambda sign: sign.metric)
def test_a_warning_begins_once_beyond_its_bound_and_holds_until_it_ends(sign):
    good, bad = SIDES[sign.metric]
    assert all(h == Health({}) for h in run(sign.metric, [good] * (STEPS_IN_A_ROW + 1)))
    found = run(sign.metric, [bad] * (sign.steps + 2) + [good] + [bad] * sign.steps)
    begun = [step for step, health in enumerate(found, 1) if health.begun]
    assert begun == [sign.steps, 2 * sign.steps + 3]
    in_force = [health.in_force for health in found]
    early = [0] * (sign.steps - 1)
    assert in_force == [*early, 1, 1, 1, 0, *early, 1]


@pytest.mark.parametrize('sign', SIGNS, ids=lambda sign: sign.metric)
def test_it_names_the_number_and_keys_that_can_be_set(sign):
    [text] = run(sign.metric, [SIDES[sign.metric][1]] * sign.steps)[-1].begun
    assert text.startswith(f'{sign.metric} is {SIDES[sign.metric][1]:.3g}')
    advice = text.rpartition(': ')[2]
    assert any(key in advice for key in declared_keys(reinforcement()))
    assert '\n' not in text


def test_steps_without_the_metric_neither_add_nor_end():
    streaks: dict = {}
    for metrics in ({'unanimous': 1.0}, {}, {'unanimous': 1.0}, {'loss': 2.0}):
        health = examine(streaks, metrics)
        assert not health.in_force
        streaks = health.streaks
    health = examine(streaks, {'unanimous': 1.0})
    assert health.in_force == 1 and len(health.begun) == 1
    later = examine(health.streaks, {})
    assert later.in_force == 1 and not later.begun


def test_what_it_knows_survives_as_json_and_arrays_are_numbers():
    before = examine({}, {'truncated': jnp.float32(0.5), 'kl_to_sampler': jnp.float32(9)})
    again = examine(json.loads(json.dumps(before.streaks)), {'truncated': 0.5, 'kl_to_sampler': 9})
    assert again == examine(before.streaks, {'truncated': 0.5, 'kl_to_sampler': 9})
    assert again.streaks == {'truncated': 2, 'kl_to_sampler': 2}


def test_what_is_not_a_number_shows_nothing_and_infinity_does():
    assert examine({}, {'kl_to_sampler': math.nan}) == Health({})
    assert examine({}, {'kl_to_sampler': math.inf}).in_force == 1


def test_several_hold_at_once():
    health = examine({}, {'kl_to_sampler': 5.0, 'kl_to_reference': 5.0, 'groups_with_signal': 0})
    assert health.in_force == 2 and len(health.begun) == 2
