"""What the mesh in use is."""

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from mrt_jax.models.logical_axes import axis_in_use, on_one_cpu
from mrt_jax.sharding.mesh import make_mesh
from mrt_jax.sharding.rules import use_mesh


def test_without_a_mesh_programs_run_on_one_device():
    assert on_one_cpu()
    assert axis_in_use('rows') == 1


@pytest.mark.parametrize('data', [1, 2])
def test_several_cpu_devices_are_not_one(data):
    with use_mesh(make_mesh(data=data, devices=jax.devices()[:data])):
        assert on_one_cpu() == (data == 1)
        assert axis_in_use('rows') == data


def test_an_accelerator_is_no_cpu():
    device = AbstractDevice(device_kind='TPU v5', num_cores=1, platform='tpu')
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ('data',), abstract_device=device)):
        assert not on_one_cpu()
