"""The comparison of samplers at the smallest size; its rates mean nothing here."""

import json
import subprocess
import sys

import pytest

from tests.training.run_configs import save_untrained_policy


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return save_untrained_policy(tmp_path_factory.mktemp('peers') / 'policy')


def compare(folder, tmp_path, contestants, dtype='float32', group=1):
    command = [
        sys.executable, '-m', 'experiments.peers.compare', f'--folder={folder}',
        f'--output={tmp_path}/out.json', '--batch=2', f'--group={group}', '--prompt_tokens=4',
        '--new_tokens=2,3', '--runs=1', f'--dtype={dtype}', f'--contestants={contestants}',
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(('dtype', 'group'), [('float32', 2), ('bfloat16', 1)])
def test_contestants_sample_the_same_counts(folder, tmp_path, dtype, group):
    names = 'mrt_jax_rollouts', 'transformers_generate'
    contestants = ','.join(f'{name}={sys.executable}' for name in names)
    done = compare(folder, tmp_path, contestants, dtype, group)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / 'out.json').read_text())['rows']
    found = [(row['name'], row['new_tokens'], row['tokens']) for row in rows]
    assert found == [
        ('mrt_jax', 2, 4), ('transformers', 2, 4), ('mrt_jax', 3, 6), ('transformers', 3, 6)
    ]
    for ours, theirs in (rows[:2], rows[2:]):
        assert ours['times slower'] == 1
        assert theirs['times slower'] == pytest.approx(ours['tokens/s'] / theirs['tokens/s'])
    assert done.stdout.count('\n') == 2 + len(rows)


@pytest.mark.parametrize(
    ('contestants', 'said'),
    [('llama.cpp=python', "'llama.cpp=python' is no MODULE=PYTHON"),
     ('mrt_jax_rollouts', "'mrt_jax_rollouts' is no MODULE=PYTHON"),
     (f'tunix_sampler={sys.executable}', 'tunix_sampler failed'),
     (f'mrt_jax_grpo={sys.executable}', '--group=1: a step of GRPO'),
     ('mrt_jax_grpo=python,tunix_sampler=python', '--contestants: either of mrt_jax_rollouts')],
)
def test_mistakes_are_named(folder, tmp_path, contestants, said):
    done = compare(folder, tmp_path, contestants)
    assert done.returncode == 2 and said in done.stderr
    assert not (tmp_path / 'out.json').exists()
