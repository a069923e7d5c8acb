"""Processors and the inverse distribution function against NumPy references."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt_jax.sampling.processors import SamplingConfig, process_logits, sample_tokens
from mrt_jax.sampling.row_keys import draw_uniforms, keys_of_contents, split_by_row

_SPEC = importlib.util.spec_from_file_location(
    'reference_processors', Path(__file__).with_name('reference_processors.py')
)
reference = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(reference)

CONFIGS = [
    SamplingConfig(),
    SamplingConfig(temperature=0.6),
    SamplingConfig(top_k=1),
    SamplingConfig(top_k=7),
    SamplingConfig(top_k=10_000),
    SamplingConfig(top_p=0.9),
    SamplingConfig(top_p=1e-6),
    SamplingConfig(min_p=0.1),
    SamplingConfig(min_p=1.0),
    SamplingConfig(temperature=1.7, top_k=40, top_p=0.8, min_p=0.05),
]

_process = jax.jit(process_logits, static_argnums=1)
_sample = jax.jit(sample_tokens, static_argnums=2)


def _logits(rows: int, vocab: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(0, 3, (rows, vocab)), jnp.float32)


@pytest.mark.parametrize('config', CONFIGS, ids=str)
def test_processors_equal_the_reference(config):
    logits_BV = _logits(16, 301)
    probs_BV = jax.nn.softmax(_process(logits_BV, config), axis=-1)
    for logits_V, probs_V in zip(np.asarray(logits_BV), probs_BV, strict=True):
        expected = reference.processed_probabilities(
            logits_V, config.temperature, config.top_k, config.top_p, config.min_p
        )
        np.testing.assert_array_equal(np.asarray(probs_V) > 0, expected > 0)
        np.testing.assert_allclose(probs_V, expected, rtol=2e-5, atol=1e-8)


def test_ties_at_the_cut_are_all_kept():
    logits_BV = jnp.asarray([[2.0, 1.0, 1.0, 0.0], [0.0, -1.0, -1.0, -1.0]])
    kept_BV = jnp.isfinite(process_logits(logits_BV, SamplingConfig(top_k=2)))
    np.testing.assert_array_equal(kept_BV, [[1, 1, 1, 0], [1, 1, 1, 1]])


@pytest.mark.parametrize('config', CONFIGS, ids=str)
def test_tokens_equal_the_reference(config):
    logits_BV = _logits(64, 301, seed=1)
    uniforms_B = np.random.default_rng(2).uniform(0, 1, 64).astype(np.float32)
    tokens_B, logprobs_B = _sample(logits_BV, jnp.asarray(uniforms_B), config)
    for row, logits_V in enumerate(np.asarray(logits_BV, np.float64)):
        probs_V = reference.processed_probabilities(
            logits_V, config.temperature, config.top_k, config.top_p, config.min_p
        )
        token = int(tokens_B[row])
        edges = np.concatenate([[0.0], np.cumsum(probs_V)])
        assert probs_V[token] > 0
        assert edges[token] - 1e-5 <= uniforms_B[row] <= edges[token + 1] + 1e-5
        expected = np.log(reference.softmax(logits_V)[token])
        np.testing.assert_allclose(logprobs_B[row], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('temperature', [0.6, 1.0, 1.7])
def test_training_scores_what_is_sampled_from(temperature):
    logits_BV = _logits(64, 301, seed=1)
    config = SamplingConfig(temperature=temperature).for_training()
    tokens_B, logprobs_B = _sample(logits_BV, jnp.linspace(0, 0.999, 64), config)
    expected_BV = jax.nn.log_softmax(logits_BV / temperature)
    np.testing.assert_allclose(
        logprobs_B, expected_BV[jnp.arange(64), tokens_B], rtol=1e-5, atol=1e-5
    )
    assert SamplingConfig(temperature=0).for_training().scored_at == 1


def test_temperature_zero_takes_the_most_likely_token():
    logits_BV = _logits(32, 50)
    tokens_B, logprobs_B = sample_tokens(logits_BV, jnp.zeros(32), SamplingConfig(temperature=0))
    np.testing.assert_array_equal(tokens_B, np.argmax(logits_BV, axis=-1))
    np.testing.assert_allclose(
        logprobs_B, jax.nn.log_softmax(logits_BV, axis=-1).max(axis=-1), rtol=1e-5, atol=1e-6
    )


@settings(max_examples=60, deadline=None)
@given(
    uniforms=st.lists(st.sampled_from([0.0, 0.5, 1 - 2**-24]), min_size=4, max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
def test_masked_tokens_are_never_drawn(uniforms, seed):
    rng = np.random.default_rng(seed)
    logits_BV = rng.normal(0, 5, (4, 300)).astype(np.float32)
    logits_BV[rng.uniform(size=logits_BV.shape) < 0.9] = -np.inf
    logits_BV[:, rng.integers(300)] = 0.0
    tokens_B, _ = _sample(
        jnp.asarray(logits_BV), jnp.asarray(uniforms, jnp.float32), SamplingConfig()
    )
    assert np.isfinite(logits_BV[np.arange(4), np.asarray(tokens_B)]).all()


def test_frequencies_follow_the_distribution():
    logits_V = _logits(1, 200, seed=3)[0] / 2
    draws = 40_000
    uniforms_B = draw_uniforms(split_by_row(jax.random.key(0), 100), draws // 100).ravel()
    tokens_B, _ = _sample(jnp.broadcast_to(logits_V, (draws, 200)), uniforms_B, SamplingConfig())
    probs_V = reference.softmax(np.asarray(logits_V, np.float64))
    counts_V = np.bincount(tokens_B, minlength=200)
    deviations_V = (counts_V - draws * probs_V) / np.sqrt(draws * probs_V * (1 - probs_V))
    assert np.abs(deviations_V).max() < 4.5
    assert abs(np.mean(deviations_V**2) - 1) < 4 * np.sqrt(2 / 200)


@pytest.mark.parametrize(
    'bad',
    [{'temperature': -1.0}, {'temperature': float('nan')}, {'top_k': -1}, {'top_p': 0.0},
     {'top_p': 1.1}, {'min_p': -0.1}, {'min_p': 1.5}],
)  # fmt: skip
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        SamplingConfig(**bad)


def test_uniforms_depend_on_the_row_and_the_step_only():
    keys_B = split_by_row(jax.random.key(7), 8)
    uniforms_BT = draw_uniforms(keys_B, 16)
    np.testing.assert_array_equal(draw_uniforms(keys_B[2:5], 9), uniforms_BT[2:5, :9])
    assert len(np.unique(uniforms_BT)) == 8 * 16


def test_keys_of_contents_follow_the_content():
    one, two = keys_of_contents(0, [[1, 2, 3], [4]]), keys_of_contents(0, [[4], [1, 2, 3], []])
    data_one, data_two = jax.random.key_data(one), jax.random.key_data(two)
    np.testing.assert_array_equal(data_one[0], data_two[1])
    np.testing.assert_array_equal(data_one[1], data_two[0])
    other_seed = jax.random.key_data(keys_of_contents(1, [[4]]))
    other_draw = jax.random.key_data(keys_of_contents(0, [[4]], draw=1))
    assert (other_seed[0] != data_two[0]).any() and (other_draw[0] != data_two[0]).any()
