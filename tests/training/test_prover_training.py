"""Runs in which the meta-prover's answers train too: what is packed, its gradient, and refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mrt_jax.data.iterator import ProblemIterator
from mrt_jax.errors import InputError
from mrt_jax.policies.load import load_policy
from mrt_jax.sharding.rules import use_mesh
from mrt_jax.training import rl_setup, star
from mrt_jax.training.collect import collect_groups
from mrt_jax.training.objective import policy_loss
from mrt_jax.training.rl_batch import make_batch
from mrt_jax.training.rl_setup import prepare, rows_of_update
from mrt_jax.training.rollouts import step_key
from mrt_jax.training.update import next_token_logprobs
from tests.training.run_configs import (
    SMALL_STAR,
    counting_compilations,
    get_easy_task,
    run,
    save_untrained_policy,
    small_run,
)

WEIGHT, BRANCHES, ROOM = 0.5, 3, 8 * 4 * 3


@pytest.fixture(scope='module')
def policy(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rl_setup, 'get_task', get_easy_task)
        yield save_untrained_policy(tmp_path_factory.mktemp('policy') / 'untrained', sharpness=2)


def configured(policy, variant='mrt', **changes):
    changes = dict(
        train_prover=WEIGHT, prover_sequences=ROOM, branches=BRANCHES, row_tokens=128, num_steps=2,
    ) | changes
    return small_run(policy, variant, **changes)


def collect(setup):
    batches = ProblemIterator(setup.problems, setup.config.prompts_per_step, setup.config.seed)
    with use_mesh(setup.mesh):
        return collect_groups(setup, setup.policy.params, batches, step_key(setup, 0))


def make(setup, collected):
    with use_mesh(setup.mesh):
        return make_batch(setup, collected, None, 0)


def hand_made(setup, collected):
    """Each answer with an advantage: tokens before it, its own, its sampler's numbers and A."""
    found, experience = [], collected.experience
    drawn, correct_BEM = collected.proof.graded.drawn, collected.proof.graded.correct_BEM
    rollout, boundaries_BE = experience.rollout, experience.episodes.boundaries_BE
    for row, column in np.argwhere(experience.episodes.mask_BE):
        start = rollout.prompt_tokens_BP.shape[1] - rollout.prompt_lengths_B[row]
        prefix = [
            *rollout.prompt_tokens_BP[row, start:].tolist(),
            *rollout.tokens_BT[row, : boundaries_BE[row, column]].tolist(),
        ]
        rewards = correct_BEM[row, column].astype(float)
        for branch in range(BRANCHES):
            advantage = rewards[branch] - np.delete(rewards, branch).mean()
            length, own = (x[row, column, branch] for x in (drawn.lengths_BEM, drawn.sampled_BEM))
            tokens = drawn.tokens_BEMA[row, column, branch, :length].tolist()
            before, answer = prefix + tokens[: length - own], tokens[length - own :]
            if advantage:
                logprobs = drawn.logprobs_BEMA[row, column, branch, length - own : length]
                found.append((before, answer, logprobs, advantage))
    return found, int(drawn.mask_BE.sum()) * BRANCHES


@pytest.fixture(scope='module')
def step(policy):
    """(setup, collected, batch, metrics) of a first step that has room for all answers."""
    setup = prepare(configured(policy, share_prompts=True, entropy_coef=0.05))
    collected = collect(setup)
    return setup, collected, *make(setup, collected)


def sequences_of(batch):
    """The sequences of a batch that train: by their whole tokens, (columns, weights, A, old)."""
    found = {}
    for row in range(len(batch.tokens_BT)):
        segments_T, parents_T = batch.segments_BT[row], batch.parents_BT[row]
        used_T = batch.positions_BT[row] >= 0
        for segment in np.unique(segments_T[used_T & (batch.weights_BT[row] > 0)]):
            own_T = used_T & (segments_T == segment)
            shared_T = used_T & (segments_T == parents_T[own_T][0]) & ~own_T
            tokens = (*batch.tokens_BT[row, shared_T], *batch.tokens_BT[row, own_T])
            found.setdefault(tokens, []).append(tuple(
                x[row, own_T] for x in
                (batch.weights_BT, batch.advantages_BT, batch.old_logprobs_BT)
            ))
    return found


def test_packed_answers_are_what_was_asked_and_said(step):
    setup, collected, batch, metrics = step
    answers, asked = hand_made(setup, collected)
    assert metrics['prover_trained'] == len(answers) > 10 and metrics['prover_dropped'] == 0
    packed = sequences_of(jax.device_get(batch))
    assert sum(map(len, packed.values())) == len(answers) + 8
    for before, answer, logprobs, advantage in answers:
        candidates = packed[(*before, *answer)]
        # Another may say the same behind the same, as another draw.
        assert len(candidates) <= BRANCHES
        weights_T, advantages_T, old_T = candidates[0]
        own = slice(len(weights_T) - len(answer), None)
        np.testing.assert_allclose(weights_T[own], WEIGHT / asked / len(answer), rtol=1e-5)
        np.testing.assert_allclose(advantages_T[own], advantage, rtol=1e-5)
        np.testing.assert_allclose(old_T[own], logprobs, atol=1e-6)
        assert not weights_T[: own.start].any()


