"""An answer that stands only inside the thought never counts, in any task, at any boundary.

What is sampled is scripted; segmentation, judging and recording are the real ones.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from mrt_jax.evaluation.evaluate import evaluate_policy
from mrt_jax.methods import experience, prover
from mrt_jax.policies.chat import ChatTemplate
from mrt_jax.policies.policy import Policy
from mrt_jax.sampling.fork import Branches
from mrt_jax.sampling.phases import Budget
from mrt_jax.sampling.sampler import Rollout
from mrt_jax.tasks.countdown_tokenizer import CHAT_TEMPLATE, countdown_tokenizer
from mrt_jax.tasks.task import Problem, get_task
from tests.tiny import tiny_config

TOKENIZER = countdown_tokenizer()  # Byte-level: it encodes every text.
# The rule of mathematics makes one episode of five such.
SAID = 12 * 'Wait, it is \\boxed{7}.\n\nAnswer: 7\n\nIndeed: \\boxed{7}\n\n'
TRIED = 'Try 3+4=7 yes\nAnswer: 3+4\nTry 4+3=7 yes\nAnswer: 3+4\n'
COUNTED = 'Try 7\nAnswer: 7\nTry 7\nAnswer: 7\n'
# Name, the problem's answer, a thought full of right answers, and what may stand behind it: the
# right answer, and others that are wrong, unfinished or no answer.
TASKS = {
    'countdown': ({'numbers': [3, 4], 'target': 7}, TRIED, '3+4', ('4', '3+', '', '\nTry 3+4')),
    'reasoning_gym:chain_sum': ('7', COUNTED, '7', ('8', '7+', '', '\nTry 7')),
    'math': ('7', SAID, '\\boxed{7}', ('\\boxed{8}', '\\boxed{7', '7', '')),
    'math_direct': ('7', SAID, '7}', ('8}', '7', '', '\\boxed{7')),
}


def script(monkeypatch, response, closed, said_behind):
    """Puts a response, and answers behind every boundary, in place of what would be sampled."""
    tokens = TOKENIZER.encode(response)
    thought = len(TOKENIZER.encode(response[:closed]))

    def sample_rollouts(model, params, prompts, keys_B, *args, **options):
        one = lambda value: jnp.asarray([value])  # noqa: E731
        width = len(tokens)
        return Rollout(
            prompt_tokens_BP=prompts.tokens_BP, prompt_lengths_B=prompts.lengths_B,
            tokens_BT=one(tokens), logprobs_BT=jnp.zeros((1, width)),
            sampled_BT=jnp.ones((1, width), bool), lengths_B=one(width),
            thought_closed_B=one(thought), forced_B=one(False), ended_B=one(True), caches=(),
        )

    def prove_branches(
        model, params, cache, prompts_B, boundaries_BE, mask_BE, terminations, *args, **options
    ):
        answers = [TOKENIZER.encode(text) for text in said_behind]
        texts_BEA = np.asarray(terminations.tokens_BEA)
        columns = texts_BEA.shape[1]
        longest = texts_BEA.shape[2] + max(map(len, answers))
        tokens_BEMA = np.zeros((1, columns, len(answers), longest), np.int32)
        sampled_BEMA = np.zeros(tokens_BEMA.shape, bool)
        lengths_BEM = np.zeros(tokens_BEMA.shape[:3], np.int32)
        for column in range(columns):
            text = texts_BEA[0, column, : int(terminations.lengths_BE[0, column])]
            for branch, answer in enumerate(answers):
                whole = [*text, *answer]
                tokens_BEMA[0, column, branch, : len(whole)] = whole
                sampled_BEMA[0, column, branch, len(text) : len(whole)] = True
                lengths_BEM[0, column, branch] = len(whole)
        return Branches(
            tokens_BEMA, np.zeros(tokens_BEMA.shape, np.float32), sampled_BEMA, lengths_BEM,
            np.ones(lengths_BEM.shape, bool),
        )

    monkeypatch.setattr(experience, 'sample_rollouts', sample_rollouts)
    monkeypatch.setattr(prover, 'prove_branches', prove_branches)


def evaluate(monkeypatch, name, behind, own):
    """The record of a trace whose thought holds nothing but right answers."""
    answer, thought, *_ = TASKS[name]
    task = get_task(name)
    policy = Policy(
        config=tiny_config(vocab_size=TOKENIZER.vocab_size, max_positions=4096),
        params={}, tokenizer=TOKENIZER,
        chat=ChatTemplate(CHAT_TEMPLATE, TOKENIZER.special_tokens), eos_ids=TOKENIZER.eos_ids,
    )
    conclusion = task.conclusion if task.think_end else ''
    response = thought + conclusion + own
    closed = thought + conclusion if conclusion else response
    script(monkeypatch, response, len(closed), behind)
    problem = Problem('p', ({'role': 'user', 'content': 'Seven?'},), answer)
    (record,) = evaluate_policy(
        policy, task, [problem], budget=Budget(1024, 64), num_samples=1, branches=len(behind),
        batch_size=1,
    )
    assert len(record.episodes) >= 2, 'the thought must have boundaries inside'
    return record


@pytest.mark.parametrize('name', TASKS)
def test_it_never_counts(monkeypatch, name):
    *_, wrong = TASKS[name]
    record = evaluate(monkeypatch, name, wrong, own=wrong[0])
    assert set(record.success) == {0.0}
    assert not any(right for some in record.branch_correct for right in some)
    for answers in record.branch_answers:
        assert len(answers) == len(wrong)
        # A wrong answer is found as it stands; where none stands, none is taken from the thought.
        assert '7' not in answers and '3+4' not in answers
        assert None in answers
    if get_task(name).think_end:
        for own in wrong:
            record = evaluate(monkeypatch, name, wrong, own=own)
            assert not record.correct and record.extracted not in ('7', '3+4')


@pytest.mark.parametrize('name', TASKS)
def test_the_same_answer_behind_the_thought_counts(monkeypatch, name):
    _, _, right, wrong = TASKS[name]
    record = evaluate(monkeypatch, name, (right, wrong[0]), own=right)
    assert set(record.success) == {0.5}
    assert all(some == (True, False) for some in record.branch_correct)
    if get_task(name).think_end:
        assert record.correct


def test_without_a_thought_block_the_whole_response_answers(monkeypatch):
    """`math_direct` alone: its response is thought and answer in one, and the last box counts."""
    record = evaluate(monkeypatch, 'math_direct', ('8}',), own='')
    assert record.correct and record.extracted == '7'
