"""What is kept of hand-made traces, and the file that it is written to."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.errors import InputError
from mrt_jax.kernels.episodes import segment
from mrt_jax.kernels.progress import Success
from mrt_jax.methods.experience import Experience, make_reader
from mrt_jax.methods.kept_traces import KeptTrace, read_kept, write_kept
from mrt_jax.methods.prover import Answered, Proof, RightAnswer
from mrt_jax.methods.sft import Demonstration
from mrt_jax.methods.star import SelectionConfig, best_boundaries, keep_best, select
from mrt_jax.policies.chat import ChatTemplate
from mrt_jax.sampling.sampler import Rollout
from mrt_jax.tasks.countdown_tokenizer import CHAT_TEMPLATE, END, countdown_tokenizer
from mrt_jax.tasks.task import Problem, Verdict, get_task

TOKENIZER = countdown_tokenizer()
TASK = get_task('countdown')
READER = make_reader(
    TASK, TOKENIZER, ChatTemplate(CHAT_TEMPLATE), TOKENIZER.eos_ids, TOKENIZER.vocab_size
)
PROBLEMS = [Problem(f'{x}', ({'role': 'user', 'content': f'{x}'},), None) for x in ('a', 'b')]
EPISODES = ['Try 1+2=3 no\n', 'Try 1*2=2 no\n', 'Try 2+2=4 yes\n']
THOUGHT = ''.join(EPISODES)
PREFIX = SelectionConfig('progress', 'prefix', 1)
FULL = SelectionConfig('progress', 'full', 1)
CORRECT = SelectionConfig('correct', 'full', 0)


def encode(text):
    return tuple(TOKENIZER.encode(text))


def make_traces(answers, ended=None, forced=None):
    """Two traces of each problem, alike but for their own answers; right ones are '2+2'."""
    rows = len(answers)
    responses = [encode(f'{THOUGHT}{TASK.conclusion}{answer}{END}') for answer in answers]
    thoughts_B = np.full(rows, len(encode(f'{THOUGHT}</think>')))
    forced_B = np.array(forced or [False] * rows)
    # A forced text begins before the marker, which a closed thought holds.
    thoughts_B -= forced_B
    tokens_BT = np.zeros((rows, max(map(len, responses))), np.int32)
    for row, response in enumerate(responses):
        tokens_BT[row, : len(response)] = response
    prompts_B = np.arange(rows) % 2 + 2
    prompt_tokens_BP = np.zeros((rows, 4), np.int32)
    for row, length in enumerate(prompts_B):
        prompt_tokens_BP[row, 4 - length :] = 10 + row
    rollout = Rollout(
        prompt_tokens_BP=prompt_tokens_BP, prompt_lengths_B=prompts_B, tokens_BT=tokens_BT,
        logprobs_BT=None, sampled_BT=None, lengths_B=np.array([len(r) for r in responses]),
        thought_closed_B=thoughts_B, forced_B=forced_B,
        ended_B=np.array(ended or [True] * rows), caches=(),
    )
    ends_B = np.full(rows, len(encode(THOUGHT)))
    episodes = segment(tokens_BT, ends_B, READER.token_bytes, TASK.rule, 4)
    verdicts = tuple(Verdict(answer == '2+2', answer, 'equal') for answer in answers)
    rewards_B = np.array([verdict.correct for verdict in verdicts], np.float32)
    return Experience(rollout, episodes, verdicts, rewards_B)


def make_proof(success, missing=()):
    """J as given, and a right answer wherever it is above 0 unless the place is `missing`."""
    success_BE = np.zeros((len(success), 5), np.float32)
    for row, curve in enumerate(success):
        success_BE[row, : len(curve)] = curve
    right = {
        (row, column): RightAnswer(encode(TASK.termination), encode(f'2+{column}{END}'))
        for row, column in zip(*map(np.ndarray.tolist, np.nonzero(success_BE)), strict=True)
        if (row, column) not in missing
    }
    counts_BE = np.full(success_BE.shape, 4, np.int32)
    answered = Answered(*[np.zeros((len(success), 5, 4))] * 4, right)
    return Proof(Success(success_BE, success_BE, counts_BE), success_BE, 100, answered)


def choose(config, experience, proof=None):
    return select(config, READER, PROBLEMS, experience, proof, group_size=2)


@given(st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_the_earliest_boundary_of_highest_success_is_found(seed):
    rng = np.random.default_rng(seed)
    success_BE = (rng.integers(0, 4, (5, 6)) / 3).astype(np.float32)
    counts_B = rng.integers(0, 6, 5)
    mask_BE = np.arange(6) <= counts_B[:, None]
    found = best_boundaries(success_BE, mask_BE)
    for curve, count, best in zip(success_BE.tolist(), counts_B, found, strict=True):
        curve = curve[: count + 1]
        assert best == curve.index(max(curve))


def test_a_thought_is_cut_where_success_is_highest_first():
    experience = make_traces(['2+2', '1+1', '1+1', '1+1'])
    proof = make_proof([[0, 0.5, 0.25, 0.5], [0, 0.25, 0.75, 0.75], [0, 0, 0, 0], [0, 1, 0, 0]])
    second, fourth = choose(PREFIX, experience, proof)
    assert (second.problem, second.sample, second.boundary, second.episodes) == ('a', 1, 2, 3)
    assert second.success == (0, 0.25, 0.75, 0.75)
    assert second.demonstration == Demonstration(
        prompt=(11, 11, 11),
        thought=encode(f'{"".join(EPISODES[:2])}{TASK.termination}'),
        answer=encode(f'2+2{END}'),
    )
    assert (fourth.problem, fourth.sample, fourth.boundary) == ('b', 1, 1)


def test_a_cut_without_a_right_answer_that_ended_is_not_kept():
    experience = make_traces(['2+2'] * 4)
    proof = make_proof(
        [[0, 0.5, 0.75, 0], [0.25, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], missing={(0, 2)}
    )
    [kept] = choose(PREFIX, experience, proof)
    assert (kept.sample, kept.boundary) == (1, 0)
    assert kept.demonstration.thought == encode(TASK.termination)


def test_whole_traces_need_a_right_answer_of_their_own():
    experience = make_traces(['2+2', '2+2', '1+1', '2+2'], ended=[True, True, True, False])
    proof = make_proof([[0.5, 0, 0, 0.5], [0, 0, 1, 0.75], [0, 0, 0, 1], [0, 0, 0, 1]])
    [kept] = choose(FULL, experience, proof)
    assert (kept.problem, kept.sample, kept.boundary, kept.cut) == ('a', 1, 3, 'full')
    # The token of '</think>' ends the thought, and what is behind it is the answer.
    assert kept.demonstration.thought == encode(f'{THOUGHT}</think>')
    assert kept.demonstration.answer == encode(f'\nAnswer: 2+2{END}')


def test_plain_star_keeps_every_right_trace_without_a_prover():
    experience = make_traces(['2+2', '2+2', '1+1', '2+2'], forced=[False, True, False, False])
    kept = choose(CORRECT, experience)
    assert [(trace.problem, trace.sample) for trace in kept] == [('a', 0), ('a', 1), ('b', 1)]
    assert all(trace.success is None and trace.boundary == 3 for trace in kept)
    # Forced text belongs to the thought.
    assert kept[1].demonstration.thought == encode(f'{THOUGHT}{TASK.termination}')
    [first, _] = choose(dataclasses.replace(CORRECT, keep_per_problem=1), experience)
    assert first.sample == 0


def test_the_best_of_a_problem_then_the_shortest_then_the_first():
    def trace(sample, success, tokens):
        return KeptTrace(
            'a', sample, 'prefix', 1, 2, (0.0, success, 0.0),
            Demonstration((1,), (2,) * tokens, (3,)),
        )

    traces = [trace(0, 0.5, 3), trace(1, 0.75, 9), trace(2, 0.75, 4), trace(3, 0.75, 4)]
    assert [t.sample for t in keep_best(traces, 0)] == [2, 3, 1, 0]
    assert [t.sample for t in keep_best(traces, 2)] == [2, 3]


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (('best', 'full', 1), "selection='best' is unknown; known: progress, correct"),
        (('progress', 'half', 1), "cut='half' is unknown; known: prefix, full"),
        (('correct', 'prefix', 1), "cut='prefix' needs J"),
        (('progress', 'full', -1), 'keep_per_problem=-1 must be at least 0'),
    ],
)
def test_rules_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        SelectionConfig(*settings)


@pytest.fixture
def kept_file(tmp_path):
    experience = make_traces(['2+2'] * 4)
    kept = choose(PREFIX, experience, make_proof([[0, 0.5, 1], [0], [0.5, 0.5, 0, 0.5], [0]]))
    kept.append(KeptTrace('ü', 0, 'full', 1, 1, None, Demonstration(
        encode('1'), encode('Try ü\n'), encode(f'2{END}')
    )))
    write_kept(tmp_path / 'kept.jsonl', kept, TOKENIZER)
    return tmp_path / 'kept.jsonl', kept


def test_the_file_is_readable_and_reads_back(kept_file):
    file, kept = kept_file
    assert read_kept(file, TOKENIZER, TOKENIZER.vocab_size) == kept
    first, *_, last = [json.loads(line) for line in file.read_text().splitlines()]
    assert first['thought'] == f'{"".join(EPISODES[:2])}{TASK.termination}'
    assert first['answer'] == '2+2' and first['success'][first['boundary']] == 1
    assert (last['problem'], last['thought'], last['success']) == ('ü', 'Try ü\n', None)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'answer': '2+3'}, 'line 2: the answer_tokens do not stand for the text'),
        ({'answer_tokens': [10**6]}, 'line 2: the answer_tokens do not stand'),
        ({'thought_tokens': ['x']}, 'line 2: not a kept trace.*must be integers'),
        ({'prompt_tokens': []}, 'line 2: not a kept trace.*is empty'),
        ({'success': 'high'}, 'line 2: not a kept trace'),
    ],
)
def test_lines_that_are_no_kept_traces_are_named(kept_file, change, message):
    file, _ = kept_file
    lines = file.read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | change)
    file.write_text('\n'.join(lines))
    with pytest.raises(InputError, match=message):
        read_kept(file, TOKENIZER, TOKENIZER.vocab_size)


def test_files_without_traces_are_refused(kept_file, tmp_path):
    file, _ = kept_file
    file.write_text('\n')
    with pytest.raises(InputError, match='holds no traces'):
        read_kept(file, TOKENIZER, TOKENIZER.vocab_size)
    file.write_text('[]\n')
    with pytest.raises(InputError, match='line 1: not a kept trace'):
        read_kept(file, TOKENIZER, TOKENIZER.vocab_size)
    with pytest.raises(InputError, match='nowhere.jsonl: cannot be read'):
        read_kept(tmp_path / 'nowhere.jsonl', TOKENIZER, TOKENIZER.vocab_size)
