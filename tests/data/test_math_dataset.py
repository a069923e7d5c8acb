"""Files of problems as datasets: every format, every published schema, every mistake named."""

import csv
import json

import pytest

from mrt_jax.data.math_dataset import READY, load_math_problems
from mrt_jax.data.problem_files import read_problems
from mrt_jax.errors import InputError
from mrt_jax.tasks.task import get_task


def rows(count=4, **changes):
    return [{'problem': f'What is {i}+1?', 'answer': str(i + 1), **changes} for i in range(count)]


def write(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == '.parquet':
        pyarrow = pytest.importorskip('pyarrow')
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    elif file.suffix == '.csv':
        with file.open('w', newline='') as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        file.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return file


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setenv('MRT_JAX_DATA', str(tmp_path))
    return tmp_path


@pytest.mark.parametrize('suffix', ['.jsonl', '.csv', '.parquet'])
def test_every_format_reads_the_same(tmp_path, suffix):
    written = rows(3, level='2', solution='an "x, y"\nz', extra='e')
    problems = read_problems(write(tmp_path / f'p{suffix}', written))
    assert [p.id for p in problems] == ['1', '2', '3']
    assert [(p.problem, p.answer) for p in problems] == [
        (row['problem'], row['answer']) for row in written
    ]
    assert problems[0].level == '2' and problems[0].solution == 'an "x, y"\nz'


@pytest.mark.parametrize(
    ('row', 'answer'),
    [
        ({'question': 'q', 'answer': 'so 1\n#### 1,234'}, '1234'),
        ({'problem': 'q', 'solution': 'a \\boxed{1} b \\boxed{\\frac{1}{2}}'}, '\\frac{1}{2}'),
        ({'problem': 'q', 'answer': "['x^2']"}, 'x^2'),
        ({'problem': 'q', 'answer': '[1, 2]'}, '[1, 2]'),
        ({'problem': 'q', 'answer': ['7']}, '7'),
        ({'problem': 'q', 'answer': 7}, '7'),
        ({'Problem': 'q', 'final_answer': '7'}, '7'),
    ],
)
def test_published_schemas(tmp_path, row, answer):
    assert read_problems(write(tmp_path / 'p.jsonl', [row]))[0].answer == answer


@pytest.mark.parametrize(
    ('written', 'message'),
    [
        ([{'text': 'q', 'answer': '1'}], "p.jsonl: has no column 'problem'; it has text, answer"),
        ([{'problem': 'q', 'level': '1'}], "p.jsonl: has no column 'answer'"),
        (rows(2, id='7'), "p.jsonl: rows 1 and 2 have the same id '7'"),
        ([*rows(1), {'problem': 'q', 'answer': ''}], 'p.jsonl: row 2: has no answer'),
        ([*rows(1), {'problem': '', 'answer': '1'}], "p.jsonl: row 2: 'problem' is empty"),
        ([], 'p.jsonl: has no problems'),
    ],
)
def test_mistakes_are_named(tmp_path, written, message):
    with pytest.raises(InputError, match=message):
        read_problems(write(tmp_path / 'p.jsonl', written))


def test_damaged_files_are_named(tmp_path):
    for name, content in (('p.jsonl', b'{"problem"'), ('p.parquet', b'PAR1'), ('p.txt', b'')):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            read_problems(tmp_path / name)


def test_a_ready_dataset_is_found_counted_and_posed(data):
    with pytest.raises(InputError, match='aime2024.jsonl: there is no such file; put the problems'):
        load_math_problems('aime2024', 'test')
    write(data / 'files' / 'aime2024.csv', rows(29))
    with pytest.raises(InputError, match='has 29 problems, but aime2024 has 30'):
        load_math_problems('aime2024', 'test')
    write(data / 'files' / 'aime2024.csv', rows(30))
    task = get_task('math:aime2024')
    problems = task.problems('test')
    assert len(problems) == 30
    assert problems[3].messages[0]['content'].startswith('What is 3+1?\n\nPlease reason')
    assert task.check(f'</think>\\boxed{{{problems[3].answer}}}', problems[3].answer).correct
    with pytest.raises(InputError, match="no split 'train'; it has test"):
        task.problems('train')


def test_a_changed_file_is_read_anew_and_splits_stay(tmp_path):
    file = write(tmp_path / 'mine.jsonl', rows(400))
    splits = {s: list(load_math_problems(str(file), s)) for s in ('train', 'validation', 'test')}
    assert sum(map(len, splits.values())) == 400
    assert all(len(splits[s]) >= 2 for s in ('validation', 'test'))
    write(file, rows(401))
    again = load_math_problems(str(file), 'test')
    assert {p.problem for p in splits['test']} <= {p.problem for p in again}
    assert sum(len(load_math_problems(str(file), s)) for s in splits) == 401


def test_gsm8k_has_a_test_file_of_its_own(data, monkeypatch):
    monkeypatch.setitem(READY['gsm8k'].counts, 'gsm8k_train', 200)
    monkeypatch.setitem(READY['gsm8k'].counts, 'gsm8k_test', 3)
    write(data / 'files' / 'gsm8k_train.jsonl', rows(200))
    write(data / 'files' / 'gsm8k_test.jsonl', [{'question': f't{i}', 'answer': '#### 1'}
                                                for i in range(3)])
    tests = load_math_problems('gsm8k', 'test')
    assert [p.problem for p in tests] == ['t0', 't1', 't2']
    assert len(load_math_problems('gsm8k', 'train')) > 180
    assert all(p.problem.startswith('What') for p in load_math_problems('gsm8k', 'train'))


def test_other_names_are_refused():
    with pytest.raises(InputError, match="no dataset 'imo'.*aime2024"):
        load_math_problems('imo', 'test')
