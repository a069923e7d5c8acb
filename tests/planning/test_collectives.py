"""Collectives counted in compiled programs, loops included."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mrt_jax.planning.collectives import count_collectives
from mrt_jax.sharding.mesh import make_mesh

WIDTH = 64


@pytest.fixture(scope='module')
def split():
    """Both factors split by the contracted axis: every product is summed over the devices."""
    mesh = make_mesh(tensor=8)
    specs = PartitionSpec(None, 'tensor'), PartitionSpec('tensor', None), PartitionSpec()
    return tuple(NamedSharding(mesh, spec) for spec in specs)


def compile_text(function, split):
    *factors, whole = split
    x = jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32)
    return jax.jit(
        function, in_shardings=tuple(factors), out_shardings=whole
    ).lower(x, x).compile().as_text()


def loop_of(trips):
    """A sum at every turn; what the loop leaves split is gathered once behind it."""
    size = WIDTH * WIDTH * 4
    return {
        'all-reduce': {'count': trips, 'bytes': trips * size},
        'all-gather': {'count': 1, 'bytes': size},
    }


def test_one_product_is_summed_once(split):
    counted = count_collectives(compile_text(lambda x, w: x @ w, split))
    assert counted == {'all-reduce': {'count': 1, 'bytes': WIDTH * WIDTH * 4}}


@pytest.mark.parametrize('trips', [2, 5])
def test_loops_count_as_often_as_they_run(split, trips):
    def loop(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=trips)[0]

    assert count_collectives(compile_text(loop, split)) == loop_of(trips)


def test_loops_of_unknown_length_count_as_asked(split):
    def loop(x, w):
        return jax.lax.while_loop(lambda x: x.sum() < 10, lambda x: jnp.tanh(x @ w), x)

    counted = count_collectives(compile_text(loop, split), other_trips=7)
    expected = loop_of(7)
    # The condition sums the parts of a number that it looks at, in four bytes.
    expected['all-reduce'] = {'count': 14, 'bytes': expected['all-reduce']['bytes'] + 7 * 4}
    assert counted == expected


@pytest.mark.parametrize(('bound', 'turns'), [('%lt', 28), ('%both', 3)])
def test_a_counter_tells_the_turns_where_the_compiler_does_not(bound, turns):
    """As for TPU; a loop that ends on more than its counter has turns that nobody knows."""
    also = '' if bound == '%lt' else '  %both = pred[] and(%lt, %live)\n'
    program = f'''
%condition.1 (p.1: (s32[], f32[4])) -> pred[] {{
  %constant.7 = s32[]{{:T(128)}} constant(28)
  %p.1 = (s32[]{{:T(128)}}, f32[4]{{0}}) parameter(0)
  %counter = s32[]{{:T(128)}} get-tuple-element(%p.1), index=0
  %lt = pred[] compare(%counter, %constant.7), direction=LT
{also}}}

%body.1 (p.2: (s32[], f32[4])) -> (s32[], f32[4]) {{
  %p.2 = (s32[], f32[4]{{0}}) parameter(0)
  %sum = f32[4]{{0}} all-reduce(%x), to_apply=%add
}}

ENTRY %main.1 (p: f32[4]) -> f32[4] {{
  %loop = (s32[], f32[4]{{0}}) while(%start), condition=%condition.1, body=%body.1
}}
'''
    assert count_collectives(program, other_trips=3) == {
        'all-reduce': {'count': turns, 'bytes': turns * 16}
    }


def test_started_collectives_and_tuples_are_read():
    program = '''HloModule m

ENTRY %main.1 (p: bf16[8,4]) -> bf16[16,4] {
  %p = bf16[8,4]{1,0} parameter(0)
  %start = (bf16[8,4]{1,0}, bf16[16,4]{1,0}) all-gather-start(%p), dimensions={0}
  %both = (f32[4]{0}, pred[3]{0}) all-reduce(%a, %b), to_apply=%add
  ROOT %done = bf16[16,4]{1,0} all-gather-done(%start)
}
'''
    assert count_collectives(program) == {
        'all-gather': {'count': 1, 'bytes': 128}, 'all-reduce': {'count': 1, 'bytes': 19}
    }
    with pytest.raises(ValueError, match='no entry'):
        count_collectives('HloModule m')


def test_attributes_of_kernels_do_not_end_a_computation():
    """Splash attention writes its block sizes over several lines of the program."""
    program = '''HloModule m

ENTRY %main.1 (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  %kernel = f32[4]{0} custom-call(%p), frontend_attributes={kernel_metadata={
"xprof_metadata":"{block_q: 512}"
}}, metadata={op_name="attention"}
  ROOT %sum = f32[4]{0} all-reduce(%kernel), to_apply=%add
}

%other.1 (p.1: f32[8]) -> f32[8] {
  ROOT %sum.1 = f32[8]{0} all-reduce(%p.1), to_apply=%add
}'''
    assert count_collectives(program) == {'all-reduce': {'count': 1, 'bytes': 16}}


@pytest.mark.parametrize(('step', 'turns'), [(1, 8), (2, 4), (3, 3)])
def test_unrolled_loops_turn_as_often_as_their_counter_steps(step, turns):
    program = f'''
%condition.1 (p.1: (f32[4], u32[])) -> pred[] {{
  %constant.8 = u32[]{{:T(128)}} constant(8)
  %p.1 = (f32[4]{{0}}, u32[]{{:T(128)}}) parameter(0)
  %counter = u32[]{{:T(128)}} get-tuple-element(%p.1), index=1
  ROOT %lt = pred[] compare(%counter, %constant.8), direction=LT
}}

%body.1 (p.2: (f32[4], u32[])) -> (f32[4], u32[]) {{
  %constant.9 = u32[]{{:T(128)}} constant({step})
  %p.2 = (f32[4]{{0}}, u32[]{{:T(128)}}) parameter(0)
  %before = u32[]{{:T(128)}} get-tuple-element(%p.2), index=1
  %after = u32[]{{:T(128)}} add(%before, %constant.9)
  %sum = f32[4]{{0}} all-reduce(%x), to_apply=%add
  ROOT %tuple.1 = (f32[4]{{0}}, u32[]{{:T(128)}}) tuple(%sum, %after)
}}

ENTRY %main.1 (p: f32[4]) -> f32[4] {{
  %loop = (f32[4]{{0}}, u32[]) while(%start), condition=%condition.1, body=%body.1
}}
'''
    assert count_collectives(program) == {'all-reduce': {'count': turns, 'bytes': turns * 16}}
