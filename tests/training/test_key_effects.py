"""Keys that do nothing are refused, and no shipped config has one that nothing ever reads."""

import dataclasses
import json

import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from configs import backtrack, countdown, math, smollm2
from mrt_jax.errors import InputError
from mrt_jax.evaluation import comparison
from mrt_jax.methods.credit import Outcomes, Starts, assign_credit
from mrt_jax.methods.experience import judge_traces
from mrt_jax.training import collect, rl_setup
from mrt_jax.training.arms import OF_THE_COMPARISON, arm_config
from mrt_jax.training.key_effects import CONDITIONS, check_effects, why_mute
from mrt_jax.training.objectives import KINDS, train
from mrt_jax.training.rl_setup import read_credit
from tests.training.noted_config import NotedConfig, declared_keys
from tests.training.run_configs import (
    SMALL_STAR,
    get_easy_task,
    save_untrained_policy,
    small_run,
)

SHIPPED = {
    **{f'countdown:{v}': countdown.get_config(v)
       for v in ('demo', 'compare', 'methods', 'sft', *countdown.RECIPES, *countdown.IMITATIONS)},
    **{f'smollm2:{v}': smollm2.get_config(v) for v in ('demo', 'mrt', 'sft')},
    **{f'backtrack:{v}': backtrack.get_config(v) for v in ('mrt', 'self_correction', 'sft')},
    **{f'math:{v}': math.get_config(v) for v in ('mrt', 'grpo')},
}
EVALUATION = dict(num_problems=2, num_samples=1, batch_rows=2, max_boundaries=3, branches=2,
                  budgets=(30, 50))
# Values that grpo has not.
OTHER = {
    'alpha': 0.3, 'branches': 6, 'prover_rounds': 2, 'prover_rows': 3, 'length_penalty_weight': 0.7,
    'marker': 'opens',
    'common_draws': False, 'shrinkage': 'walk', 'aim_k': 3, 'refresh_prefixes_every': 7,
    'prefixes_per_group': 2, 'bonus': 'all',
    'clip_low': 0.11, 'clip_high': 0.12, 'mismatch.bound': 'mask', 'mismatch.most': 3.0,
    'max_kl': 0.5, 'prover_sequences': 12,
}


@pytest.fixture(scope='module')
def policy(tmp_path_factory):
    return save_untrained_policy(tmp_path_factory.mktemp('policy') / 'untrained')


def tiny_self_taught(folder):
    policy = save_untrained_policy(folder / 'untrained', sharpness=1)
    return small_run(policy, 'mrt_star', num_steps=2, **SMALL_STAR | {'problems_per_iteration': 16})


def tiny_warm_start(folder):
    del folder  # From scratch.
    config = countdown.warm_start()
    config.update(num_steps=1, rows_per_step=4, microbatch_rows=4, max_thinking_tokens=24,
                  max_answer_tokens=4)
    config.model.update(width=16, num_layers=1, head_width=8, ffn_width=16)
    return config


# A small config of each objective but rl, whose arms the comparison below trains.
TINY_RUNS = {'sft': tiny_warm_start, 'star': tiny_self_taught}


@pytest.fixture(scope='module')
def keys_read(policy, tmp_path_factory):
    """Names of the keys that a tiny run of each objective reads, its report included."""
    untried = KINDS.keys() - {'rl', *TINY_RUNS}
    assert not untried, f'TINY_RUNS of this test needs a config for {sorted(untried)}'
    seen = {kind: set() for kind in (*KINDS, 'compare')}

    def arm_noted(config, *args):
        return NotedConfig(arm_config(config.wrapped, *args), seen['rl'])

    frozen = ml_collections.FrozenConfigDict
    with pytest.MonkeyPatch.context() as patch:
        # The copy that a run reads its config from must note reads too.
        patch.setattr(
            ml_collections, 'FrozenConfigDict',
            lambda config: config if isinstance(config, NotedConfig) else frozen(config),
        )
        patch.setattr(comparison, 'arm_config', arm_noted)
        patch.setattr(comparison, 'write_report', lambda folder, *_, **__: folder)  # Plots only.
        config = countdown.comparison(arms=('grpo', 'mrt'), seeds=(0,), equal_tokens=False)
        small = small_run(policy, num_steps=1)
        config.update({key: small[key] for key in small.keys() if key != 'objective'})
        config.evaluation.update(EVALUATION)
        workdir = tmp_path_factory.mktemp('compare')
        noted = NotedConfig(config, seen['compare'])
        assert comparison.compare(noted, workdir)
        patch.setattr(rl_setup, 'get_task', get_easy_task)
        for kind, make_config in TINY_RUNS.items():
            folder = tmp_path_factory.mktemp(kind)
            assert train(NotedConfig(make_config(folder), seen[kind]), folder)
    # Evaluation and report read the same whatever was trained.
    for kind in KINDS:
        seen[kind] |= {key for key in seen['compare'] if key not in OF_THE_COMPARISON}
    seen['compare'] |= seen['rl']
    return seen


