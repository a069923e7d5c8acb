"""Meshes that the devices make up, and proposals where they do not; eight virtual devices."""

import dataclasses

import jax
import numpy as np
import pytest

from mrt_jax.errors import InputError
from mrt_jax.sharding.mesh import AXES, arrange, make_mesh, validate_mesh
from mrt_jax.sharding.rules import SAMPLING_RULES, fill_rows, row_shards
from tests.tiny import tiny_config


def test_one_device_is_a_mesh():
    mesh = make_mesh()
    assert mesh.axis_names == AXES
    assert mesh.devices.tolist() == [[[[jax.devices()[0]]]]]


@pytest.mark.parametrize(
    ('sizes', 'shape'),
    [
        (dict(data=8), (8, 1, 1, 1)),
        (dict(data=-1), (8, 1, 1, 1)),
        (dict(fsdp=-1, tensor=2), (1, 4, 2, 1)),
        (dict(data=2, fsdp=2, tensor=2), (2, 2, 2, 1)),
        (dict(data=3), (3, 1, 1, 1)),
        (dict(sequence=-1, devices=jax.devices()[:4]), (1, 1, 1, 4)),
    ],
)
def test_sizes_of_the_axes(sizes, shape):
    assert make_mesh(**sizes).devices.shape == shape


@pytest.mark.parametrize(
    ('sizes', 'complaint', 'proposal'),
    [
        (dict(data=9), 'mesh data=9: needs 9 devices, there are 8', dict(data=8)),
        (dict(data=4, tensor=4), 'needs 16 devices', dict(data=2, tensor=4)),
        (dict(data=3, tensor=-1), 'groups of 3', dict(data=8)),
        (dict(data=-1, fsdp=-1), 'only one axis may be -1', dict(data=8)),
        (dict(tensor=0), 'tensor must be at least 1', dict(data=8)),
        (dict(data=-2, tensor=2), 'data must be at least 1', dict(data=4, tensor=2)),
        (dict(sequence=2, fsdp=8), 'needs 16', dict(fsdp=4, sequence=2)),
        (dict(data=2, devices=jax.devices()[:3]), 'there are 3', dict(data=3)),
    ],
)
def test_impossible_sizes_come_with_a_proposal_that_works(sizes, complaint, proposal):
    with pytest.raises(InputError) as error:
        make_mesh(**sizes)
    assert complaint in str(error.value)
    assert str(error.value).endswith(
        'for example ' + ','.join(f'{axis}={size}' for axis, size in proposal.items())
    )
    make_mesh(**proposal, devices=sizes.get('devices'))


@dataclasses.dataclass(frozen=True)
class Device:
    """One that is not here."""

    id: int
    slice_index: int = 0
    coords: tuple[int, ...] = ()
    core_on_chip: int = 0
    process_index: int = 0
    platform: str = 'gpu'
    device_kind: str = 'a GPU'


@pytest.mark.parametrize(
    ('shape', 'along_data', 'along_fsdp'),
    [((2, 4, 1, 1), 2, 1), ((4, 2, 1, 1), 2, 1), ((1, 8, 1, 1), 1, 2), ((1, 4, 2, 1), 1, 2)],
)
def test_slices_go_along_the_axes_that_tell_least(shape, along_data, along_fsdp):
    arranged = arrange([Device(index, slice_index=index // 4) for index in range(8)], shape)
    assert arranged.shape == shape and len({device.id for device in arranged.flat}) == 8
    slices = np.vectorize(lambda device: device.slice_index)(arranged)
    assert len(set(slices[:, 0, 0, 0])) == along_data
    assert len(set(slices[0, :, 0, 0])) == along_fsdp
    assert len(set(slices[0, 0].flat)) == 1


def test_slices_have_as_many_devices_each():
    with pytest.raises(InputError, match='6 devices of the mesh are 4 and 2 of 2 slices'):
        arrange([Device(index, slice_index=index // 4) for index in range(6)], (6, 1, 1, 1))


def test_axes_may_split_those_of_a_torus():
    """16 is no product of 4, 8 and 8."""
    places = np.ndindex(4, 8, 8)
    torus = [
        Device(index, coords=place, platform='tpu', device_kind='TPU v5')
        for index, place in enumerate(places)
    ]
    arranged = arrange(torus, (16, 16, 1, 1))
    assert len({device.id for device in arranged.flat}) == 256
    whole = arrange(torus, (8, 32, 1, 1))  # Each takes axes of its own, two or one.
    for row in whole[:, :, 0, 0]:
        assert sum(len({device.coords[axis] for device in row}) > 1 for axis in range(3)) == 2


@pytest.mark.parametrize(
    ('sizes', 'batch', 'complaint', 'proposal'),
    [
        (dict(tensor=8), {}, 'num_heads 4 is not a multiple of tensor 8', dict(data=4, tensor=2)),
        (dict(tensor=4), {}, 'num_kv_heads 2 is not a multiple', dict(data=2, tensor=2)),
        (dict(data=8), dict(rows=12), '12 rows are not a multiple of data x fsdp = 8',
         dict(data=4)),
        (dict(fsdp=8), dict(rows=12), '12 rows', dict(fsdp=4)),
        (dict(data=2, fsdp=2), dict(rows=2), '2 rows', dict(fsdp=2)),
        (dict(fsdp=3), {}, 'width 32 is not a multiple of fsdp 3', dict(data=3)),
        (dict(sequence=8), dict(rows=4, tokens=12), 'tokens of a row 12',
         dict(data=2, sequence=4)),
    ],
)
def test_meshes_that_do_not_divide_the_model_or_batch(sizes, batch, complaint, proposal):
    config = tiny_config()
    with pytest.raises(InputError) as error:
        validate_mesh(make_mesh(**sizes), config, **batch)
    assert complaint in str(error.value)
    assert str(error.value).endswith(
        'for example ' + ','.join(f'{axis}={size}' for axis, size in proposal.items())
    )
    validate_mesh(make_mesh(**proposal), config, **batch)


def test_meshes_that_divide():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    assert row_shards(mesh) == row_shards(mesh, SAMPLING_RULES) == 4
    assert [fill_rows(rows, mesh) for rows in (1, 4, 5)] == [4, 4, 8]
    longer = make_mesh(fsdp=2, sequence=2)
    assert (fill_rows(5, longer), fill_rows(5, longer, SAMPLING_RULES)) == (6, 8)
    validate_mesh(mesh, tiny_config(), rows=8, tokens=7)
