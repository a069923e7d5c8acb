"""The command `prove`: formats, what the task fills in, and the same answers in any batch."""

import random
import subprocess
import sys

import numpy as np
import pytest

from experiments.jsonl import read_lines, write_lines
from experiments.prove import prove
from experiments.score import score
from mrt_jax.errors import InputError
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.tasks.task import get_task

BRANCHES, ANSWER = 3, 12
# The tiny policy is sure of itself; at this temperature its samples differ.
SPREAD = SamplingConfig(temperature=8)
PUZZLE = {'numbers': [3, 5, 7], 'target': 22}
THOUGHT = 'Try 3+5=8,8*7=56 no\nTry 3*5=15,15+7=22 yes\n'


@pytest.fixture(scope='module')
def rows(policy):
    encode = policy.tokenizer.encode
    prompt = encode('Numbers: 3 5 7\nTarget: 22')
    closed = encode(f'{THOUGHT}</think>\nAnswer: 3*5+7') + list(policy.eos_ids[:1])
    return [
        {'id': 0, 'prompt_tokens': prompt, 'trace_tokens': closed, 'answer': PUZZLE},
        {'id': 1, 'prompt_tokens': prompt, 'trace_tokens': encode(THOUGHT)},
        {
            'id': 2, 'prompt_tokens': prompt, 'trace_tokens': closed,
            'boundaries': [0, 4, 4], 'termination_tokens': [7, 8, 9],
        },
        {'id': 3, 'prompt_tokens': prompt[:3], 'trace_tokens': [], 'answer': PUZZLE},
        {
            'id': 4, 'prompt_tokens': [5] * 60, 'trace_tokens': [6] * 10,
            'boundaries': [], 'termination_tokens': [7],
        },
        {'id': 5, 'prompt_tokens': prompt, 'trace_tokens': encode(THOUGHT)},
    ]  # fmt: skip


def run(folder, tmp_path, rows, *, task_name='countdown', **options):
    write_lines(tmp_path / 'in.jsonl', rows)
    prove(
        folder,
        str(tmp_path / 'in.jsonl'),
        str(tmp_path / 'out.jsonl'),
        branches=BRANCHES,
        max_answer_tokens=ANSWER,
        sampling=SPREAD,
        task_name=task_name,
        **options,
    )
    return [dict(line.fields) for line in read_lines(tmp_path / 'out.jsonl')]


@pytest.fixture(scope='module')
def proved(policy_folder, rows, tmp_path_factory):
    return run(policy_folder, tmp_path_factory.mktemp('proved'), rows)


def answers_of(row):
    return [[branch['tokens'] for branch in boundary] for boundary in row['branches']]


def test_lines_come_back_with_branches(proved, rows):
    added = ('boundaries', 'success', 'branches')
    for row, result in zip(rows, proved, strict=True):
        assert {**row, **{key: result[key] for key in added}} == result
        assert len(result['branches']) == len(result['boundaries'])
        for boundary in result['branches']:
            assert len(boundary) == BRANCHES
            for branch in boundary:
                assert list(branch) == ['tokens', 'logprobs', 'correct']
                assert len(branch['tokens']) == len(branch['logprobs'])


def test_boundaries_are_the_tasks_episodes(proved, rows, policy):
    decode = policy.tokenizer.decode
    prefixes = ['', THOUGHT[: THOUGHT.index('Try', 1)], THOUGHT]
    for result in (proved[0], proved[1]):
        texts = [decode(result['trace_tokens'][:boundary]) for boundary in result['boundaries']]
        assert texts == prefixes
    assert proved[2]['boundaries'] == [0, 4, 4]
    assert proved[3]['boundaries'] == [0]
    assert proved[4]['branches'] == proved[4]['boundaries'] == []


def test_termination_text_comes_first_with_log_probability_zero(proved, policy):
    text = policy.tokenizer.encode(get_task('countdown').termination)
    for result, expected in ((proved[0], text), (proved[1], text), (proved[2], [7, 8, 9])):
        for boundary in result['branches']:
            for branch in boundary:
                assert branch['tokens'][: len(expected)] == expected
                assert not any(branch['logprobs'][: len(expected)])
                answer = branch['tokens'][len(expected) :]
                assert 0 < len(answer) <= ANSWER
                ended = answer[-1] in policy.eos_ids
                assert ended or len(answer) == ANSWER


def test_success_is_the_share_of_correct_branches(proved, policy):
    task = get_task('countdown')
    for result in proved:
        if 'answer' not in result:
            assert result['success'] is None
            assert all(b['correct'] is None for boundary in result['branches'] for b in boundary)
            continue
        for offset, share, boundary in zip(
            result['boundaries'], result['success'], result['branches'], strict=True
        ):
            for branch in boundary:
                response = policy.decode(result['trace_tokens'][:offset] + branch['tokens'])
                assert branch['correct'] == task.check(response, PUZZLE).correct
            assert share == np.mean([branch['correct'] for branch in boundary])


