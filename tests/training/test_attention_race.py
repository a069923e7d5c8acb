"""Races of attention kernels: who wins by a clock of our own, who is out, and what is timed."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu import splash_attention

from configs import countdown
from mrt_jax.errors import ResourceError
from mrt_jax.models.transformer import Transformer
from mrt_jax.sharding.mesh import make_mesh
from mrt_jax.sharding.rules import use_mesh
from mrt_jax.training.attention_race import (
    RUNS,
    Attention,
    Programs,
    attention_of,
    kernels_in_race,
    make_programs,
    run_race,
)
from tests.tiny import GEMMA, tiny_config

SMALL = Attention(
    rows=2, tokens=256, heads=4, kv_heads=2, head_width=8, layers=((None, 2),), scale=0.3,
    cap=None, dtype='float32', parents=False,
)


class StandIn:
    """Programs that take what they are told to, by a clock that they move themselves.

    Attributes:
        now: seconds of the clock.
        runs: how often each kernel has run.
    """

    def __init__(self, costs, compiling=None, running=None):
        self.now, self.runs, self._costs = 0.0, dict.fromkeys(costs, 0), costs
        self._compiling, self._running = compiling or {}, running or {}

    def race(self, attention=SMALL):
        return run_race(
            [*self._costs], attention, make_mesh(), clock=lambda: self.now, programs=self._make
        )

    def _make(self, kernel, attention, window, mesh):
        del attention, mesh
        stand_in = self

        class Program:
            def lower(self):
                if kernel in stand_in._compiling:
                    raise stand_in._compiling[kernel]
                return self

            def compile(self):
                return functools.partial(stand_in._run, kernel, window)

        return Programs(draw=tuple, attend=Program())

    def _run(self, kernel, window):
        if kernel in self._running:
            raise self._running[kernel]
        self.runs[kernel] += 1
        cost = self._costs[kernel]
        cost = cost[window] if isinstance(cost, dict) else cost
        # The first run takes long, and so may later ones.
        self.now += 100 * cost if self.runs[kernel] % (RUNS + 1) == 1 else cost
        self.now += 0.5 * (self.runs[kernel] % 2)


@pytest.mark.parametrize(('costs', 'winner'), [
    ({'cudnn': 0.25, 'plain': 0.75}, 'cudnn'),
    ({'cudnn': 0.75, 'plain': 0.25}, 'plain'),
    ({'cudnn': 0.25, 'plain': 0.25}, 'cudnn'),
])
def test_the_fastest_by_the_clock_wins(costs, winner):
    stand_in = StandIn(costs)
    race = stand_in.race()
    assert race.seconds == {kernel: 2 * cost for kernel, cost in costs.items()}
    assert race.winner == winner and not race.failed
    assert set(stand_in.runs.values()) == {1 + RUNS}


def test_each_window_counts_as_often_as_it_has_layers():
    attention = dataclasses.replace(SMALL, layers=((8, 5), (None, 1)))
    race = StandIn({'splash': {8: 0.125, None: 1.0}, 'plain': 0.25}).race(attention)
    assert race.seconds == {'splash': 5 * 0.125 + 1.0, 'plain': 6 * 0.25}


@pytest.mark.parametrize('where', ['compiling', 'running'])
def test_a_kernel_that_fails_is_out(where):
    error = NotImplementedError('Q must be fp16,\n  got float32')
    race = StandIn({'cudnn': 0.25, 'plain': 0.75}, **{where: {'cudnn': error}}).race()
    assert race.winner == 'plain' and race.seconds.keys() == {'plain'}
    assert race.failed == {'cudnn': 'NotImplementedError: Q must be fp16, got float32'}


@pytest.mark.parametrize('where', ['compiling', 'running'])
def test_plain_must_not_fail(where):
    failing = jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: no 2 GiB left')
    with pytest.raises(ResourceError, match="attention='plain': out of memory .* microbatch_rows"):
        StandIn({'cudnn': 1.0, 'plain': 1.0}, **{where: {'plain': failing}}).race()
    with pytest.raises(ValueError, match='of ours'):
        StandIn({'plain': 1.0}, **{where: {'plain': ValueError('a mistake of ours')}}).race()


@pytest.fixture
def anywhere(monkeypatch):
    """The kernels of other backends, interpreted, or as XLA computes the same."""
    make = functools.partial(splash_attention.make_splash_mha, interpret=True)
    monkeypatch.setattr(splash_attention, 'make_splash_mha', make)
    compute = jax.nn.dot_product_attention
    monkeypatch.setattr(
        jax.nn, 'dot_product_attention',
        lambda *arrays, **options: compute(*arrays, **{**options, 'implementation': 'xla'}),
    )


@pytest.mark.parametrize(('kernel', 'changes', 'window', 'axes'), [
    ('splash', {'cap': 2.0}, 37, dict(fsdp=2, tensor=2, sequence=2)),
    ('cudnn', {}, None, dict(data=2, tensor=2)),
    ('cudnn', {'parents': True}, 100, {}),
])
def test_all_kernels_are_timed_at_the_same(kernel, changes, window, axes, anywhere):
    attention = dataclasses.replace(SMALL, **changes)
    mesh = make_mesh(**axes)
    with use_mesh(mesh):
        ours, plain = (make_programs(name, attention, window, mesh) for name in (kernel, 'plain'))
        operands, expected = ours.draw(), plain.draw()
        rows = attention.rows // mesh.shape['data'] // mesh.shape['fsdp']
        heads, tokens = 4 // mesh.shape['tensor'], 256 // mesh.shape['sequence']
        assert operands[0].sharding.shard_shape(operands[0].shape) == (rows, heads, tokens, 8)
        results, expected = ours.attend(*operands), plain.attend(*expected)
    for result, other in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, other, atol=2e-4)
        assert np.abs(other).max() > 0.1
    segments_XT = np.asarray(operands[3][0])
    np.testing.assert_array_equal(np.unique(segments_XT), [0, 1, 2, 3])


def test_a_race_of_real_programs(anywhere):
    race = run_race(('splash', 'plain'), SMALL, make_mesh())
    assert race.seconds.keys() == {'splash', 'plain'} and not race.failed
    assert min(race.seconds.values()) > 0


def test_what_a_config_attends_to():
    config = countdown.get_config('mrt')
    config.update(microbatch_rows=4, row_tokens=384, share_prompts=True, compute_dtype='bfloat16')
    attention = attention_of(config, Transformer(tiny_config(**GEMMA), dtype='bfloat16'))
    assert (attention.rows, attention.tokens, attention.dtype) == (4, 384, 'bfloat16')
    assert attention.layers == ((5, 2), (None, 1)) and attention.parents
    assert (attention.scale, attention.cap) == (5**-0.5, 0.7)
    tuned = attention_of(countdown.get_config('sft'), Transformer(tiny_config()))
    assert tuned.layers == ((None, 2),)


@pytest.mark.parametrize(('platform', 'changes', 'axes', 'kernels'), [
    ('cpu', {}, {}, ('plain',)),
    ('gpu', {}, {}, ('cudnn', 'plain')),
    ('gpu', {'tokens': 200}, {}, ('plain',)),
    ('gpu', {'dtype': 'float32'}, {}, ('plain',)),
    ('gpu', {}, {'sequence': 2}, ('plain',)),
    ('gpu', {'parents': True}, {}, ('cudnn', 'plain')),
    ('tpu', {}, {'sequence': 2}, ('splash', 'plain')),
    ('tpu', {}, {'sequence': 4}, ('plain',)),
    ('tpu', {}, {'data': 4}, ('plain',)),
    ('tpu', {'parents': True}, {}, ('plain',)),
])
def test_kernels_that_fit_are_in_the_race(platform, changes, axes, kernels):
    attention = dataclasses.replace(SMALL, **{'dtype': 'bfloat16', **changes})
    assert kernels_in_race(platform, tiny_config(), attention, make_mesh(**axes)) == kernels
