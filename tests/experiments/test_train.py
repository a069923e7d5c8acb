"""The training command: faulty command lines end with code 2, one line, and nothing compiled."""

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.training.run_configs import save_untrained_policy

SMALL = {
    'num_steps': 3, 'checkpoint_every': 1, 'prompts_per_step': 2, 'group_size': 4,
    'max_thinking_tokens': 24, 'max_answer_tokens': 4, 'max_boundaries': 3, 'branches': 2,
    'microbatch_rows': 8, 'evaluation.num_problems': 4, 'evaluation.num_samples': 1,
    'evaluation.batch_rows': 4,
}


@pytest.fixture(scope='module')
def start(tmp_path_factory):
    """Starts the command on a small run with some keys changed."""
    folder = tmp_path_factory.mktemp('train')
    policy = save_untrained_policy(folder / 'policy')

    def run(*flags, workdir, variant='mrt', policy=policy):
        keys = [f'--config.{key}={value}' for key, value in SMALL.items()]
        command = [
            sys.executable, '-m', 'experiments.train', f'--config=configs/countdown.py:{variant}',
            f'--workdir={workdir}', *keys, f'--config.policy={policy}', *flags,
        ]
        return subprocess.Popen(
            command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    return run


def test_faulty_command_lines(start, tmp_path):
    file = tmp_path / 'file'
    file.write_text('')
    broken = tmp_path / 'broken'
    broken.mkdir()
    (broken / 'config.json').write_text(json.dumps({'model_type': 'gpt2'}))
    truncated = save_untrained_policy(tmp_path / 'truncated')
    with open(f'{truncated}/model.safetensors', 'r+b') as weights:
        weights.truncate(1000)
    faults = {
        'unknown key': (['--config.alfa=1'], {}, 'alfa'),
        'wrong type': (['--config.num_steps=many'], {}, 'many'),
        'no such variant': ([], {'variant': 'mtr'}, 'mtr'),
        'key without effect': (
            ['--config.length_penalty_weight=0.1'], {}, 'length_penalty_weight has no effect'),
        'budget beyond the context': (
            ['--config.max_thinking_tokens=5000'], {}, 'max_thinking_tokens=5000'),
        'group of one': (['--config.group_size=1'], {}, 'group_size'),
        'another objective': (['--config.objective=sft'], {}, 'rows_per_step'),
        'no temperature': (['--config.sampling.temperature=-1'], {}, 'sampling: temperature'),
        'prompts too long': (['--config.max_prompt_tokens=2'], {}, 'max_prompt_tokens=2'),
        'nothing to evaluate': (
            ['--config.evaluation.branches=0'], {}, 'evaluation.branches=0'),
        'row shorter than a trace': (['--config.row_tokens=9'], {}, 'row_tokens=9'),
        'no policy folder': ([], {'policy': tmp_path / 'nowhere'}, 'nowhere'),
        'unsupported architecture': ([], {'policy': broken}, 'gpt2'),
        'truncated weights': ([], {'policy': truncated}, 'model.safetensors'),
        'workdir that cannot be written': ([], {'workdir': file / 'below'}, 'cannot be written'),
    }
    runs = {
        name: (start(*flags, **{'workdir': tmp_path / name, **changes}), word)
        for name, (flags, changes, word) in faults.items()
    }
    for name, (run, word) in runs.items():
        _, errors = run.communicate(timeout=300)
        assert run.returncode == 2, f'{name}: {errors}'
        lines = [line for line in errors.splitlines() if not line.startswith(('I', 'W'))]
        assert len(lines) == 1 and word in lines[0], f'{name}: {errors}'
        assert 'ompil' not in errors, name


def test_sigterm_and_a_damaged_checkpoint_end_in_the_report_all_the_same(start, tmp_path):
    workdir = tmp_path / 'run'
    run = start('--config.num_steps=500', workdir=workdir)
    metrics = workdir / 'metrics.jsonl'
    deadline = time.monotonic() + 300
    while not (metrics.exists() and metrics.read_text().count('\n') >= 2):
        assert run.poll() is None and time.monotonic() < deadline, run.communicate()[1]
        time.sleep(0.1)
    run.send_signal(signal.SIGTERM)
    output, errors = run.communicate(timeout=120)
    assert run.returncode == 0, errors
    assert 'run again to go on' in output
    done = len(metrics.read_text().splitlines())
    newest = workdir / 'checkpoints' / str(done)
    data = max((newest / 'state').rglob('*'), key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    run = start(f'--config.num_steps={done + 1}', workdir=workdir)
    output, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    assert f'{newest} is damaged' in errors
    assert len(metrics.read_text().splitlines()) == done + 1
    assert (workdir / 'report' / 'index.html').is_file()
    assert str(workdir / 'report' / 'index.html') in output
    starts = json.loads((workdir / 'provenance.json').read_text())
    asked = [start['command'].rpartition('--config.num_steps=')[2] for start in starts]
    assert asked == ['500', str(done + 1)]
    # What is refused leaves the run's own files as they were.
    other = save_untrained_policy(tmp_path / 'other')
    kept = {file: (workdir / file).read_bytes() for file in ('config.json', 'provenance.json')}
    for flags, word in (
        (['--config.group_size=1'], 'group_size'), (['--config.seed=1'], 'seed=0'),
        ([f'--config.policy={other}'], 'was begun with policy'),
    ):
        run = start(f'--config.num_steps={done + 2}', *flags, workdir=workdir)
        _, errors = run.communicate(timeout=300)
        assert run.returncode == 2 and word in errors.splitlines()[-1], errors
        assert kept == {file: (workdir / file).read_bytes() for file in kept}