@pytest.mark.parametrize('name', SHIPPED)
def test_every_key_is_read_or_conditional(name, keys_read):
    config = SHIPPED[name]
    declared = {key for key in declared_keys(config) if not key.startswith('arms.')}
    # Those of another task's demonstrations, or of a policy from a folder.
    groups = ('demonstrations.',) if config.task != 'countdown' else ()
    read = keys_read[config.objective] | CONDITIONS.get(config.objective, {}).keys()
    mute = {key for key in declared - read if not key.startswith(groups)}
    assert not mute, (
        f'nothing reads {sorted(mute)} of configs/{name} in a tiny run of objective '
        f'{config.objective!r}. Read it, or delete it where it is declared; if it is read only '
        'beside another key, give it a line in CONDITIONS of mrt_jax/training/key_effects.py'
    )
    conditional = CONDITIONS.get(config.objective, {}).keys()
    stale = {key for key in conditional - declared if not key.startswith(groups)}
    assert not stale, f'CONDITIONS of {config.objective!r} has keys that no config has: {stale}'


def steps(workdir):
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    clocks = ('_seconds', '_per_second')
    return [{k: v for k, v in line.items() if not k.endswith(clocks)} for line in lines]


def test_mute_keys_change_nothing(policy, tmp_path, monkeypatch):
    """All of them at once, in a run where the table says that they do nothing."""

    def judge_luckily(*args, **kwargs):
        """An untrained policy is never right by itself."""
        found = judge_traces(*args, **kwargs)
        return dataclasses.replace(found, rewards_B=jnp.arange(len(found.rewards_B)) % 2.0)

    monkeypatch.setattr(collect, 'judge_traces', judge_luckily)
    elsewhere = {
        'sampling.top_k', 'sampling.top_p', 'sampling.min_p', 'outcome_weight',
        'ratio',  # Rounding moves it a little.
    }
    refused = {'weigh_by_stderr'}  # By `CreditConfig` itself.
    assert OTHER.keys() | elsewhere | refused == CONDITIONS['rl'].keys(), 'OTHER lacks a value'
    runs = []
    for changes in ({}, OTHER):
        config = small_run(policy, variant='grpo', num_steps=2)
        assert all(why_mute(config, key) for key in OTHER)
        config.update_from_flattened_dict(changes)
        workdir = tmp_path / str(len(runs))
        workdir.mkdir()
        assert train(config, workdir)
        runs.append(steps(workdir))
    assert runs[0] == runs[1]
    assert all(line['grad_norm'] > 0 for line in runs[0])


@pytest.mark.parametrize(('key', 'cure'), {
    'alpha': {'credit': 'scalar'},
    'branches': {'credit': 'prefix'},
    'common_draws': {'credit': 'to_go'},
    'shrinkage': {'credit': 'anytime'},
    'weigh_by_stderr': {'credit': 'scalar'},
    'aim_k': {'aim': 'pass_at_k'},
    'refresh_prefixes_every': {'credit': 'prefix'},
    'prefixes_per_group': {'credit': 'prefix'},
    'bonus': {'credit': 'prefix'},
    'prover_rounds': {'evaluate_every': 2},
    'prover_rows': {'credit': 'scalar'},
    'prover_sequences': {'train_prover': 0.5},
    'length_penalty_weight': {'length_penalty': 'arora'},
    'ratio': {'updates_per_step': 2},
    'clip_low': {'updates_per_step': 2},
    'clip_high': {'updates_per_step': 3},
    'mismatch.bound': {'mismatch.level': 'token'},
    'mismatch.most': {'mismatch.level': 'sequence'},
}.items())
def test_a_key_has_its_effect_where_the_message_says(key, cure):
    config = countdown.get_config('grpo')
    with pytest.raises(InputError, match=f'^{key} has no effect: ') as caught:
        check_effects(config, ['seed', key])
    assert next(iter(cure)) in str(caught.value).partition(': set ')[2]
    config.update_from_flattened_dict(cure)
    check_effects(config, [key])


