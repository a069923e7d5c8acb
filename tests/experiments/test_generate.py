import random
import re
import subprocess
import sys

import numpy as np
import pytest

from experiments.generate import generate
from experiments.jsonl import read_lines, write_lines
from experiments.score import score
from mrt_jax.errors import InputError
from mrt_jax.sampling.processors import SamplingConfig

MESSAGES = [{'role': 'user', 'content': 'Numbers: 3 5\nTarget: 8'}]
ROWS = [
    {'id': 0, 'prompt': 'Numbers: 3 5 7'},
    {'id': 1, 'messages': MESSAGES, 'answer': {'target': 8}},
    {'id': 2, 'prompt_tokens': [100, 7, 300]},
    {'id': 3, 'prompt_tokens': [100, 7, 300]},
    {'id': 4, 'prompt_tokens': [9] * 70},
]
PLAIN = SamplingConfig()


def run(
    folder, tmp_path, rows, *, sampling=PLAIN, batch_size=4, max_new_tokens=24, **options
):
    write_lines(tmp_path / 'in.jsonl', rows)
    generate(
        folder,
        str(tmp_path / 'in.jsonl'),
        str(tmp_path / 'out.jsonl'),
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        batch_size=batch_size,
        **options,
    )
    return [dict(line.fields) for line in read_lines(tmp_path / 'out.jsonl')]


def all_completions(rows):
    return [completion for row in rows for completion in row['completions']]


@pytest.fixture(scope='module')
def generated(policy_folder, tmp_path_factory):
    return run(policy_folder, tmp_path_factory.mktemp('generated'), ROWS, num_samples=3)


def test_lines_come_back_with_completions(generated, policy):
    assert [{k: v for k, v in row.items() if k != 'completions'} for row in generated] == ROWS
    assert [list(row)[-1] for row in generated] == ['completions'] * len(ROWS)
    for completion in all_completions(generated):
        assert list(completion) == ['text', 'tokens', 'logprobs', 'finish_reason']
        tokens = completion['tokens']
        ended = tokens[-1] in policy.eos_ids
        assert 0 < len(tokens) == len(completion['logprobs']) <= 24
        assert not set(tokens[:-1]) & set(policy.eos_ids)
        assert completion['finish_reason'] == ('stop' if ended else 'length')
        assert ended or len(tokens) == 24
        assert completion['text'] == policy.tokenizer.decode(tokens[: len(tokens) - ended])
    reasons = {completion['finish_reason'] for completion in all_completions(generated)}
    assert reasons == {'stop', 'length'}


def test_samples_differ_between_draws_and_between_lines_with_one_prompt(generated):
    texts = [completion['tokens'] for row in generated[2:4] for completion in row['completions']]
    assert len(set(map(tuple, texts))) == 6


def test_log_probabilities_are_those_of_scoring(generated, policy, policy_folder, tmp_path):
    prompts = [
        policy.encode_prompt(ROWS[0]['prompt']),
        policy.encode_messages(MESSAGES),
        *(row['prompt_tokens'] for row in ROWS[2:]),
    ]
    completions = [row['completions'][0] for row in generated]
    write_lines(
        tmp_path / 'in.jsonl',
        (
            {'tokens': prompt + completion['tokens']}
            for prompt, completion in zip(prompts, completions, strict=True)
        ),
    )
    score(policy_folder, str(tmp_path / 'in.jsonl'), str(tmp_path / 'out.jsonl'))
    for line, prompt, completion in zip(
        read_lines(tmp_path / 'out.jsonl'), prompts, completions, strict=True
    ):
        expected = line.fields['logprobs'][len(prompt) - 1 :]
        np.testing.assert_allclose(completion['logprobs'], expected, atol=1e-4)


def test_order_changes_not_a_bit(generated, policy_folder, tmp_path):
    rows = random.Random(1).sample(ROWS[1:], len(ROWS) - 1)
    assert rows != ROWS[1:]
    for row in run(policy_folder, tmp_path, rows, num_samples=3):
        assert row == generated[row['id']]


def test_batch_size_changes_rounding_only(generated, policy_folder, tmp_path):
    again = run(policy_folder, tmp_path, ROWS[:4], num_samples=3, batch_size=7)
    for actual, expected in zip(
        all_completions(again), all_completions(generated[:4]), strict=True
    ):
        assert actual['tokens'] == expected['tokens']
        np.testing.assert_allclose(actual['logprobs'], expected['logprobs'], atol=1e-5)


def test_requests_that_take_turns_change_rounding_only(policy_folder, tmp_path):
    """Responses longer than the prompts: several requests share a slot."""
    together, in_turns = (
        run(policy_folder, tmp_path, ROWS[:4], num_samples=3, batch_size=size, max_new_tokens=180)
        for size in (12, 3)
    )
    lengths = {len(completion['tokens']) for completion in all_completions(together)}
    assert len(lengths) > 3
    for actual, expected in zip(all_completions(in_turns), all_completions(together), strict=True):
        assert actual['tokens'] == expected['tokens']
        np.testing.assert_allclose(actual['logprobs'], expected['logprobs'], atol=1e-5)


