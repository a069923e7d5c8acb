"""Traces of a task without a thought block: the whole response is the thought."""

import dataclasses
import functools
import threading

import jax
import numpy as np
import pytest

from mrt_jax.kernels.allocation import boundaries_in_doubt
from mrt_jax.methods.experience import explore, group_prompts, judge_traces, make_reader
from mrt_jax.methods.prover import Drawn, judge_answers, prove, spent_tokens
from mrt_jax.policies.chat import ChatTemplate
from mrt_jax.sampling.phases import Budget
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.tasks.countdown_tokenizer import CHAT_TEMPLATE, countdown_tokenizer
from mrt_jax.tasks.task import Problem, Verdict, get_task
from tests.tiny import tiny_model

TERMINATION, CONCLUSION = 'Answer: ', '\nAnswer: '


@pytest.fixture(scope='module')
def traces():
    """(reader, experience, proof) of a policy that ends some responses and not others."""

    def check(response, answer):
        _, answered, said = response.rpartition('Answer: ')
        return Verdict(said[:1] == answer, said, 'equal') if answered else Verdict(
            False, None, 'no_answer'
        )

    task = dataclasses.replace(
        get_task('countdown'), think_end='', termination=TERMINATION, conclusion=CONCLUSION,
        check=check,
    )
    tokenizer = countdown_tokenizer()
    model, params = tiny_model(vocab_size=tokenizer.vocab_size)
    chat = ChatTemplate(CHAT_TEMPLATE, tokenizer.special_tokens)
    reader = make_reader(task, tokenizer, chat, tuple(range(20, 24)), tokenizer.vocab_size)
    puzzle = ({'role': 'user', 'content': '3 5 7 = 22'},)
    problems = [Problem(str(k), puzzle, '4') for k in range(8)]
    prompts, answers = group_prompts(reader, problems, group_size=2, slots=16, rows=16)
    keys_B = jax.random.split(jax.random.key(0), 16)
    sampling = SamplingConfig(temperature=1.0)
    experience = explore(
        model, params, reader, prompts, answers, keys_B,
        budget=Budget(max_thinking_tokens=16, max_answer_tokens=4), sampling=sampling,
        max_boundaries=3,
    )
    proof = prove(
        model, params, reader, experience, answers, keys_B, branches=4, max_answer_tokens=4,
        sampling=sampling,
    )
    return reader, experience, proof


@pytest.fixture(scope='module')
def ask(traces):
    """Asks the meta-prover about the traces, half of whose answers are right."""
    reader, experience, _ = traces
    task = dataclasses.replace(
        reader.task,
        check=lambda response, answer: Verdict(sum(response.encode()) % 2 == 0, None, 'equal'),
    )
    model, params = tiny_model(vocab_size=reader.tokenizer.vocab_size)
    keys_B = jax.random.split(jax.random.key(1), 16)
    return functools.partial(
        prove, model, params, dataclasses.replace(reader, task=task), experience, ['4'] * 16,
        keys_B, max_answer_tokens=4, sampling=SamplingConfig(),
    )


def test_a_checker_that_waits_is_asked_side_by_side(traces):
    """Responses, and answers of the meta-prover."""
    reader, experience, _ = traces
    check, together = reader.task.check, threading.Barrier(2)

    def wait(response, answer):
        together.wait(60)  # Until two are checked; a single one would wait for ever.
        return check(response, answer)

    task = dataclasses.replace(reader.task, check=wait, checks_at_once=2)
    waiting = dataclasses.replace(reader, task=task)
    again = judge_traces(waiting, experience, ['4'] * 16)
    assert again.verdicts == experience.verdicts
    # Two answers before each thought; an even number of boundaries, so nobody is left alone.
    shape = (*experience.episodes.mask_BE.shape, 2)
    mask_BE = np.arange(shape[1]) == np.zeros((16, 1))
    drawn = Drawn(
        mask_BE=mask_BE, tokens_BEMA=np.broadcast_to(np.array([[5], [6]], np.int32), (*shape, 1)),
        lengths_BEM=np.ones(shape, np.int32), sampled_BEM=np.ones(shape, int),
        ended_BEM=np.ones(shape, bool),
    )
    ours, theirs = (
        judge_answers(judging, experience, [drawn], [], ['4'] * 16).answered
        for judging in (waiting, reader)
    )
    np.testing.assert_array_equal(ours.correct_BEM, theirs.correct_BEM)
    np.testing.assert_array_equal(ours.extracted_BEM, theirs.extracted_BEM)


