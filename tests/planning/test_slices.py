"""Slices of several sizes and sizes that fit, on devices here in place of those of a topology."""

import dataclasses
import json

import jax
import pytest

from configs import countdown
from mrt_jax.errors import InputError
from mrt_jax.planning import chips, propose, slices
from mrt_jax.planning.programs import DoesNotFitError
from mrt_jax.planning.scaling import efficiency, on_larger_mesh, plan_slices, scaling_table
from mrt_jax.sharding.mesh import make_mesh
from tests.tiny import tiny_config

UPDATE = ('update',)


@pytest.fixture(autouse=True)
def devices_here(monkeypatch):
    def mesh(topology, axes):
        return make_mesh(**axes, devices=jax.devices()[: chips.chips_of(topology)])

    monkeypatch.setattr(slices, 'topology_mesh', mesh)
    monkeypatch.setattr(propose, 'topology_mesh', mesh)


def on_mesh():
    config = countdown.get_config('mrt')
    config.update(
        attention='plain', prompts_per_step=2, group_size=2, max_prompt_tokens=16,
        max_thinking_tokens=24, max_answer_tokens=8, row_tokens=128, microbatch_rows=2,
    )
    config.mesh.fsdp = 2
    return config


def test_batches_grow_with_the_devices_or_stay():
    config = on_mesh()
    weak = on_larger_mesh(config, 8, weak=True)
    assert dict(weak.mesh) == dict(data=4, fsdp=2, tensor=1, sequence=1)
    assert (weak.prompts_per_step, weak.microbatch_rows) == (8, 8)
    strong = on_larger_mesh(config, 8, weak=False)
    assert dict(strong.mesh) == dict(weak.mesh) and config.mesh.data == 1
    assert (strong.prompts_per_step, strong.microbatch_rows) == (2, 4)
    with pytest.raises(InputError, match='3 devices are no multiple of the 2'):
        on_larger_mesh(config, 3, weak=True)


def test_a_table_shows_what_each_device_does_on_each_slice():
    saved = []
    planned = plan_slices(
        on_mesh(), tiny_config(), ['v5e:1x2', 'v5e:2x2', 'v5e:2x4'], names=UPDATE, weak=False,
        save=lambda slices: saved.append(json.loads(json.dumps(slices))),
    )
    assert saved[-1] == json.loads(json.dumps(planned)) and [*map(len, saved)] == [1, 2, 3]
    two, four, refused = planned
    assert (two['devices'], four['devices'], two['rows'], four['rows']) == (2, 4, 4, 4)
    # A batch that stays is divided further; one device in two does half.
    assert four['programs']['update']['flops'] == two['programs']['update']['flops'] / 2
    assert 'not a multiple of data x fsdp x sequence = 8' in refused['refused']
    lines = scaling_table(planned).splitlines()
    assert len(lines) == 5 and {line.count('|') for line in lines} == {13}
    assert efficiency(two, two, 'update') == 1 > efficiency(two, four, 'update') > 0.4


def test_weak_scaling_leaves_each_device_its_work():
    two, four = plan_slices(on_mesh(), tiny_config(), ['v5e:1x2', 'v5e:2x2'], names=UPDATE)
    assert (two['rows'], four['rows']) == (4, 8)
    assert four['programs']['update']['flops'] == two['programs']['update']['flops']
    told = [sum(kind['bytes'] for kind in one['programs']['update']['collectives'].values())
            for one in (two, four)]
    assert told[1] > told[0] > 0


def test_the_largest_batch_and_context_are_proposed(monkeypatch):
    config = on_mesh()
    planned = slices.plan_slice(config, tiny_config(), 'v5e:1x2', names=('rollouts',))
    held = planned['programs']['rollouts']['held_bytes']
    small = dataclasses.replace(chips.CHIPS['v5e'], memory_bytes=int(held * 1.1))
    monkeypatch.setattr(chips, 'CHIPS', {'v5e': small})
    monkeypatch.setattr(propose, 'LARGEST_BATCH', 4)
    batch, context = propose.propose(
        config, tiny_config(), 'v5e:1x2', names=('rollouts',), planned=planned
    )
    assert batch['key'] == 'prompts_per_step' and context['key'] == 'max_thinking_tokens'
    assert 2 <= batch['fits'] < 8
    for proposal in (batch, context):
        sizes = proposal['held_bytes']
        assert proposal['fits'] is None or sizes[proposal['fits']] <= small.memory_bytes
        beyond = proposal['too_much']
        assert beyond is None or sizes[beyond] > small.memory_bytes
        text = propose.render_proposal(proposal)
        assert f'{proposal["start"]} there' in text and 'GiB' in text


def test_a_compiler_without_room_counts_as_too_much(monkeypatch):
    def fail(config, *arguments):
        raise DoesNotFitError('no room')

    monkeypatch.setattr(propose, 'compile_step', fail)
    batch, _ = propose.propose(on_mesh(), tiny_config(), 'v5e:1x2')
    assert batch['fits'] is None and {*batch['held_bytes'].values()} == {None}
    assert 'no room' in propose.render_proposal(batch)
