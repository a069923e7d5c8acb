"""The benchmark's command line at the smallest size; what it measures here means nothing."""

import json
import subprocess
import sys

import pytest


def run(tmp_path, *arguments):
    command = [
        sys.executable, '-m', 'experiments.benchmark', f'--output={tmp_path}/out.json', *arguments
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_table_and_the_file_agree(tmp_path):
    result = run(
        tmp_path, '--shape=countdown', '--traces=2', '--trace_tokens=16', '--boundaries=1',
        '--branches=2', '--answer_tokens=2', '--traces_in_file=64', '--requests=4', '--batch=2',
        '--group_size=2', '--prompt_tokens=4', '--new_tokens=4', '--row_tokens=64',
    )
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / 'out.json').read_text())
    parts = report['parts']
    assert set(parts) == {
        'rollouts', 'groups', 'judging', 'kernels', 'prover', 'step', 'growth', 'memory'
    }
    assert report['peak_host_bytes'] > 0
    for rows in parts.values():
        for row in rows:
            assert f'| {next(iter(row.values()))} |' in result.stdout
            assert row.get('seconds', 1) > 0
    ways = {row['rollouts']: row for row in parts['rollouts']}
    assert ways['even, in batches']['tokens'] == ways['even, slots refilled']['tokens'] == 4 * 4
    assert 4 <= ways['ragged, in batches']['tokens'] < 4 * 4
    assert [row['groups'] for row in parts['groups']] == [
        'prompts of 4, one for 2 rows', 'prompts of 4, one for each row',
        'prompts of 16, one for 2 rows', 'prompts of 16, one for each row',
    ]
    for shared, own in zip(parts['groups'][::2], parts['groups'][1::2], strict=True):
        assert shared['tokens'] == own['tokens'] == 2 * 4 and own['times as fast'] == 1
        assert shared['cache bytes'] < own['cache bytes']
    assert len({row['judging'] for row in parts['judging']}) == 4
    assert len({row['tokens'] for row in parts['judging']}) == 1
    # A verdict takes this long, however it is waited for.
    assert all(row['seconds'] >= 0.25 for row in parts['judging'] if 'verdicts' in row['judging'])
    step = {row['part']: row['seconds'] for row in parts['step']}
    assert step['GRPO step'] == pytest.approx(step['rollouts'] + step['update'])
    assert step['MRT step'] == pytest.approx(step['GRPO step'] + step['meta-prover'])
    assert [row['twice the'] for row in parts['growth']] == [
        'nothing', 'traces', 'trace_tokens', 'boundaries', 'branches', 'answer_tokens'
    ]
    fork = parts['prover'][0]
    assert fork['times the fork'] == 1
    # Two traces, one boundary, two branches, two tokens; the plain ways ran on one trace.
    for row in parts['prover']:
        assert row['answer tokens/s'] * row['seconds'] == pytest.approx(8)


def test_what_is_run_is_recorded(tmp_path):
    """Of a small part, as recording slows down all that Python does."""
    result = run(
        tmp_path, '--parts=kernels', '--traces_in_file=64', f'--profile={tmp_path}/profile'
    )
    assert result.returncode == 0, result.stderr
    assert list((tmp_path / 'profile').rglob('*.xplane.pb'))


@pytest.mark.parametrize(
    ('flag', 'said'),
    [('--parts=kernel', 'known: rollouts, groups, judging, kernels, prover, step, growth, memory'),
     ('--requests=33', '--requests=33 is no multiple of --batch=32'),
     ('--group_size=5', '--group_size=5 does not divide --batch=32'),
     ('--microbatch_rows=3', '--microbatch_rows=3 does not divide --traces=16'),
     ('--prompt_tokens=1024', '--prompt_tokens=1024 leaves no response'),
     ('--sampled_traces=20', '--sampled_traces=20 is more than --traces'),
     ('--boundaries=4000', '--boundaries=4000 is more than --trace_tokens')],
)
def test_mistakes_are_named(flag, said, tmp_path):
    result = run(tmp_path, flag)
    assert (result.returncode, result.stderr.count('\n')) == (2, 1)
    assert said in result.stderr
