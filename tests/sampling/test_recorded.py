"""Recorded traces: any batch, any order, ragged shapes; answers as scored from scratch."""

import dataclasses

import numpy as np
import pytest

from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.sampling.recorded import RecordedTrace, positions_needed, prove_recorded
from mrt_jax.sharding.mesh import make_mesh

BRANCHES, ANSWER = 2, 4


def _traces(count: int) -> list[RecordedTrace]:
    rng = np.random.default_rng(0)

    def tokens(low, high):
        return tuple(rng.integers(2, 13, rng.integers(low, high)).tolist())

    traces = []
    for index in range(count):
        trace = tokens(1, 90 if index % 4 == 0 else 30)
        boundaries = sorted(rng.integers(0, len(trace) + 1, index % 5).tolist())
        terminations = tuple(tokens(1, 4) for _ in boundaries)
        traces.append(RecordedTrace(tokens(1, 9), trace, tuple(boundaries), terminations))
    return traces


def _prove(tiny, terminals, traces, batch_size, **mesh):
    results = dict(
        prove_recorded(
            tiny.model, tiny.params, traces, branches=BRANCHES, max_answer_tokens=ANSWER,
            sampling=SamplingConfig(), terminals=terminals, seed=3, mesh=make_mesh(**mesh),
            batch_size=batch_size,
        )
    )  # fmt: skip
    assert sorted(results) == list(range(len(traces)))
    return [results[i] for i in range(len(traces))]


def _tokens(result):
    return [[answer.tokens for answer in boundary] for boundary in result]


@pytest.fixture(scope='module')
def traces():
    return _traces(13)


@pytest.fixture(scope='module')
def proved(tiny, terminals, traces):
    return _prove(tiny, terminals, traces, batch_size=4)


def test_answers_do_not_depend_on_batch_order_or_devices(tiny, terminals, traces, proved):
    shuffled = np.random.default_rng(1).permutation(len(traces))
    again = _prove(tiny, terminals, [traces[i] for i in shuffled], batch_size=3, data=2)
    for place, index in enumerate(shuffled):
        assert _tokens(again[place]) == _tokens(proved[index])


def test_logprobs_equal_scoring_from_scratch(tiny, traces, proved):
    sequences, answers = [], []
    for trace, boundaries in zip(traces, proved, strict=True):
        assert len(boundaries) == len(trace.boundaries)
        for offset, text, branches in zip(
            trace.boundaries, trace.terminations, boundaries, strict=True
        ):
            assert len(branches) == BRANCHES
            for answer in branches:
                assert answer.tokens[: len(text)] == text
                assert not any(answer.logprobs[: len(text)])
                assert len(text) < len(answer.tokens) <= len(text) + ANSWER
                prefix = [*trace.prompt_tokens, *trace.trace_tokens[:offset]]
                sequences.append([*prefix, *answer.tokens])
                answers.append((len(prefix), len(text), answer))
    logprobs_XTV = tiny.next_token_logprobs(sequences, 128)
    for index, (start, text, answer) in enumerate(answers):
        places = start - 1 + np.arange(text, len(answer.tokens))
        expected = logprobs_XTV[index, places, list(answer.tokens[text:])]
        np.testing.assert_allclose(answer.logprobs[text:], expected, rtol=1e-4, atol=1e-4)


def test_draws_tell_apart_answers_to_the_same_trace(tiny, terminals, traces, proved):
    again = _prove(tiny, terminals, [traces[3], dataclasses.replace(traces[3], draw=1)], 4)
    assert _tokens(again[0]) == _tokens(proved[3])
    assert _tokens(again[1]) != _tokens(proved[3])


def test_positions_needed():
    trace = RecordedTrace((1, 1), (2,) * 10, (0, 9), ((3,) * 4, (3,)))
    assert positions_needed(trace, max_answer_tokens=5) == 2 + 15
    assert positions_needed(trace, max_answer_tokens=1) == 2 + 11
    assert positions_needed(RecordedTrace((1,), (2,) * 10, (), ()), 5) == 11
