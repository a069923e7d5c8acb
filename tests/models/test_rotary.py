"""Properties of rotary positions; their frequencies are compared with transformers' elsewhere."""

import jax.numpy as jnp
import numpy as np
import pytest

from mrt_jax.models.config import RopeScaling
from mrt_jax.models.rotary import rotary_frequencies, rotate, rotation
from tests.tiny import tiny_config

SCALINGS = {
    'plain': None,
    'linear': RopeScaling('linear', 4.0),
    'llama3': RopeScaling('llama3', 8.0, original_positions=64),
    'yarn': RopeScaling('yarn', 4.0, original_positions=64),
}


def config_with(name):
    return tiny_config(head_width=32, rope_scaling=SCALINGS[name])


@pytest.mark.parametrize('name', SCALINGS)
def test_scores_depend_on_distance_only(name):
    config = config_with(name)
    q, k = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)

    def score(query_position, key_position):
        turned = [
            rotate(jnp.asarray(x)[None, None, None], *rotation(config, jnp.array([[position]])))
            for x, position in ((q, query_position), (k, key_position))
        ]
        return float((turned[0] * turned[1]).sum())

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-3)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-3)


@pytest.mark.parametrize('name', SCALINGS)
def test_lengths_are_kept_up_to_the_factor(name):
    config = config_with(name)
    _, factor = rotary_frequencies(config)
    x_BHTC = np.random.default_rng(0).normal(size=(1, 2, 5, 32)).astype(np.float32)
    turned = rotate(jnp.asarray(x_BHTC), *rotation(config, jnp.arange(5)[None]))
    np.testing.assert_allclose(
        np.linalg.norm(turned, axis=-1), factor * np.linalg.norm(x_BHTC, axis=-1), rtol=1e-5
    )


def test_stretched_planes():
    """Fast planes stay, slow ones turn `factor` times slower, none lies outside."""
    plain, _ = rotary_frequencies(config_with('plain'))
    for name in ('llama3', 'yarn'):
        stretched, _ = rotary_frequencies(config_with(name))
        ratio = plain / stretched
        assert ratio[0] == pytest.approx(1)
        assert ratio[-1] == pytest.approx(SCALINGS[name].factor, rel=1e-5)
        assert (np.diff(ratio) >= -1e-5).all()
    linear, _ = rotary_frequencies(config_with('linear'))
    np.testing.assert_allclose(plain / linear, 4.0)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(kind='ntk', factor=2.0), "'ntk' is none of linear, llama3, yarn"),
        (dict(kind='linear', factor=0.0), 'factor above 0'),
        (dict(kind='yarn', factor=2.0), 'yarn needs original_positions'),
    ],
)
def test_impossible_scalings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RopeScaling(**settings)
