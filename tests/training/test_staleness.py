"""Rollouts one update ahead: the same numbers where nothing changes, the same run when resumed."""

import dataclasses
import functools
import shutil

import numpy as np
import pytest

from mrt_jax.errors import InputError
from mrt_jax.policies.load import load_policy
from mrt_jax.training import ahead, reinforcement, rl_setup
from mrt_jax.training.export import read_workdir
from mrt_jax.training.reinforcement import train_policy
from mrt_jax.training.rl_setup import prepare
from tests.training.run_configs import (
    get_easy_task,
    note_calls,
    read_steps,
    run,
    save_untrained_policy,
    small_run,
    terminate_at_call,
)

STEPS = 4
NONE = 1e-30  # Learning rate that no parameter notices.
# Of what a batch is, whoever trains on it.
OF_TRACES = (
    'reward', 'regret', 'progress', 'response_tokens', 'sampled_tokens', 'prover_tokens', 'episodes'
)


def get_uneven_task(name, **texts):
    """Rewards and J differ within groups, whoever says what prefixes are worth."""
    return dataclasses.replace(
        get_easy_task(name, **texts), attempt_outcome=lambda text, answer: len(text) % 2 == 0
    )


@pytest.fixture(scope='module')
def policy(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rl_setup, 'get_task', get_uneven_task)
        yield save_untrained_policy(tmp_path_factory.mktemp('policy') / 'untrained', sharpness=2)


def configured(policy, variant='mrt_to_go', learning_rate=0.01, **changes):
    changes = dict(staleness=1, prover_rounds=2, common_draws=False) | changes
    config = small_run(policy, variant, num_steps=STEPS, **changes)
    config.optimizer.learning_rate = learning_rate
    return config


def take_staleness(steps):
    return [step.pop('staleness') for step in steps]


