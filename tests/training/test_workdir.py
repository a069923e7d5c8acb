"""A workdir that cannot be written is found out at once."""

import pytest

from mrt_jax.errors import InputError
from mrt_jax.training.workdir import check_workdir


def test_makes_the_folder_and_leaves_nothing_in_it(tmp_path):
    folder = check_workdir(tmp_path / 'runs' / 'one')
    assert folder.is_dir() and not list(folder.iterdir())
    assert check_workdir(folder) == folder


def test_a_workdir_below_a_file_is_refused(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='file/run: cannot be written to'):
        check_workdir(tmp_path / 'file' / 'run')


def test_a_file_is_refused(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='file: cannot be written to'):
        check_workdir(tmp_path / 'file')


@pytest.mark.parametrize('folder', ['/proc', '/proc/run'])
def test_a_file_system_that_takes_no_files_is_refused(folder):
    with pytest.raises(InputError, match=f'{folder}: cannot be written to'):
        check_workdir(folder)
