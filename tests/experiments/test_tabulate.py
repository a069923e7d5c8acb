import csv
import json
import subprocess
import sys

import pytest

from experiments.tabulate import tabulate
from mrt_jax.errors import InputError
from mrt_jax.evaluation.benchmarks import MEAN
from mrt_jax.evaluation.traces import write_traces
from tests.evaluation.synthetic import make_records


@pytest.fixture
def evaluations(tmp_path):
    """Outputs of experiments.evaluate on two tasks."""
    folders = []
    for number, task in enumerate(['aime', 'amc']):
        folder = tmp_path / 'evaluations' / task
        folder.mkdir(parents=True)
        write_traces(
            folder / 'traces.jsonl',
            {
                'base': make_records(8, 4, solve=0.1, seed=number),
                'mrt': make_records(8, 4, solve=0.6, seed=number),
            },
        )
        folders.append(str(folder))
    return folders


def test_it_writes_the_table_and_the_figures(evaluations, tmp_path, capsys):
    output = tmp_path / 'table'
    numbers = tabulate(evaluations, output, note='the command')
    assert {path.name for path in output.iterdir()} == {
        'table.md', 'table.csv', 'table.json', 'pass_at_1.png', 'gain.png'
    }
    assert json.loads((output / 'table.json').read_text('utf-8')) == numbers
    assert list(numbers['tasks']) == ['aime', 'amc'] and numbers['reference'] == 'base'
    assert numbers['policies']['mrt'][MEAN]['gain']['mean'] > 0
    text = (output / 'table.md').read_text('utf-8')
    assert text in capsys.readouterr().out
    assert '`the command`' in text and f'| policy | aime | amc | {MEAN} |' in text
    with (output / 'table.csv').open() as file:
        assert len(list(csv.DictReader(file))) == 6
    again = tabulate(evaluations, output, tasks=['a', 'b'], reference='mrt')
    assert list(again['tasks']) == ['a', 'b'] and 'gain' in again['policies']['base']['a']


def test_bad_input_is_named(evaluations, tmp_path):
    output = tmp_path / 'table'
    for options, message in [
        ({'tasks': ['a']}, '--tasks has 1 names for 2'),
        ({'tasks': ['a', 'a']}, 'must be different'),
        ({'tasks': ['a', MEAN]}, 'names the last column'),
        ({'reference': 'grpo'}, "--reference=grpo: there are 'base', 'mrt'"),
    ]:
        with pytest.raises(InputError, match=message):
            tabulate(evaluations, output, **options)
    with pytest.raises(InputError, match='--evaluation names the same folder twice'):
        tabulate([evaluations[0]] * 2, output)
    write_traces(f'{evaluations[1]}/traces.jsonl', {'base': make_records(8, 4)})
    with pytest.raises(InputError, match="amc: has no traces of 'mrt'"):
        tabulate(evaluations, output)
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty' / 'traces.jsonl').touch()
    with pytest.raises(InputError, match='holds no traces'):
        tabulate([str(tmp_path / 'empty')], output)


def test_the_command_fails_in_one_line(tmp_path):
    command = [
        sys.executable, '-m', 'experiments.tabulate', f'--evaluation={tmp_path}', '--output=x'
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1 and 'traces.jsonl: there is no such file' in done.stderr