def assert_same_policy(one, other):
    files = [folder / 'policy' / 'model.safetensors' for folder in (one, other)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.fixture(scope='module')
def whole(policy, tmp_path_factory):
    """A run one update ahead, two rounds of answers, left alone."""
    workdir = tmp_path_factory.mktemp('whole')
    run(configured(policy, keep_checkpoints=STEPS), workdir)
    return workdir


@pytest.fixture(scope='module')
def standing(policy, tmp_path_factory):
    """The metrics of the same run of a policy that does not change, sampled ahead or not."""
    folder = tmp_path_factory.mktemp('standing')
    return [
        run(configured(policy, learning_rate=NONE, staleness=staleness), folder / str(staleness))
        for staleness in (0, 1)
    ]


def test_a_policy_that_stands_still_learns_the_same(standing):
    apart, together = (list(map(dict, steps)) for steps in standing)
    assert take_staleness(together) == [0, 1, 1, 1]
    assert together == apart
    assert any(0 < step['reward'] < 1 for step in apart)
    assert any(step['grad_norm'] > 0 and step['progress'] for step in apart)


@pytest.mark.parametrize(
    ('variant', 'changes'),
    [
        ('grpo', dict(prover_rounds=1, evaluate_every=2, show_every=2)),
        ('mrt_to_go', dict(prover_rounds=1, rollout_slots=4, cache_dtype='int8',
                           share_prompts=True, mismatch={'level': 'token'})),
        ('mrt', dict(lora_rank=2, param_dtype='bfloat16', kl_coef=0.1, updates_per_step=2)),
        ('mrt', dict(prover='attempts', prover_rounds=1)),
        ('mrt', dict(train_prover=0.5, prover_sequences=4, prover_rounds=1)),
    ],
    ids=['outcome', 'slots', 'adapters', 'attempts', 'trained answers'],
)
def test_so_does_one_of_any_other_kind(policy, tmp_path, variant, changes):
    apart, together = (
        run(
            configured(policy, variant, NONE, staleness=staleness, **changes),
            tmp_path / str(staleness),
        )
        for staleness in (0, 1)
    )
    assert take_staleness(together) == [0, 1, 1, 1]
    assert together == apart


def test_the_second_batch_is_sampled_by_the_first_policy(whole, standing):
    moving, (_, still) = read_steps(whole), standing
    assert [step['staleness'] for step in moving] == [0, 1, 1, 1]
    for ours, theirs in zip(moving[:2], still, strict=False):
        assert [ours[name] for name in OF_TRACES] == [theirs[name] for name in OF_TRACES]
    assert any(
        [ours[name] for name in OF_TRACES] != [theirs[name] for name in OF_TRACES]
        for ours, theirs in zip(moving[2:], still[2:], strict=True)
    )
    # What lies in between counts as a difference of sampler and trainer.
    differences = [step['sampler_trainer_difference'] for step in moving]
    assert differences[0] < 1e-4 < 1e-3 < min(differences[1:])


def test_a_batch_is_judged_while_the_next_is_sampled(policy, tmp_path, monkeypatch):
    events = []
    note = functools.partial(note_calls, monkeypatch, events)
    note(ahead, 'start_rollouts', 'start')
    note(ahead, 'read_rollouts', 'read')
    note(ahead, 'start_proof', 'draw')
    note(ahead, 'judge_traces', 'judge traces')
    note(ahead, 'judge_answers', 'judge answers')
    note(reinforcement, 'make_batch', 'update')
    config = configured(policy)
    config.num_steps = 3
    run(config, tmp_path)
    judge, sample = ['judge traces', 'judge answers'], ['read', 'draw']
    assert events == [
        'start', *sample, 'start', *judge, *sample, 'update',
        'start', *judge, *sample, 'update',
        *judge, 'update',  # Nobody would train on another batch.
    ]


def test_a_stopped_run_goes_on_as_if_it_had_not(policy, whole, tmp_path, monkeypatch):
    terminate_at_call(monkeypatch, ahead, 'judge_traces', 2)
    config = configured(policy, checkpoint_every=100)
    assert not train_policy(config, tmp_path)
    assert len(read_steps(tmp_path)) == 2
    assert run(config, tmp_path) == read_steps(whole)
    assert_same_policy(tmp_path, whole)


@pytest.mark.parametrize('step', range(1, STEPS))
def test_every_checkpoint_has_what_was_sampled_ahead(policy, whole, tmp_path, step):
    shutil.copytree(whole, tmp_path / 'run')
    for later in range(step + 1, STEPS + 1):
        shutil.rmtree(tmp_path / 'run' / 'checkpoints' / str(later))
    assert run(configured(policy), tmp_path / 'run') == read_steps(whole)
    assert_same_policy(tmp_path / 'run', whole)


def test_only_steps_that_another_follows_sample_ahead(policy, whole, tmp_path):
    """By their number, or by the tokens that count when their batch is trained on."""
    folders = [whole / 'checkpoints' / str(step) / 'next' for step in range(1, STEPS + 1)]
    assert [folder.is_dir() for folder in folders] == [True] * (STEPS - 1) + [False]
    config = configured(policy)
    config.num_steps = 1
    config.num_sampled_tokens = read_steps(whole)[-1]['sampled_tokens_total']
    assert run(config, tmp_path) == read_steps(whole)


def test_an_ended_run_that_goes_on_begins_as_the_first_step_does(policy, whole, tmp_path):
    """Its last step has sampled nothing, so its next samples for itself."""
    config = configured(policy)
    for steps in (2, STEPS):
        config.num_steps = steps
        run(config, tmp_path)
    steps = read_steps(tmp_path)
    assert steps[:2] == read_steps(whole)[:2]
    assert [step['staleness'] for step in steps] == [0, 1, 0, 1]
    assert steps[2]['sampler_trainer_difference'] < 1e-4


def test_staleness_may_change_when_a_run_goes_on(policy, whole, tmp_path):
    shutil.copytree(whole, tmp_path / 'fresh')
    for later in range(3, STEPS + 1):
        shutil.rmtree(tmp_path / 'fresh' / 'checkpoints' / str(later))
    steps = run(configured(policy, staleness=0), tmp_path / 'fresh')
    assert ['staleness' in step for step in steps] == [True] * 2 + [False] * 2
    assert max(step['sampler_trainer_difference'] for step in steps[2:]) < 1e-4
    config = configured(policy, staleness=0)
    config.num_steps = 2
    run(config, tmp_path / 'ahead')
    steps = run(configured(policy), tmp_path / 'ahead')
    assert [step.get('staleness') for step in steps] == [None, None, 0, 1]


def test_answers_that_train_are_kept_with_their_logprobs(policy, whole, tmp_path):
    """A run goes on bit for bit, but not one that has kept answers without."""
    changes = dict(train_prover=0.5, prover_sequences=4, prover_rounds=1, keep_checkpoints=STEPS)
    steps = run(configured(policy, **changes), tmp_path / 'whole')
    assert sum(step['prover_trained'] for step in steps) > 4
    shutil.copytree(tmp_path / 'whole', tmp_path / 'part')
    for later in range(3, STEPS + 1):
        shutil.rmtree(tmp_path / 'part' / 'checkpoints' / str(later))
    assert run(configured(policy, **changes), tmp_path / 'part') == steps
    assert_same_policy(tmp_path / 'part', tmp_path / 'whole')
    shutil.copytree(whole, tmp_path / 'without')
    shutil.rmtree(tmp_path / 'without' / 'checkpoints' / str(STEPS))
    with pytest.raises(InputError, match='without log-probabilities; .*, with their log-prob'):
        train_policy(configured(policy, **changes), tmp_path / 'without')


def test_a_batch_of_another_shape_is_refused(policy, whole, tmp_path):
    shutil.copytree(whole, tmp_path / 'run')
    shutil.rmtree(tmp_path / 'run' / 'checkpoints' / str(STEPS))
    config = configured(policy, max_thinking_tokens=20)
    with pytest.raises(InputError, match='a batch sampled ahead .* or with staleness=0'):
        train_policy(config, tmp_path / 'run')
    shutil.rmtree(tmp_path / 'run' / 'policy')
    # Whoever wants the policy alone need not know of it.
    (tmp_path / 'run' / 'config.json').write_text(configured(policy).to_json_best_effort())
    assert read_workdir(tmp_path / 'run').config == load_policy(policy).config


def test_a_mesh_gives_the_same_metrics(policy, whole, tmp_path):
    config = configured(policy)
    config.mesh.update(data=2, fsdp=2, tensor=2)
    config.num_steps = 2
    for ours, single in zip(run(config, tmp_path), read_steps(whole), strict=False):
        assert ours.keys() == single.keys()
        for name in single:
            np.testing.assert_allclose(ours[name], single[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ('variant', 'changes', 'said'),
    [
        ('mrt', dict(staleness=2), 'staleness=2 must be 0, or 1'),
        ('mrt', dict(staleness=-1), 'staleness=-1 must be 0, or 1'),
        ('grpo', dict(staleness=1, dynamic_sampling=1), 'dynamic_sampling=1 and credit='),
        ('mrt_rl', dict(staleness=1), "credit='prefix': what is sampled ahead"),
    ],
)
def test_what_cannot_be_sampled_ahead_is_refused(policy, variant, changes, said):
    with pytest.raises(InputError, match=said):
        prepare(small_run(policy, variant, **changes))