def test_seed_changes_samples_and_the_mesh_does_not(generated, policy_folder, tmp_path):
    other = run(policy_folder, tmp_path, ROWS[:4], num_samples=3, seed=1)
    assert all_completions(other) != all_completions(generated[:4])
    mesh = {'data': 2, 'fsdp': 2, 'tensor': 2}
    same = run(policy_folder, tmp_path, ROWS[:4], num_samples=3, mesh_axes=mesh)
    tokens = [[c['tokens'] for c in all_completions(rows)] for rows in (same, generated[:4])]
    assert tokens[0] == tokens[1]


def test_greedy_draws_are_one_and_the_likeliest(generated, policy_folder, tmp_path):
    greedy = SamplingConfig(temperature=0)
    rows = run(policy_folder, tmp_path, ROWS[:1], sampling=greedy, num_samples=2)
    first, second = rows[0]['completions']
    assert first == second
    likeliest = first['logprobs'][0]
    assert all(c['logprobs'][0] <= likeliest + 1e-5 for c in generated[0]['completions'])


def test_stop_strings_end_completions(generated, policy_folder, tmp_path):
    text = max((c['text'] for c in all_completions(generated[:4])), key=len)
    stop = re.search('[ -~]{2}', text)[0]  # not bytes that are no text
    stopped = run(policy_folder, tmp_path, ROWS[:4], num_samples=3, stop_strings=[stop])
    for old, new in zip(all_completions(generated[:4]), all_completions(stopped), strict=True):
        assert old['tokens'][: len(new['tokens'])] == new['tokens']
        if stop in old['text']:
            assert stop in new['text'] and new['finish_reason'] == 'stop'
            assert len(new['text']) <= len(old['text'])


def test_folder_without_tokenizer(generated, bare_folder, tmp_path):
    rows = run(bare_folder, tmp_path, ROWS[2:4], num_samples=3)
    for row, expected in zip(rows, generated[2:4], strict=True):
        for bare, full in zip(row['completions'], expected['completions'], strict=True):
            assert bare['tokens'] == full['tokens']
            assert bare['text'] is None


@pytest.mark.parametrize(
    'row, said',
    [
        ({}, 'line 2: must have one of prompt, messages, prompt_tokens; has none'),
        ({'prompt': 'a', 'prompt_tokens': [1]}, r"has \['prompt', 'prompt_tokens'\]"),
        ({'prompt': 7}, 'line 2: a prompt must be a text, not int'),
        ({'prompt': ''}, 'line 2: the prompt has no tokens'),
        ({'prompt': 'half \ud83d'}, 'line 2: character 5 .* surrogate'),
        ({'messages': ['hello']}, 'line 2: messages must be a list of objects'),
        ({'messages': [{'role': 'user'}]}, 'line 2: .*chat template failed'),
        ({'prompt_tokens': [1, -1]}, 'line 2: .*has the id -1'),
        ({'prompt_tokens': [1] * 240}, 'line 2: 240 prompt tokens and 24 new ones exceed the 256'),
    ],
)
def test_bad_lines_are_named(policy_folder, tmp_path, row, said):
    with pytest.raises(InputError, match=said):
        run(policy_folder, tmp_path, [ROWS[0], row])
    assert not (tmp_path / 'out.jsonl').exists()


def test_text_needs_a_tokenizer(bare_folder, tmp_path):
    with pytest.raises(InputError, match='no tokenizer'):
        run(bare_folder, tmp_path, ROWS[:1])
    with pytest.raises(InputError, match='no tokenizer'):
        run(bare_folder, tmp_path, ROWS[2:], stop_strings=['a'])


def test_command_line(policy_folder, generated, tmp_path):
    write_lines(tmp_path / 'in.jsonl', ROWS[:1])
    command = [sys.executable, '-m', 'experiments.generate', f'--policy={policy_folder}']
    command += [f'--prompts={tmp_path / "in.jsonl"}', f'--output={tmp_path / "out.jsonl"}']
    command += ['--max_new_tokens=24', '--num_samples=3', '--mesh=data=1']
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, '')
    rows = [line.fields for line in read_lines(tmp_path / 'out.jsonl')]
    tokens = [[c['tokens'] for c in all_completions(rows)] for rows in (rows, generated[:1])]
    assert tokens[0] == tokens[1]
    shown = subprocess.run([*command, '--help'], capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0
    for flag in ('policy', 'mesh', 'dtype', 'prompts', 'stop_strings'):
        assert f'  --{flag}: ' in shown.stdout
    for flag, said in [
        ('--top_p=0', 'sampling flags: top_p must lie in (0, 1], got 0.0'),
        ('--mesh=tensor=50', 'mesh tensor=50: needs 50 devices'),
    ]:
        failed = subprocess.run([*command, flag], capture_output=True, text=True, timeout=120)
        assert failed.returncode == 2
        assert said in failed.stderr and failed.stderr.count('\n') == 1