def test_old_logprobs_are_those_of_the_sequence_scored_anew(step):
    setup, _, batch, _ = step
    with use_mesh(setup.mesh):
        found_BT, _ = next_token_logprobs(
            setup.model, setup.policy.params, batch.tokens_BT, batch.positions_BT,
            batch.segments_BT, batch.parents_BT,
        )
    trained_BT = np.asarray(batch.weights_BT) > 0
    np.testing.assert_allclose(
        np.asarray(found_BT)[trained_BT], np.asarray(batch.old_logprobs_BT)[trained_BT], atol=1e-4
    )


def test_traces_keep_their_weights(step, policy):
    setup, collected, batch, _ = step
    alone, _ = make(prepare(configured(policy, train_prover=0.0, share_prompts=True)), collected)
    ours, theirs = sequences_of(jax.device_get(batch)), sequences_of(jax.device_get(alone))
    assert sum(map(len, theirs.values())) == 8
    for tokens, [expected] in theirs.items():
        for values, wanted in zip(ours[tokens][0], expected, strict=True):
            np.testing.assert_array_equal(values, wanted)


def test_a_step_goes_down_both_gradients(policy, tmp_path, monkeypatch):
    """Of the traces, as without the switch, and of the answers, one by one and unpacked."""
    monkeypatch.setattr(rl_setup, 'optimizer_of', lambda config, model: optax.sgd(1.0))
    config = configured(policy, num_steps=1, entropy_coef=0.05)
    setup = prepare(config)
    params, collected = setup.policy.params, collect(setup)
    without = prepare(configured(policy, train_prover=0.0, entropy_coef=0.05))
    batch, _ = make(without, collected)
    answers, asked = hand_made(setup, collected)

    @jax.jit
    def of_traces(params):
        values = next_token_logprobs(
            setup.model, params, batch.tokens_BT, batch.positions_BT, batch.segments_BT
        )
        return policy_loss(setup.objective)(*values, batch)[0]

    @jax.jit
    def of_answer(params, tokens_1T, answer_1T, advantage):
        positions_1T = jnp.where(tokens_1T >= 0, jnp.arange(tokens_1T.shape[1]), -1)
        logprobs_1T, entropies_1T = next_token_logprobs(
            setup.model, params, jnp.maximum(tokens_1T, 0), positions_1T
        )
        gain_1T = advantage * logprobs_1T + 0.05 * entropies_1T
        return -WEIGHT / asked * (gain_1T * answer_1T).sum() / answer_1T.sum()

    with use_mesh(setup.mesh):
        gradient = jax.grad(of_traces)(params)
        alone = float(optax.tree.norm(gradient))
        for before, answer, _, advantage in answers:
            tokens_1T = np.full((1, 64), -1)
            tokens_1T[0, : len(before) + len(answer)] = before + answer
            answer_1T = np.arange(64)[None] >= len(before)
            own = jax.grad(of_answer)(
                params, tokens_1T, answer_1T & (tokens_1T >= 0), advantage
            )
            gradient = jax.tree.map(jnp.add, gradient, own)
    [line] = run(config, tmp_path)
    assert line['prover_trained'] == len(answers) > 10
    assert line['grad_norm'] == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-4)
    assert line['grad_norm'] != pytest.approx(alone, rel=0.02)
    after = load_policy(tmp_path / 'policy').params
    for old, new, expected in zip(*map(jax.tree.leaves, (params, after, gradient)), strict=True):
        difference = np.asarray(old) - np.asarray(new) - expected
        assert np.linalg.norm(difference) <= 1e-3 * np.linalg.norm(expected) + 1e-7


@pytest.fixture(scope='module')
def whole_run(policy, tmp_path_factory):
    """The metrics of three steps with room for some of the answers."""
    return run(
        configured(policy, prover_sequences=6, num_steps=3), tmp_path_factory.mktemp('whole')
    )


def test_what_is_trained_and_dropped_is_counted(whole_run):
    assert all(step['prover_trained'] == 6 < step['prover_dropped'] for step in whole_run)
    assert all(step['sampler_trainer_difference'] < 1e-4 for step in whole_run)


def test_all_programs_compile_in_the_first_step(policy, tmp_path):
    """However many answers there are to train on."""
    with counting_compilations() as after_step:
        steps = run(configured(policy, max_prompt_tokens=21, num_steps=3), tmp_path)
    assert len({step['prover_trained'] for step in steps}) > 1
    assert after_step == after_step[:1] * 3 != [0] * 3


def test_a_resumed_run_chooses_the_same_answers(policy, whole_run, tmp_path):
    for steps in (1, 3):
        found = run(configured(policy, prover_sequences=6, num_steps=steps), tmp_path)
    assert found == whole_run