def test_a_forced_correct_answer_counts(policy_folder, policy, tmp_path):
    # The termination text holds the whole answer, so whatever follows its line is ignored. The
    # policy of these tests takes single digits for ends of a response.
    row = {
        'prompt_tokens': [5], 'trace_tokens': [6, 7], 'boundaries': [1],
        'termination_tokens': policy.tokenizer.encode('</think>\nAnswer: 13+15*14\n'),
        'answer': {'numbers': [13, 14, 15], 'target': 223},
    }  # fmt: skip
    (result,) = run(policy_folder, tmp_path, [row])
    assert 0 < result['success'][0] <= 1


def test_log_probabilities_are_those_of_scoring(proved, policy_folder, tmp_path):
    cases = [
        (result, offset, branch)
        for result in proved
        for offset, boundary in zip(result['boundaries'], result['branches'], strict=True)
        for branch in boundary
    ]
    prefixes = [r['prompt_tokens'] + r['trace_tokens'][:offset] for r, offset, _ in cases]
    write_lines(
        tmp_path / 'in.jsonl',
        ({'tokens': p + b['tokens']} for p, (_, _, b) in zip(prefixes, cases, strict=True)),
    )
    score(policy_folder, str(tmp_path / 'in.jsonl'), str(tmp_path / 'scores.jsonl'), batch_size=64)
    for prefix, (_, _, branch), line in zip(
        prefixes, cases, read_lines(tmp_path / 'scores.jsonl'), strict=True
    ):
        scores = np.asarray(line.fields['logprobs'])[len(prefix) - 1 :]
        forced = np.asarray(branch['logprobs']) == 0
        np.testing.assert_allclose(
            np.where(forced, 0, scores), branch['logprobs'], rtol=1e-4, atol=1e-4
        )


def test_batch_order_and_devices_do_not_matter(proved, policy_folder, rows, tmp_path):
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    again = run(
        policy_folder, tmp_path, [rows[i] for i in order], batch_size=2, mesh_axes={'data': 2}
    )
    for place, index in enumerate(order):
        assert answers_of(again[place]) == answers_of(proved[index])


def test_repeated_lines_have_answers_of_their_own(proved):
    assert answers_of(proved[1]) != answers_of(proved[5])


def test_token_ids_need_no_tokenizer(proved, bare_folder, rows, tmp_path):
    (result,) = run(bare_folder, tmp_path, rows[2:3], task_name=None)
    assert result['success'] is None
    assert len(answers_of(result)) == 3


@pytest.mark.parametrize(
    'changes, said',
    [
        ({'prompt_tokens': None}, "'prompt_tokens' must be a list of token ids"),
        ({'trace_tokens': [10_000]}, "'trace_tokens' has the id 10000"),
        ({'boundaries': [3, 99]}, "'boundaries' must be a list of offsets into 'trace_tokens', 0"),
        ({'boundaries': 3}, "'boundaries' must be a list"),
        ({'termination_tokens': []}, 'the termination text has no tokens'),
        ({'answer': {'numbers': 'three'}}, 'a countdown answer looks like'),
        ({'trace_tokens': [5] * 240, 'boundaries': [240]}, 'positions, and the policy has 256'),
    ],
)
def test_mistakes_name_the_line(changes, said, policy_folder, rows, tmp_path):
    with pytest.raises(InputError, match='in.jsonl, line 2: ') as caught:
        run(policy_folder, tmp_path, [rows[0], {**rows[0], **changes}])
    assert said in str(caught.value)


@pytest.mark.parametrize('key', ['boundaries', 'termination_tokens'])
def test_without_a_task_the_line_must_say_all(key, bare_folder, rows, tmp_path):
    row = {k: v for k, v in rows[2].items() if k != key}
    with pytest.raises(InputError, match=f'{key}.* is missing: give it, or the flag --task'):
        run(bare_folder, tmp_path, [row], task_name=None)
    with pytest.raises(InputError, match="'answer', which needs the flag --task"):
        run(bare_folder, tmp_path, [{**rows[2], 'answer': 3}], task_name=None)


def test_the_command_line(policy_folder, tmp_path):
    command = [
        sys.executable, '-m', 'experiments.prove', f'--policy={policy_folder}',
        f'--traces={tmp_path}/none.jsonl', f'--output={tmp_path}/out.jsonl',
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr.count('\n')) == (2, 1)
    assert 'none.jsonl: cannot be read' in result.stderr
