"""The command: a real sweep of two runs, its table, and faulty command lines."""

import json
import subprocess
import sys

import pytest

from tests.training.run_configs import save_untrained_policy

SMALL = {
    'num_steps': 1, 'prompts_per_step': 2, 'group_size': 4, 'max_thinking_tokens': 24,
    'max_answer_tokens': 4, 'max_boundaries': 3, 'branches': 2, 'row_tokens': 64,
    'microbatch_rows': 8, 'evaluation.num_problems': 4, 'evaluation.num_samples': 1,
    'evaluation.batch_rows': 4,
}
SWEEP = """
CONFIG = 'configs/countdown.py:mrt'


def get_sweep():
    yield {'alpha': 0.5}
    yield {'policy': 'nowhere'}
"""


def run(*flags):
    return subprocess.run(
        [sys.executable, '-m', 'experiments.sweep', *flags], capture_output=True, text=True,
        timeout=600,
    )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sweep')
    (folder / 'two.py').write_text(SWEEP)
    return folder


def test_two_runs_one_of_which_fails(folder):
    policy = save_untrained_policy(folder / 'policy')
    workdir = folder / 'work'
    shared = [f'--config.{key}={value}' for key, value in SMALL.items()]
    sweep = (folder / 'two.py').read_text().replace("'alpha'", f"'policy': {policy!r}, 'alpha'")
    (folder / 'two.py').write_text(sweep)
    flags = [f'--sweep={folder / "two.py"}', f'--workdir={workdir}', *shared]
    done = run(*flags)
    assert done.returncode == 1, done.stderr
    assert '1 of 2 runs failed' in done.stderr and 'nowhere' in done.stderr
    content = json.loads((workdir / 'report' / 'results.json').read_text())
    good, bad = content['settings']
    assert good['overrides']['alpha'] == 0.5 and good['updates'] == 1
    assert good['pass_at_1']['mean'] == 0 and 0 < good['normalized_regret']['mean'] <= 1
    assert bad['runs'][0]['exit_code'] == 2 and 'nowhere' in bad['runs'][0]['last_lines'][-1]
    before = {file.name: file.read_bytes() for file in (workdir / 'report').iterdir()}
    # Only gathered, the table is the same.
    table = run('--table', f'--workdir={workdir}')
    assert table.returncode == 0 and '## Not finished' in table.stdout, table.stderr
    assert {file.name: file.read_bytes() for file in (workdir / 'report').iterdir()} == before
    # What is left to do elsewhere.
    printed = run(*flags, '--runner=print')
    assert printed.stdout.count('\n') == 1 and '--config.policy=nowhere' in printed.stdout
    printed = run(*flags, '--runner=slurm', '--noretry_failed')
    assert 'every run has been done' in printed.stderr
    assert not (workdir / 'sweep.slurm').exists()


@pytest.mark.parametrize(('flags', 'message'), [
    (['--config.alfa=1'], "alpha=0.5: --config: unknown key 'alfa'"),
    (['--config.num_steps=many'], 'many'),
    (['--config.length_penalty_weight=0.1'], 'length_penalty_weight has no effect'),
    (['--config.num_steps', '3'], "'3'"),
    (['--runner=tpu'], '--tpus=NAME'),
    (['--submit'], '--submit goes with'),
    (['--table'], 'leave out --sweep'),
    (['--rank_by=luck'], 'luck'),
])
def test_faulty_command_lines(folder, tmp_path, flags, message):
    (tmp_path / 'two.py').write_text(SWEEP)
    done = run(f'--sweep={tmp_path / "two.py"}', f'--workdir={tmp_path / "w"}', *flags)
    assert done.returncode == 2 and message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / 'w' / 'runs').exists()


def test_a_table_needs_a_sweep(tmp_path):
    done = run('--table', f'--workdir={tmp_path}')
    assert done.returncode == 2 and 'sweep.json: no such file' in done.stderr
    done = run(f'--workdir={tmp_path}')
    assert done.returncode == 2 and '--sweep is missing' in done.stderr