@pytest.mark.parametrize('changes', [
    dict(mesh=dict(data=2, fsdp=2, tensor=2)),
    dict(share_prompts=True, row_tokens=400, microbatch_rows=3),
    dict(mismatch={'level': 'sequence'}),
], ids=str)
def test_layouts_give_the_same_metrics(policy, whole_run, tmp_path, changes):
    found = run(configured(policy, prover_sequences=6, num_steps=1, **changes), tmp_path)[0]
    names = ['loss', 'grad_norm', 'entropy', 'reward', 'prover_trained', 'prover_dropped']
    for name in names:
        np.testing.assert_allclose(
            found[name], whole_run[0][name], rtol=1e-4, atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize('changes', [
    dict(lora_rank=2, param_dtype='bfloat16', kl_coef=0.1, updates_per_step=2),
    dict(variant='dapo', credit='to_go', aggregation='constant', prover_sequences=6),
    dict(credit='scalar', ratio='sequence', updates_per_step=2, cache_dtype='int8',
         mismatch={'level': 'token'}, aggregation='token'),
], ids=['adapters', 'dapo', 'gspo'])
def test_it_goes_with_other_parts_of_a_method(policy, tmp_path, changes):
    steps = run(configured(policy, **changes), tmp_path)
    for step in steps:
        assert step['prover_trained'] > 0 == step['skipped'] and step['grad_norm'] > 0
        assert np.isfinite([value for value in step.values()]).all()


def test_answers_of_groups_sampled_anew_stay_with_their_traces(policy):
    """Each group of a step that took several batches has its own answers."""
    setup = prepare(configured(policy, dynamic_sampling=4, seed=2))
    collected = collect(setup)
    assert collected.metrics['batches_sampled'] > 2
    batch, _ = make(setup, collected)
    with use_mesh(setup.mesh):
        found_BT, _ = next_token_logprobs(
            setup.model, setup.policy.params, batch.tokens_BT, batch.positions_BT,
            batch.segments_BT,
        )
    trained_BT = np.asarray(batch.weights_BT) > 0
    np.testing.assert_allclose(
        np.asarray(found_BT)[trained_BT], np.asarray(batch.old_logprobs_BT)[trained_BT], atol=1e-4
    )
    np.testing.assert_array_equal(
        collected.proof.graded.drawn.mask_BE, collected.experience.episodes.mask_BE
    )


def test_off_it_leaves_nothing_behind(policy):
    setup = prepare(configured(policy, train_prover=0.0))
    collected = collect(setup)
    assert collected.proof.graded is None
    batch, metrics = make(setup, collected)
    assert not [name for name in metrics if name in ('prover_trained', 'prover_dropped')]
    assert len(batch.tokens_BT) == rows_of_update(setup.config, setup.full_budget) == 8


def test_rows_have_room_for_answers_behind_a_longer_conclusion(policy, monkeypatch):
    long = 'Answer: ' * 40
    monkeypatch.setattr(
        rl_setup, 'get_task',
        lambda *args, **texts: dataclasses.replace(get_easy_task(*args, **texts), conclusion=long),
    )
    config = configured(policy, row_tokens=64)
    with pytest.raises(InputError, match='row_tokens=64 is less than the'):
        prepare(config)
    config.train_prover = 0.0
    prepare(config)


@pytest.mark.parametrize(
    ('variant', 'changes', 'message'),
    [
        ('grpo', {}, "train_prover=0.5 needs credit=scalar, episode, .* not 'none' and 'answers'"),
        ('mrt_rl', {}, "not 'prefix' and 'answers'"),
        ('mrt', dict(branches=1), 'needs 2 branches or more and prover_rounds=1, not 1 and 1'),
        ('mrt', dict(branches=4, prover_rounds=2, common_draws=False),
         'prover_rounds=1, not 4 and 2'),
        ('mrt', dict(prover_sequences=2), 'prover_sequences=2 must be a multiple of branches=3'),
        ('mrt', dict(prover_sequences=7), 'prover_sequences=7 must be a multiple of branches=3'),
        ('mrt', dict(train_prover=-1.0), 'train_prover=-1.0 must be at least 0'),
        ('mrt', dict(train_prover=float('nan')), 'train_prover=nan must be at least 0'),
    ],
)
def test_what_cannot_be_trained_is_refused(policy, variant, changes, message):
    with pytest.raises(InputError, match=message):
        prepare(configured(policy, variant, **changes))


def test_no_answers_of_attempts_and_of_star_are_trained(policy, monkeypatch):
    with pytest.raises(InputError, match='train_prover=0.5: STaR imitates the traces'):
        star.prepare(small_run(policy, 'mrt_star', train_prover=0.5, **SMALL_STAR))
    monkeypatch.setattr(
        rl_setup, 'get_task',
        lambda *args, **texts: dataclasses.replace(
            get_easy_task(*args, **texts), attempt_outcome=lambda text, answer: True
        ),
    )
    with pytest.raises(InputError, match="not 'episode' and 'attempts'"):
        prepare(configured(policy, prover='attempts'))
