"""What a run says when the machine gives out."""

import errno

import pytest

from mrt_jax.errors import ResourceError
from mrt_jax.training.resources import fitting_in_memory, keeping

FULL = OSError(errno.ENOSPC, 'No space left on device', 'W/file')


def unreadable():
    raise PermissionError(errno.EACCES, 'Permission denied', 'W/checkpoints')


@pytest.mark.parametrize(
    ('newest', 'said'),
    [
        (lambda: 3, 'goes on from the checkpoint of step 3 in W'),
        (lambda: 0, 'begins anew, for W has no checkpoint'),
        (unreadable, r'what is saved in W cannot be read either \(Permission denied\)'),
    ],
)
def test_a_full_disk_says_what_is_saved(newest, said):
    with pytest.raises(ResourceError, match=f'W/file: No space left on device: .*{said}'):
        with keeping('W', newest):
            raise FULL


def test_other_errors_pass():
    with pytest.raises(ConnectionResetError):
        with keeping('W', lambda: 3):
            raise ConnectionResetError(errno.ECONNRESET, 'reset')
    with pytest.raises(ZeroDivisionError):
        with fitting_in_memory('update', 'buy more'):
            raise ZeroDivisionError


def test_memory_that_runs_out_names_the_program():
    with pytest.raises(ResourceError, match='update: out of memory .*: buy more'):
        with fitting_in_memory('update', 'buy more'):
            raise MemoryError
