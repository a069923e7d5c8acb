"""Every config file resolves, and is refused by name where something is missing."""

import importlib

import pytest

from configs import countdown, pods
from mrt_jax.errors import InputError
from mrt_jax.training.network import check_network
from mrt_jax.training.rl_setup import prepare

VARIANTS = [
    *(('countdown', v) for v in ('demo', 'compare', 'methods', *countdown.RECIPES, 'sft')),
    *(('countdown', v) for v in countdown.IMITATIONS),
    *(('smollm2', v) for v in ('demo', 'mrt', 'grpo', 'sft')),
    *(('math', v) for v in ('mrt', 'grpo')),
    *(('pods', v) for v in pods.SLICES),
    *(('backtrack', v) for v in ('mrt', 'mrt_to_go', 'mrt_rl', 'grpo', 'self_correction')),
    *(('backtrack', v) for v in ('star', 'mrt_star')),
    *(('backtrack', v) for v in ('sft', 'sft_direct', 'sft_rise')),
]


@pytest.mark.parametrize(('name', 'variant'), VARIANTS)
def test_variants_have_the_keys_of_their_kind(name, variant):
    module = importlib.import_module(f'configs.{name}')
    config = module.get_config(variant)
    like = {'rl': countdown.reinforcement, 'sft': countdown.warm_start}.get(config.objective)
    if config.objective == 'star':
        own = countdown.IMITATIONS[variant]()
        assert {*config.keys()} == {*countdown.reinforcement().keys(), *own}
    elif like:
        assert config.keys() == like().keys()
    check_network(config)
    assert variant in module.__doc__
    with pytest.raises(ValueError, match="no variant 'other'"):
        module.get_config('other')


def test_arms_of_a_comparison_can_be_named():
    config = countdown.get_config('arms=mrt+star')
    assert [*config.arms] == ['mrt', 'star'] and config.reference_arm == 'mrt'
    with pytest.raises(ValueError, match="no arm 'mtr'; it has grpo"):
        countdown.get_config('arms=grpo+mtr')


def test_a_config_without_a_policy_says_so():
    config = importlib.import_module('configs.math').get_config()
    with pytest.raises(InputError, match='no policy is given'):
        prepare(config)
