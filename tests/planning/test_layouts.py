"""What devices tell each other in a step's compiled programs: what their layout needs, no more.

Sizes are of one device. Every exchange is accounted for, so that an unexpected gather of parameters
in decoding, or of anything else, fails.
"""

import functools
from typing import Any

import jax
import pytest

from mrt_jax.models.transformer import Transformer, abstract_params
from mrt_jax.planning.collectives import Collective, list_collectives
from mrt_jax.planning.programs import Program, compile_step
from mrt_jax.sharding.mesh import make_mesh
from tests.planning.small_step import make_config
from tests.tiny import tiny_config

# Whole blocks of the sampler's on every device; small enough to compile in a second.
NETWORK = tiny_config(vocab_size=512)
CONFIG = make_config(prompts_per_step=8, microbatch_rows=8)
ROWS = CONFIG.prompts_per_step * CONFIG.group_size
STEPS = 1000  # How often a decoding loop is taken to run.
FLOAT = 4
SMALL = 128  # Bytes: counters, sums and flags, not a row of anything.


@functools.cache
def programs(**axes: int) -> dict[str, Program]:
    return {p.name: p for p in compile_step(CONFIG, NETWORK, make_mesh(**axes))}


def told(name: str, **axes: int) -> list[Collective]:
    """What a program's devices tell each other, but for single numbers such as the loss."""
    exchanges = list_collectives(programs(**axes)[name].compiled.as_text(), STEPS)
    return [one for one in exchanges if one.bytes > SMALL]


def total(collectives: list[Collective], kind: str) -> float:
    return sum(one.bytes * one.count for one in collectives if one.kind == kind)


def kinds(collectives: list[Collective]) -> set[str]:
    return {one.kind for one in collectives}


def size_of(*names: str) -> int:
    """Bytes of all parameters but the named ones."""
    params = abstract_params(Transformer(NETWORK))
    kept = {name: leaf for name, leaf in params.items() if name not in names}
    return FLOAT * sum(leaf.size for leaf in jax.tree.leaves(kept))


PARAMS, LAYERS = size_of(), size_of('embedding')  # The final norm is among the layers'.
EMBEDDING = PARAMS - LAYERS


@pytest.mark.parametrize('axes', [dict(data=8), dict(data=4, sequence=2)], ids=str)
@pytest.mark.parametrize('name', ['rollouts', 'prover'])
def test_devices_with_rows_of_their_own_decode_alone(name, axes):
    """All that they tell each other is whether a row still goes on."""
    exchanges = list_collectives(programs(**axes)[name].compiled.as_text(), STEPS)
    assert {(one.kind, one.bytes) for one in exchanges} == {('all-reduce', 1)}
    assert all(one.source.endswith('while/cond/reduce_or') for one in exchanges)


def test_devices_with_copies_of_the_parameters_sum_gradients_once_a_step():
    """However many microbatches a step has."""
    config = make_config(prompts_per_step=32, microbatch_rows=8)
    [update] = compile_step(config, NETWORK, make_mesh(data=8), names=['update'])
    exchanges = list_collectives(update.compiled.as_text(), STEPS)
    assert any(one.count == 4 for one in exchanges)  # Microbatches, and whether each is empty.
    large = [one for one in exchanges if one.bytes > SMALL]
    # With the gradients go the step's numbers.
    assert 0 <= total(large, 'all-reduce') - PARAMS < SMALL
    # The rows of a microbatch are shared out anew: each array of the batch, in two steps.
    rows = FLOAT * 4 * config.row_tokens
    rest = [one for one in large if one.kind != 'all-reduce']
    assert kinds(rest) <= {'all-to-all', 'collective-permute'}
    assert all(one.bytes == rows and one.count == 1 for one in rest)


def test_split_parameters_are_gathered_to_decode_once_and_to_train_once_each_way():
    """In the update and to read prompts layer by layer, for a decode loop all at once."""
    gathered = {'rollouts': LAYERS + PARAMS, 'prover': PARAMS, 'update': PARAMS + LAYERS}
    for name, expected in gathered.items():
        exchanges = list_collectives(programs(fsdp=8)[name].compiled.as_text(), STEPS)
        gathers = [one for one in exchanges if one.kind == 'all-gather']
        assert total(gathers, 'all-gather') == expected, name
        assert max(one.count for one in gathers) == (1 if name == 'prover' else 2), name
    summed = told('update', fsdp=8)
    assert kinds(summed) == {'all-gather', 'all-reduce'}
    # Of a tied embedding there are two, as table of the input and as output layer.
    assert 0 <= total(summed, 'all-reduce') - (PARAMS + EMBEDDING) < 2 * SMALL


@pytest.mark.parametrize('axes', [dict(data=4, tensor=2), dict(fsdp=4, tensor=2)], ids=str)
def test_split_matrices_are_summed_twice_a_layer_at_each_token(axes):
    rows = ROWS // 4
    lanes = {'rollouts': rows, 'prover': rows * (CONFIG.max_boundaries + 1) * CONFIG.branches}
    for name, rows_decoded in lanes.items():
        in_loop = [one for one in told(name, **axes) if one.count == STEPS]
        loops = 2 if name == 'rollouts' else 1  # Stages of a cache that grows.
        vector, block = FLOAT * NETWORK.width, FLOAT * 128
        # The table of tokens, the two sums of each layer, and a block of the vocabulary to draw
        # from; beside them the blocks' weights and single numbers.
        needed = rows_decoded * ((1 + 2 * NETWORK.num_layers) * vector + block) * loops * STEPS
        small = rows_decoded * FLOAT * 16 * loops * STEPS
        assert 0 <= total(in_loop, 'all-reduce') - needed <= small, name
        weights = rows_decoded * FLOAT * NETWORK.vocab_size // 128 * loops * STEPS
        assert total(in_loop, 'all-gather') in (0, weights), name
        assert kinds(in_loop) <= {'all-reduce', 'all-gather'}, name


def test_split_tokens_share_keys_and_values_alone():
    exchanges = told('update', data=4, sequence=2)
    rows, tokens = CONFIG.microbatch_rows // 4, CONFIG.row_tokens  # One microbatch.
    keys = FLOAT * rows * tokens * NETWORK.num_kv_heads * NETWORK.head_width
    assert kinds(exchanges) == {'all-gather', 'all-reduce'}
    # Positions and segments lie whole on the devices of a row.
    assert total(exchanges, 'all-gather') == 2 * NETWORK.num_layers * keys
    # Gradients among devices with other tokens and then among those with other rows, that of the
    # output layer among all at once.
    summed = total(exchanges, 'all-reduce') - 2 * NETWORK.num_layers * keys
    assert 0 <= summed - (2 * PARAMS + EMBEDDING) < 3 * SMALL


@pytest.mark.parametrize('axes', [dict(fsdp=8), dict(data=2, fsdp=2, tensor=2)], ids=str)
def test_the_optimiser_state_is_split_as_the_parameters_are(axes):
    update = programs(**axes)['update'].compiled
    for placed in (update.input_shardings[0][0], update.output_shardings[0]):
        lies = by_name(placed.params)
        moments = by_name(placed.opt_state)
        split = 0
        for name, sharding in lies.items():
            own = [moment for path, moment in moments.items() if path.endswith(name)]
            assert len(own) == 2 and all(moment == sharding for moment in own), name
            split += not sharding.is_fully_replicated
        assert split == len(lies)


def by_name(tree: Any) -> dict[str, jax.sharding.Sharding]:
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in paths}
