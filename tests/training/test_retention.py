"""Which checkpoints stay, by each part of the rule and by all of them."""

import math

import pytest

from mrt_jax.errors import InputError
from mrt_jax.training.retention import Retention

STEPS = (10, 20, 30, 40, 50)


def test_the_newest():
    assert Retention(2).kept(STEPS, {}) == {40, 50}
    assert Retention(9).kept(STEPS, {}) == set(STEPS)
    assert Retention(1).kept((), {}) == set()


def test_every_so_many():
    assert Retention(1, every=20).kept(STEPS, {}) == {20, 40, 50}


@pytest.mark.parametrize(
    'best, scores, kept',
    [
        ('max reward', {10: 0.1, 20: 0.9, 30: 0.9, 40: 0.2, 50: 0.3}, 30),
        ('min loss', {10: 0.1, 20: 0.9, 50: 0.3}, 10),
        ('min loss', {10: math.nan, 20: 0.9}, 20),
        ('max reward', {10: math.nan}, None),
        ('max reward', {60: 1.0}, None),
    ],
)
def test_the_best(best, scores, kept):
    assert Retention(1, best=best).kept(STEPS, scores) == {50} | ({kept} if kept else set())


def test_all_together():
    rule = Retention(2, every=30, best='max reward')
    assert rule.kept(STEPS, {10: 1.0, 20: 0.5}) == {10, 30, 40, 50}


@pytest.mark.parametrize(
    'bad', [dict(newest=0), dict(newest=1, every=-1), dict(newest=1, best='reward'),
            dict(newest=1, best='most reward'), dict(newest=1, best='max a b'),
            dict(newest=1, best=' ')],
)
def test_what_cannot_be_is_the_users_fault(bad):
    with pytest.raises(InputError, match='keep_'):
        Retention(**bad)
