import dataclasses
import json

import pytest

from mrt_jax.errors import InputError
from mrt_jax.evaluation.traces import (
    anytime_tokens,
    by_problem,
    read_traces,
    stack_curves,
    write_traces,
)
from tests.evaluation.synthetic import make_record, make_records


def test_tokens_are_the_sum_of_what_an_answer_costs():
    assert anytime_tokens(20, [0, 10, 25], [3, 3, 4], [6.5, 5.0, 5.25]) == (29.5, 38.0, 54.25)


def test_a_later_answer_never_costs_less():
    spent = anytime_tokens(20, [0, 1, 2, 30], [3] * 4, [20.0, 5.0, 5.0, 5.0])
    assert spent == (43.0, 44.0, 45.0, 58.0)


def test_records_survive_a_file(tmp_path):
    records = {'a': make_records(3, 2), 'é "b"': [make_record(extracted=None, finish_tokens=None)]}
    write_traces(tmp_path / 'traces.jsonl', records)
    assert read_traces(tmp_path / 'traces.jsonl') == records
    assert [path.name for path in tmp_path.iterdir()] == ['traces.jsonl']


def test_lines_hold_what_the_commands_read(tmp_path):
    record = make_record(success=(0.25, 0.5, 1.0))
    write_traces(tmp_path / 'traces.jsonl', {'mrt': [record]})
    line = json.loads((tmp_path / 'traces.jsonl').read_text('utf-8'))
    assert line['policy'] == 'mrt'
    assert line['problem'] == 'p0' and line['correct'] is True
    assert line['tokens'] == [10.0, 20.0, 30.0] and line['success'] == [0.25, 0.5, 1.0]
    assert line['finish_tokens'] == 34
    assert line['response'].startswith(''.join(line['episodes']))
    assert line['answer'] == {'numbers': [1, 2], 'target': 3}


def test_files_of_earlier_versions_are_read(tmp_path):
    record = make_record()
    write_traces(tmp_path / 'traces.jsonl', {'a': [record]})
    line = json.loads((tmp_path / 'traces.jsonl').read_text('utf-8'))
    costs = ('sampled_tokens', 'prover_tokens', 'flops', 'prover_flops', 'prover_flops_plain')
    for name in ('branch_answers', 'branch_correct', *costs):
        del line[name]
    (tmp_path / 'older.jsonl').write_text(json.dumps(line) + '\n')
    expected = dataclasses.replace(
        record, branch_answers=(), branch_correct=(), **dict.fromkeys(costs)
    )
    assert read_traces(tmp_path / 'older.jsonl') == {'a': [expected]}


@pytest.mark.parametrize('text', ['{"policy": "a"}', '[]', 'no json'])
def test_errors_name_the_line(tmp_path, text):
    write_traces(tmp_path / 'traces.jsonl', {'a': make_records(1, 2)})
    with (tmp_path / 'traces.jsonl').open('a') as file:
        file.write(text + '\n')
    with pytest.raises(InputError, match='traces.jsonl, line 3'):
        read_traces(tmp_path / 'traces.jsonl')


def test_curves_must_fit_the_episodes():
    with pytest.raises(ValueError, match='2 boundaries'):
        make_record(success_stderr=(0.0,))
    with pytest.raises(ValueError, match='branch_correct of problem .* has 1 entries'):
        make_record(branch_correct=((True,),))
    with pytest.raises(ValueError, match='do not increase'):
        make_record(tokens=(10.0, 10.0))


def test_grouping_sorts_samples_and_keeps_problems_in_order():
    records = [make_record('b', 1), make_record('a', 0), make_record('b', 0), make_record('a', 1)]
    groups = by_problem(records)
    assert list(groups) == ['b', 'a']
    assert [record.sample for record in groups['b']] == [0, 1]


def test_curves_are_padded_behind_their_end():
    tokens_BE, success_BE, mask_BE = stack_curves([make_record(), make_record(success=(0.5,))])
    assert mask_BE.tolist() == [[True, True], [True, False]]
    assert tokens_BE.tolist() == [[10, 20], [10, 0]]
    assert success_BE.tolist() == [[0, 1], [0.5, 0]]
