"""The command that judges responses."""

import json
import subprocess
import sys

import pytest

from experiments.check import check
from mrt_jax.errors import InputError

ANSWER = {'numbers': [3, 5, 7], 'target': 22}


def write(path, lines):
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return str(path)


def test_lines_keep_their_order_and_fields(tmp_path):
    lines = [
        {'id': 1, 'response': '</think>\nAnswer: 3*5+7', 'answer': ANSWER},
        {'id': 2, 'response': 'no end', 'answer': ANSWER},
    ]
    output = tmp_path / 'out.jsonl'
    check('countdown', write(tmp_path / 'in.jsonl', lines), str(output))
    first, second = map(json.loads, output.read_text().splitlines())
    assert first == lines[0] | {'correct': True, 'extracted': '3*5+7', 'reason': 'equal'}
    assert second == lines[1] | {'correct': False, 'extracted': None, 'reason': 'no_answer'}


@pytest.mark.parametrize(
    ('task', 'line', 'message'),
    [
        ('chess', {}, "task 'chess' is unknown"),
        ('countdown', {'answer': ANSWER}, "line 1: 'response' is missing"),
        ('countdown', {'response': 'x'}, "line 1: 'answer' is missing"),
        ('countdown', {'response': 3, 'answer': ANSWER}, "line 1: 'response' must be a text"),
        ('countdown', {'response': 'x', 'answer': 22}, 'line 1: a countdown answer looks like'),
    ],
)
def test_bad_input_is_named(tmp_path, task, line, message):
    with pytest.raises(InputError, match=message):
        check(task, write(tmp_path / 'in.jsonl', [line]), str(tmp_path / 'out.jsonl'))
    assert not (tmp_path / 'out.jsonl').exists()


def test_command_line(tmp_path):
    line = {'response': '</think>\nAnswer: 3*5+7', 'answer': ANSWER}
    output = tmp_path / 'out.jsonl'
    command = [sys.executable, '-m', 'experiments.check', f'--output={output}']
    command += [f'--input={write(tmp_path / "in.jsonl", [line])}']
    done = subprocess.run([*command, '--task=countdown'], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
    assert json.loads(output.read_text())['correct'] is True
    failed = subprocess.run([*command, '--task=chess'], capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr == (
        "task 'chess' is unknown; known: countdown, countdown:full, countdown_backtrack, math, "
        'math:DATASET, '
        "math_direct, math_direct:DATASET, reasoning_gym:GENERATOR\n"
    )