def test_the_second_round_asks_where_neighbours_are_in_doubt(traces, ask):
    mask_BE = np.asarray(traces[1].episodes.mask_BE)
    half, both = ask(branches=2), ask(branches=4, rounds=2)
    again_BE = np.asarray(boundaries_in_doubt(half.success.mean_BE, mask_BE))
    counts_BE = np.where(mask_BE, 2, 0) + np.where(again_BE, 4, 0)
    assert again_BE.any() and not again_BE[mask_BE].all()
    np.testing.assert_array_equal(both.success.count_BE, counts_BE)
    once = np.asarray(both.success.mean_BE)[~again_BE], np.asarray(half.success.mean_BE)[~again_BE]
    np.testing.assert_array_equal(*once)
    hits_BE = np.asarray(both.success.mean_BE) * counts_BE
    more_BE = hits_BE - 2 * np.asarray(half.success.mean_BE)
    assert ((more_BE > -1e-5) & (more_BE < 4 + 1e-5)).all()
    assert half.sampled_tokens < both.sampled_tokens <= 4 * counts_BE.sum()
    assert ((both.answer_tokens_BE >= 1) == mask_BE).all()


def test_right_answers_are_right_and_ended(traces, ask):
    _, experience, _ = traces
    proof = ask(branches=4, rounds=2)
    tokens_BT = np.asarray(experience.rollout.tokens_BT)
    texts = {tuple(traces[0].tokenizer.encode(text)) for text in (TERMINATION, CONCLUSION)}
    assert proof.answered.right
    for (row, column), right in proof.answered.right.items():
        assert proof.success.mean_BE[row, column] > 0
        assert right.termination in texts and right.answer[-1] in range(20, 24)
        prefix = tokens_BT[row, : experience.episodes.boundaries_BE[row, column]].tolist()
        response = traces[0].tokenizer.decode([*prefix, *right.termination, *right.answer])
        assert sum(response.encode()) % 2 == 0
    # Answers of the first round come first.
    once = ask(branches=2)
    assert once.answered.right.items() <= proof.answered.right.items()


def test_common_draws_reach_the_meta_prover(ask):
    """The empty prefix has the random numbers that it has without; other boundaries have those."""
    own, common = (
        np.asarray(ask(branches=2, common_draws=common).success.mean_BE) for common in (False, True)
    )
    np.testing.assert_array_equal(own[:, 0], common[:, 0])
    assert (own[:, 1:] != common[:, 1:]).any()


def test_a_response_that_ends_by_itself_is_a_complete_thought(traces):
    _, experience, _ = traces
    rollout = experience.rollout
    forced_B, lengths_B = np.asarray(rollout.forced_B), np.asarray(rollout.lengths_B)
    assert 0 < forced_B.sum() < len(forced_B)
    ends_B = np.asarray(experience.episodes.boundaries_BE)[:, -1]
    np.testing.assert_array_equal(ends_B, np.where(forced_B, 16, lengths_B - 1))


def test_a_response_cut_by_its_budget_is_made_to_answer(traces):
    reader, experience, _ = traces
    forced_B = np.asarray(experience.rollout.forced_B)
    text = reader.terminals.termination_tokens
    tokens_BT = np.asarray(experience.rollout.tokens_BT)
    assert (tokens_BT[forced_B, 16 : 16 + len(text)] == text).all()
    for verdict, forced in zip(experience.verdicts, forced_B, strict=True):
        assert not forced or verdict.reason == 'equal'


def test_the_meta_prover_answers_behind_every_boundary(traces):
    reader, experience, proof = traces
    mask_BE = np.asarray(experience.episodes.mask_BE)
    assert ((proof.answer_tokens_BE >= 1) == mask_BE).all()
    success_BE = np.asarray(proof.success.mean_BE)
    assert ((success_BE[mask_BE] >= 0) & (success_BE[mask_BE] <= 1)).all()
    spent_BE = spent_tokens(reader, experience, proof)
    prompts_B = np.asarray(experience.rollout.prompt_lengths_B)
    first_B = prompts_B + len(reader.terminals.termination_tokens) + proof.answer_tokens_BE[:, 0]
    np.testing.assert_allclose(spent_BE[:, 0], first_B)
    assert (np.diff(spent_BE, axis=1) >= 0).all()
