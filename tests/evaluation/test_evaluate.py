import dataclasses

import numpy as np
import pytest

from mrt_jax.errors import InputError
from mrt_jax.evaluation.evaluate import evaluate_policy, even_budgets, full_budget
from mrt_jax.evaluation.summary import summarize
from mrt_jax.planning.trace_work import trace_flops
from mrt_jax.sampling.phases import Budget
from mrt_jax.sharding.mesh import make_mesh
from mrt_jax.tasks.task import get_task
from tests.evaluation.synthetic import judge_length

BUDGET = Budget(max_thinking_tokens=24, max_answer_tokens=6)
OPTIONS = dict(budget=BUDGET, num_samples=3, branches=4, max_boundaries=3, seed=3)


@pytest.fixture(scope='module')
def task():
    return dataclasses.replace(get_task('countdown'), check=judge_length)


@pytest.fixture(scope='module')
def records(policy, task, problems):
    return evaluate_policy(policy, task, problems, batch_size=4, **OPTIONS)


def test_there_is_a_record_for_every_sample_in_order(records, problems):
    assert [(r.problem, r.sample) for r in records] == [
        (problem.id, sample) for problem in problems for sample in range(3)
    ]


def test_records_depend_neither_on_the_batch_size_nor_on_other_problems(
    records, policy, task, problems
):
    # Without the third problem, whose prompt is the longest, there are fewer prompt slots, too.
    others = evaluate_policy(policy, task, problems[:2] + problems[3:], batch_size=16, **OPTIONS)
    assert others == records[:6] + records[9:]


def test_another_seed_gives_other_traces(records, policy, task, problems):
    other = evaluate_policy(policy, task, problems, batch_size=4, **(OPTIONS | {'seed': 4}))
    assert [r.response for r in other] != [r.response for r in records]


def test_rows_spread_over_devices_are_the_same(records, policy, task, problems):
    mesh = make_mesh(data=4)
    assert evaluate_policy(policy, task, problems, batch_size=4, mesh=mesh, **OPTIONS) == records


def test_records_are_consistent(records, policy, task, problems):
    by_id = {problem.id: problem for problem in problems}
    assert len({len(r.episodes) for r in records}) > 1
    assert {r.forced for r in records} == {True, False}
    assert len({j for r in records for j in r.success}) > 2
    for record in records:
        problem = by_id[record.problem]
        verdict = task.check(record.response, problem.answer)
        assert (record.correct, record.extracted) == (verdict.correct, verdict.extracted)
        thought = ''.join(record.episodes)
        assert record.response.startswith(thought) and '</think>' not in thought
        # Half a character at the thought's end is in what follows.
        behind = record.response[len(thought) :].lstrip('\ufffd')
        assert record.forced == behind.startswith('</think>\nAnswer: ')
        assert all(j * 4 == round(j * 4) for j in record.success)
        stderr = [np.sqrt(j * (1 - j) / 4) for j in record.success]
        assert record.success_stderr == pytest.approx(stderr)
        assert record.finish_tokens is None or record.finish_tokens > record.response_tokens
        assert record.prompt.endswith(f'Target: {problem.answer["target"]}')


def test_every_branch_is_recorded(records, task, problems):
    assert len({answer for r in records for some in r.branch_answers for answer in some}) > 5
    for record in records:
        assert {len(some) for some in record.branch_answers} == {4}
        assert record.success == tuple(sum(right) / 4 for right in record.branch_correct)
        # The checker of this task finds the length of an answer right or wrong.
        for answers, rights in zip(record.branch_answers, record.branch_correct, strict=True):
            assert all(answer is None or isinstance(answer, str) for answer in answers)
            assert all(isinstance(right, bool) for right in rights)
        assert record.prover_tokens == round(4 * sum(record.answer_tokens))


def test_costs_are_counted(records, policy, problems):
    termination = len(policy.tokenizer.encode('</think>\nAnswer: '))
    for record in records:
        forced = termination if record.forced else 0
        assert record.sampled_tokens == record.response_tokens - forced
        assert 0 < record.prover_flops < record.prover_flops_plain / 2
    record = records[0]
    prompt = len(policy.encode_messages(problems[0].messages))
    assert record.flops == trace_flops(
        policy.config, prompt=prompt, response=record.response_tokens,
        sampled=record.sampled_tokens,
    )


def test_tokens_spent_count_prompt_prefix_termination_and_answer(records, policy, problems):
    record, prompt = records[0], policy.encode_messages(problems[0].messages)
    termination = policy.tokenizer.encode('</think>\nAnswer: ')
    expected = len(prompt) + len(termination) + record.answer_tokens[0]
    assert record.tokens[0] == pytest.approx(expected)
    full = full_budget(policy, get_task('countdown'), problems, BUDGET)
    assert max(r.tokens[-1] for r in records) <= full


def test_progress_is_reported(policy, task, problems):
    seen = []
    evaluate_policy(
        policy, task, problems, batch_size=4, on_batch=lambda *x: seen.append(x), **OPTIONS
    )
    assert seen == [(4, 15), (8, 15), (12, 15), (15, 15)]


def test_records_can_be_summarised(records):
    summary = summarize(records, budgets=even_budgets(60))
    assert summary['num_problems'] == 5 and summary['num_samples'] == 3


def test_budgets_are_even_and_end_at_the_full_one():
    assert even_budgets(80) == [10, 20, 30, 40, 50, 60, 70, 80]
    assert even_budgets(5) == [1, 2, 3, 4, 5]


def test_bad_input_is_refused_before_anything_runs(policy, task, problems):
    with pytest.raises(InputError, match='256 positions'):
        evaluate_policy(policy, task, problems, **(OPTIONS | {'budget': Budget(250, 6)}))
    with pytest.raises(InputError, match='no problems'):
        evaluate_policy(policy, task, [], **OPTIONS)
    mute = dataclasses.replace(policy, chat=None)
    with pytest.raises(InputError, match='chat template'):
        evaluate_policy(mute, task, problems, **OPTIONS)
