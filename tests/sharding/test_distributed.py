"""How processes join, as far as one can tell; tests/experiments/test_launch.py runs several."""

import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from mrt_jax.errors import InputError
from mrt_jax.sharding.distributed import join_processes, leads, wait_for_all
from mrt_jax.sharding.host_data import (
    ask_leader,
    divide_work,
    from_every_process,
    on_every_host,
    place,
)
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
    assert from_every_process('own') == ['own']
    placed = place(tree, batch_sharding(make_mesh(data=4)))['rows']
    assert len(placed.addressable_shards) == 4
    np.testing.assert_array_equal(placed, tree['rows'])


def test_work_that_waits_is_done_side_by_side_and_in_order():
    together = threading.Barrier(3)

    def wait(item):
        together.wait(60)  # Until three are at it; a single one would wait for ever.
        return item * 2

    assert divide_work(wait, range(6), at_once=3) == [0, 2, 4, 6, 8, 10]
    assert divide_work(wait, [], at_once=3) == []

    def fail(item):
        if item:
            raise ValueError(f'item {item}')

    with pytest.raises(ValueError, match='item 1'):
        divide_work(fail, range(4), at_once=3)


def test_work_that_does_not_wait_is_done_in_the_thread_that_asks():
    assert divide_work(lambda item: threading.get_ident(), range(3)) == [threading.get_ident()] * 3


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
