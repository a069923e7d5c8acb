import pytest

from experiments.jsonl import finite_floats, read_lines, write_lines
from mrt_jax.errors import InputError

TEXT = (
    '{"b": 1.5, "a": [1, 2], "text": "日本\u2028x", "big": 123456789012345678901}\n'
    '\n'
    '{"half": "\\ud83d", "none": null}\n'
)


def test_fields_and_their_order_survive(tmp_path):
    source, copy = tmp_path / 'in.jsonl', tmp_path / 'out.jsonl'
    source.write_text(TEXT, encoding='utf-8')
    lines = read_lines(source)
    assert [line.where for line in lines] == [f'{source}, line 1', f'{source}, line 3']
    write_lines(copy, (line.fields for line in lines))
    assert copy.read_text(encoding='utf-8') == TEXT.replace('\n\n', '\n')


@pytest.mark.parametrize(
    'text, said',
    [
        (b'{"a": 1}\n{"a": \n', 'line 2: not JSON'),
        (b'[1, 2]\n', 'line 1: must hold a JSON object, not list'),
        (b'{"a": NaN}\n', 'line 1: not JSON: NaN'),
        (b'{"a": "\xff"}\n', 'not UTF-8 at byte 7'),
        (b'[' * 100_000, 'line 1: not JSON'),
    ],
)
def test_bad_lines_are_named(tmp_path, text, said):
    (tmp_path / 'in.jsonl').write_bytes(text)
    with pytest.raises(InputError, match=said):
        read_lines(tmp_path / 'in.jsonl')


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match='missing.jsonl: cannot be read: No such file'):
        read_lines(tmp_path / 'missing.jsonl')


def test_failed_writing_leaves_the_old_file(tmp_path):
    file = tmp_path / 'out.jsonl'
    file.write_text('old')

    def rows():
        yield {'a': 1}
        raise RuntimeError('interrupted')

    with pytest.raises(RuntimeError):
        write_lines(file, rows())
    assert [path.name for path in tmp_path.iterdir()] == ['out.jsonl']
    assert file.read_text() == 'old'
    with pytest.raises(InputError, match='cannot be written'):
        write_lines(file / 'below', [{}])


@pytest.mark.parametrize(
    'fields, said',
    [
        ('{}', "'tokens' is missing"),
        ('{"tokens": "1 2"}', 'must be a list of token ids'),
        ('{"tokens": [1, 2.0]}', 'must be a list of token ids'),
        ('{"tokens": [true]}', 'must be a list of token ids'),
        ('{"tokens": [0, 9, 10]}', "line 1: 'tokens' has the id 10, and the policy has ids 0 to 9"),
        ('{"tokens": [-1]}', 'has the id -1'),
    ],
)
def test_token_ids_are_checked(tmp_path, fields, said):
    (tmp_path / 'in.jsonl').write_text(fields)
    with pytest.raises(InputError, match=said):
        read_lines(tmp_path / 'in.jsonl')[0].token_ids('tokens', vocab_size=10)


def test_floats_must_be_finite():
    assert finite_floats([-1, -0.5], 'here') == [-1.0, -0.5]
    with pytest.raises(InputError, match='here: .* not finite'):
        finite_floats([float('nan')], 'here')
