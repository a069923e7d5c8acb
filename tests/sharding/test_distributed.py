"""How processes join, as far as one can tell; tests/experiments/test_launch.py runs several."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from mrt_jax.errors import InputError
from mrt_jax.sharding.distributed import join_processes, leads, wait_for_all
from mrt_jax.sharding.host_data import ask_leader, divide_work, on_every_host, place
from mrt_jax.sharding.mesh import make_mesh
from mrt_jax.sharding.rules import batch_sharding


def test_one_process_is_as_if_there_were_no_others():
    join_processes(None, None, None)
    assert not jax.distributed.is_initialized()
    assert leads()
    wait_for_all('nobody')
    tree = {'rows': np.arange(8)}
    assert on_every_host(tree) is tree
    assert divide_work(lambda item: item * 2, range(3)) == [0, 2, 4]
    assert ask_leader(lambda: 'answer') == 'answer'
    placed = place(tree, batch_sharding(make_mesh(data=4)))['rows']
    assert len(placed.addressable_shards) == 4
    np.testing.assert_array_equal(placed, tree['rows'])


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (('host:1', None, None), 'go together'),
        ((None, 2, 0), 'go together'),
        (('host', 2, 0), 'HOST:PORT'),
        (('host:port', 2, 0), 'HOST:PORT'),
        (('host:1', 2, 2), 'process_id=2'),
        (('auto', 2, 0), 'leave them out'),
    ],
)
def test_faulty_arguments(arguments, said):
    with pytest.raises(InputError, match=said):
        join_processes(*arguments)
    assert not jax.distributed.is_initialized()


def test_no_cluster_to_detect():
    """In a process of its own: there is a backend in this one."""
    source = "from mrt_jax.sharding import distributed as d; d.join_processes('auto', None, None)"
    done = subprocess.run([sys.executable, '-c', source], text=True, capture_output=True)
    assert 'InputError: --coordinator=auto: JAX detects no cluster here' in done.stderr
