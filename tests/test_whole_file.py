"""A file is there when all of it has been written, and the one before it until then."""

import pytest

from mrt_jax.whole_file import whole_file


def test_a_file_takes_its_place_whole(tmp_path):
    path = tmp_path / 'table.csv'
    path.write_text('before')
    with whole_file(path) as stream:
        stream.write('bé')
        assert path.read_text() == 'before'
        stream.write('hind\n')
    assert path.read_text(encoding='utf-8') == 'béhind\n'
    assert [file.name for file in tmp_path.iterdir()] == ['table.csv']


def test_what_was_not_finished_replaces_nothing(tmp_path):
    path = tmp_path / 'table.csv'
    path.write_text('before')
    with pytest.raises(RuntimeError), whole_file(path) as stream:
        stream.write('half')
        raise RuntimeError
    assert path.read_text() == 'before'
