"""Traces of a step that are more than one batch of rollouts: groups with signal, prefixes."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from mrt_jax.data.iterator import ProblemIterator
from mrt_jax.errors import InputError
from mrt_jax.methods import prover
from mrt_jax.methods.early_verdicts import EarlyVerdicts
from mrt_jax.sharding.rules import use_mesh
from mrt_jax.tasks.task import Verdict
from mrt_jax.training import collect, rollouts
from mrt_jax.training.collect import collect_continuations, collect_groups, sample_prefixes
from mrt_jax.training.reinforcement import train_policy
from mrt_jax.training.rl_batch import vote_numbers
from mrt_jax.training.rl_setup import prepare
from tests.training.run_configs import (
    note_calls,
    save_untrained_policy,
    small_run,
)

KEY = jax.random.key(0)


@pytest.fixture(scope='module')
def policy(tmp_path_factory):
    return save_untrained_policy(tmp_path_factory.mktemp('policy') / 'untrained')


def judged(setup, check):
    """The setup with another checker; an untrained policy is hardly ever right."""
    task = dataclasses.replace(setup.reader.task, check=check)
    return dataclasses.replace(setup, reader=dataclasses.replace(setup.reader, task=task))


def problems_of(setup):
    return ProblemIterator(setup.problems, setup.config.prompts_per_step, seed=0)


def by_length(response, answer):
    """Right or wrong by the response alone, so that some groups have signal."""
    return Verdict(len(response) % 3 == 0, response[:1], 'different')


@pytest.mark.parametrize('variant', ['grpo', 'mrt'])
def test_groups_without_signal_are_sampled_anew(policy, variant, monkeypatch):
    setup = judged(prepare(small_run(policy, variant, dynamic_sampling=3)), by_length)
    rolled = []

    def counted(*args):
        rolled.append(judge_traces(*args))
        return rolled[-1]

    judge_traces = collect.judge_traces
    # Made to fail at first: the rewards of the first batch's first group are all equal.
    spoilt = {'left': 1}

    def spoil(*args):
        experience = counted(*args)
        if spoilt['left']:
            spoilt['left'] -= 1
            rewards_B = experience.rewards_B.copy()
            rewards_B[:4] = 1
            rewards_B[4:] = [1, 0, 0, 1]
            experience = dataclasses.replace(experience, rewards_B=rewards_B)
        return experience

    monkeypatch.setattr(collect, 'judge_traces', spoil)
    with use_mesh(setup.mesh):
        collected = collect_groups(setup, setup.policy.params, problems_of(setup), KEY)
    batches = collected.metrics['batches_sampled']
    assert batches == len(rolled) >= 2
    total = sum(int(np.asarray(one.rollout.sampled_BT).sum()) for one in rolled)
    assert collected.metrics['sampled_tokens'] == total
    experience = collected.experience
    assert len(experience.rewards_B) == len(experience.verdicts) == 8
    # The first group kept is the second of the first batch, as it was sampled.
    first = rolled[0]
    np.testing.assert_array_equal(
        experience.rollout.tokens_BT[:4], np.asarray(first.rollout.tokens_BT)[4:]
    )
    np.testing.assert_array_equal(
        experience.episodes.boundaries_BE[:4], first.episodes.boundaries_BE[4:]
    )
    if variant == 'mrt':
        counts_BE = np.asarray(collected.proof.success.count_BE)
        np.testing.assert_array_equal(counts_BE > 0, experience.episodes.mask_BE)


def test_what_is_missing_in_the_end_is_filled_up(policy):
    setup = judged(
        prepare(small_run(policy, dynamic_sampling=2)),
        lambda response, answer: Verdict(True, 'x', 'equal'),
    )
    with use_mesh(setup.mesh):
        collected = collect_groups(setup, setup.policy.params, problems_of(setup), KEY)
    assert collected.metrics['batches_sampled'] == 3
    assert collected.experience.rewards_B.tolist() == [1.0] * 8
    asked_BE = np.asarray(collected.proof.success.count_BE) > 0
    np.testing.assert_array_equal(asked_BE, collected.experience.episodes.mask_BE)


@pytest.mark.parametrize('rounds', [1, 2])
def test_responses_are_judged_while_answers_are_drawn(policy, monkeypatch, rounds):
    config = small_run(policy, branches=2, prover_rounds=rounds, common_draws=False)
    setup = judged(prepare(config), by_length)
    events = []
    note = functools.partial(note_calls, monkeypatch, events)
    note(prover, 'prove_branches', 'start')
    note(prover, 'on_every_host', 'wait')
    note(prover, '_judge_round', 'judge answers')
    note(rollouts, 'judge_traces', 'judge responses')
    with use_mesh(setup.mesh):
        collected = collect_groups(setup, setup.policy.params, problems_of(setup), KEY)
    expected = ['start', 'judge responses', 'wait', 'judge answers']
    assert events == expected + ['start', 'wait', 'judge answers'] * (rounds - 1)
    assert len(collected.experience.verdicts) == len(collected.proof.answer_tokens_BE) == 8


@pytest.mark.parametrize('variant, changes', [
    ('grpo', {}), ('mrt', {}), ('mrt', dict(rollout_slots=3)), ('grpo', dict(dynamic_sampling=1)),
])
def test_responses_that_end_early_are_judged_while_others_are_decoded(
    tmp_path, policy, monkeypatch, variant, changes
):
    policy = save_untrained_policy(tmp_path / 'even', sharpness=1)  # Its lengths differ.
    watched = []
    watch = EarlyVerdicts.watch

    def note(self, seen):
        watch(self, seen)
        watched.append((len(self.pending), bool(seen.live_B.any())))

    monkeypatch.setattr(EarlyVerdicts, 'watch', note)

    def collect_judging(judge_every):
        """What is collected, and how many verdicts were given."""
        checks = []

        def check(response, answer):
            checks.append(response)
            return by_length(response, answer)

        config = small_run(policy, variant, judge_every=judge_every, **changes)
        setup = judged(prepare(config), check)
        with use_mesh(setup.mesh):
            found = collect_groups(setup, setup.policy.params, problems_of(setup), KEY)
        return found, len(checks)

    plain, judged_behind = collect_judging(0)
    assert not watched
    early, judged_early = collect_judging(3)
    assert judged_early == judged_behind >= 8
    counts = [count for count, live in watched if live]
    assert len({*counts}) > 2 and max(counts) < 8
    batches = plain.metrics.get('batches_sampled', 1)
    assert [count for count, live in watched if not live] == [8] * batches
    assert early.experience.verdicts == plain.experience.verdicts
    np.testing.assert_array_equal(early.experience.rewards_B, plain.experience.rewards_B)
    for name in ('tokens_BT', 'lengths_B', 'sampled_BT'):
        np.testing.assert_array_equal(
            getattr(early.experience.rollout, name), getattr(plain.experience.rollout, name)
        )
    if plain.proof is not None:
        np.testing.assert_array_equal(early.proof.success.mean_BE, plain.proof.success.mean_BE)


def test_a_judge_that_fails_early_ends_the_step(policy):
    def fail(response, answer):
        raise RuntimeError(f'cannot judge {response}')

    setup = judged(prepare(small_run(policy, 'grpo', judge_every=3)), fail)
    with use_mesh(setup.mesh), pytest.raises(RuntimeError, match='cannot judge'):
        collect_groups(setup, setup.policy.params, problems_of(setup), KEY)


@pytest.fixture(scope='module')
def continued(policy):
    """(setup, problems, prefixes, what goes on from them)."""
    config = small_run(policy, 'mrt_rl_mixed', prompts_per_step=4, microbatch_rows=16)
    config.judge_every = 5  # Prefixes are judged with what has ended early, too.
    setup = judged(prepare(config), by_length)
    batches = problems_of(setup).batches(0, 3)
    with use_mesh(setup.mesh):
        pool, sampled = sample_prefixes(setup, setup.policy.params, batches, KEY)
        found = collect_continuations(setup, setup.policy.params, batches[1], pool[1], KEY)
    assert sampled > 0
    return setup, batches, pool, found


def test_a_pool_has_prefixes_for_every_problem(continued):
    setup, batches, pool, _ = continued
    assert [[len(group) for group in batch] for batch in pool] == [[2] * 4] * 3
    for batch, groups in zip(batches, pool, strict=True):
        for problem, group in zip(batch, groups, strict=True):
            for prefix in group:
                assert prefix.problem == problem.id
                assert 0 <= prefix.boundary < max(prefix.boundaries, 1)
                assert (len(prefix.tokens) > 0) == (prefix.boundary > 0)
                assert len(prefix.tokens) < setup.config.max_thinking_tokens
                assert prefix.success * setup.config.branches == pytest.approx(
                    round(prefix.success * setup.config.branches)
                )
    assert len({prefix.boundary for batch in pool for group in batch for prefix in group}) > 1


def test_half_of_a_prefix_thinks_on_and_half_stops(continued):
    setup, batches, pool, found = continued
    rollout, starts = found.experience.rollout, found.starts
    assert starts.stopped_B.tolist() == [False, True] * 8
    text = list(setup.reader.terminals.termination_tokens)
    lengths_B = np.asarray(rollout.prompt_lengths_B)
    for row in range(16):
        prefix = pool[1][row // 4][row % 4 // 2]
        prompt = setup.reader.prompt_tokens(batches[1][row // 4]) + list(prefix.tokens)
        assert rollout.prompt_tokens_BP[row, -lengths_B[row] :].tolist() == prompt
        assert starts.success_B[row] == np.float32(prefix.success)
        tokens = np.asarray(rollout.tokens_BT)[row].tolist()
        sampled = np.asarray(rollout.sampled_BT)[row]
        thought = int(rollout.thought_closed_B[row])
        if starts.stopped_B[row]:
            assert tokens[: len(text)] == text and not sampled[: len(text)].any()
            assert thought == 0 and rollout.forced_B[row]
        else:
            assert sampled[0]
            assert thought <= setup.config.max_thinking_tokens - len(prefix.tokens)
        # The verdict is of the whole response, the prefix included.
        length = int(rollout.lengths_B[row])
        whole = setup.reader.tokenizer.decode([*prefix.tokens, *tokens[:length]])
        assert found.experience.verdicts[row].correct == (len(whole) % 3 == 0)


def read_lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def metrics_of(workdir):
    return [
        {key: value for key, value in line.items() if not key.endswith(('_seconds', '_per_second'))}
        for line in read_lines(workdir / 'metrics.jsonl')
    ]


@pytest.fixture(scope='module')
def prefix_run(policy, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('prefixes')
    config = small_run(policy, 'mrt_rl', num_steps=5, refresh_prefixes_every=2)
    assert train_policy(config, workdir)
    return config, workdir


def test_pools_are_made_by_the_policy_of_their_step(prefix_run):
    _, workdir = prefix_run
    steps = metrics_of(workdir)
    assert [step['prefix_staleness'] for step in steps] == [0, 1, 0, 1, 0]
    assert steps[0]['sampled_tokens'] > steps[1]['sampled_tokens']
    assert all(0 <= step['prefix_success'] <= 1 for step in steps)
    files = sorted((workdir / 'prefixes').iterdir())
    assert [file.name for file in files] == ['00000000.jsonl', '00000002.jsonl', '00000004.jsonl']
    lines = read_lines(files[1])
    assert {line['step'] for line in lines} == {2}
    assert sorted({line['batch'] for line in lines}) == [2, 3]


def test_a_run_goes_on_with_the_pool_that_it_was_using(prefix_run, tmp_path):
    config, whole = prefix_run
    short = config.copy_and_resolve_references()
    short.num_steps = 3  # Stopped between two pools.
    assert train_policy(short, tmp_path)
    pools = {file.name: file.read_bytes() for file in (tmp_path / 'prefixes').iterdir()}
    assert train_policy(config, tmp_path)
    assert metrics_of(tmp_path) == metrics_of(whole)
    for name, content in pools.items():
        assert (tmp_path / 'prefixes' / name).read_bytes() == content


@pytest.mark.parametrize(
    'spoil, said',
    [
        (lambda file: file.unlink(), 'cannot be read'),
        (lambda file: file.write_text('{}\n'), 'cannot be read'),
        (lambda file: file.write_text(''.join(file.open().readlines()[::-1])), 'other problems'),
    ],
)
def test_a_pool_that_is_gone_or_another_is_said(prefix_run, tmp_path, spoil, said):
    config, _ = prefix_run
    short = config.copy_and_resolve_references()
    short.num_steps = 3
    assert train_policy(short, tmp_path)
    spoil(tmp_path / 'prefixes' / '00000002.jsonl')
    with pytest.raises(InputError, match=f'00000002.jsonl.*{said}'):
        train_policy(config, tmp_path)


def test_votes_are_numbered_within_their_group():
    said = [(True, '6'), (False, '5'), (False, None), (False, '5'), (False, '7'), (True, '2*3')]
    verdicts = [Verdict(correct, extracted, 'equal') for correct, extracted in said]
    assert vote_numbers(verdicts, 3).tolist() == [0, 1, -1, 1, 2, 0]


@pytest.mark.parametrize(
    'variant, changes, said',
    [
        ('brpo', {'window_tokens': 0}, "credit='anytime' measures J at even budgets"),
        ('brpo', {'window_tokens': 10, 'max_boundaries': 2}, 'max_boundaries=2'),
        ('mrt_rl', {'dynamic_sampling': 1}, 'dynamic_sampling must be 0'),
        ('mrt_rl', {'refresh_prefixes_every': 0}, 'refresh_prefixes_every=0'),
        ('mrt_rl', {'prefixes_per_group': 3}, 'group_size=4 must be a multiple of 2 x'),
        ('grpo', {'dynamic_sampling': -1}, 'dynamic_sampling=-1'),
        ('grpo', {'window_tokens': -1}, 'window_tokens=-1'),
        ('grpo', {'judge_every': -1}, 'judge_every=-1'),
        ('grpo', {'judge_every': 8, 'staleness': 1}, 'and 0 with staleness=1'),
    ],
)
def test_methods_whose_parts_do_not_go_together_are_refused(policy, variant, changes, said):
    with pytest.raises(InputError, match=said):
        prepare(small_run(policy, variant, **changes))