@pytest.mark.parametrize('changes', [
    {'credit': 'prefix', 'bonus': 'all'},
    {'credit': 'prefix', 'bonus': 'all', 'baseline': 'termination'},
    {'credit': 'prefix', 'bonus': 'continue'},
    {'credit': 'prefix', 'bonus': 'all', 'prefixes_per_group': 2},
    {'credit': 'prefix', 'bonus': 'all', 'length_penalty': 'kimi'},
    {'credit': 'prefix', 'bonus': 'all', 'normalise': 'separate'},
    {'credit': 'prefix', 'bonus': 'all', 'normalise': 'none'},
    {'credit': 'prefix', 'bonus': 'all', 'normalise': 'outcome'},
    {'credit': 'prefix', 'outcome_weight': 0.0},
    {'credit': 'none'},
])
def test_weights_are_mute_where_they_cancel(changes):
    """The table says that a weight has no effect exactly where the advantages are the same."""
    rng = np.random.default_rng(0)
    rewards_B = np.array([1, 0, 1, 1, 0, 1, 0, 0], np.float32)
    success_B = np.repeat([0.25, 0.75], 4).astype(np.float32)
    if changes.get('prefixes_per_group', 1) == 1:
        success_B[:] = 0.25
    stopped_B = np.arange(8) % 4 >= 2 if 'prefixes_per_group' in changes else np.arange(8) >= 4
    outcomes = Outcomes(
        rewards_B, rng.integers(3, 9, 8), np.ones((8, 2), bool), np.zeros(8, np.int32)
    )

    def advantages(**weights):
        config = countdown.reinforcement(**{'normalise': 'together', **changes, **weights})
        starts = Starts(success_B, stopped_B) if config.credit == 'prefix' else None
        return config, assign_credit(read_credit(config), outcomes, starts).advantages_BT

    config, before_BT = advantages()
    for name in ('alpha', 'outcome_weight'):
        if config[name]:
            moved_BT = advantages(**{name: 0.4})[1]
            mute = why_mute(config, name) is not None
            assert mute == bool(np.allclose(before_BT, moved_BT, atol=2e-3)), name


def test_self_taught_runs_that_ask_the_prover_draw_for_it():
    config = countdown.get_config('mrt_star')
    check_effects(config, ['common_draws', 'branches'])
    with pytest.raises(InputError, match="selection='correct'"):
        check_effects(countdown.get_config('star'), ['common_draws'])


def test_greedy_sampling_filters_nothing():
    for config in (countdown.get_config('mrt'), countdown.get_config('sft')):
        check_effects(config, ['sampling.top_k'])
        config.sampling.temperature = 0.0
        with pytest.raises(InputError, match='sampling.top_k has no effect'):
            check_effects(config, ['sampling.temperature', 'sampling.top_k'])


def test_in_a_comparison_an_effect_on_one_arm_is_enough():
    config = countdown.get_config('demo')
    check_effects(config, ['alpha', 'reference_arm', 'seeds', 'evaluation.branches'])
    check_effects(config, ['arms.mrt.credit'])
    for key, reason in {
        'seed': 'set seeds', 'credit': r'set arms\.mrt\.credit',
        'length_penalty_weight': "length_penalty='none'",
    }.items():
        with pytest.raises(InputError, match=f'^{key} has no effect: .*{reason}'):
            check_effects(config, [key])
    config.arms.mrt.credit = 'none'
    with pytest.raises(InputError, match='alpha has no effect'):
        check_effects(config, ['alpha'])
