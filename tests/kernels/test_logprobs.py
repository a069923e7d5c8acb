"""Log-probabilities in windows against those of all logits at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt_jax.kernels.logprobs import token_logprobs

ROWS, COLUMNS, WIDTH, VOCABULARY = 3, 10, 8, 50


def naive(hidden_BTD, unembedding_DV, targets_BT, cap=None, temperature=1.0):
    logits_BTV = hidden_BTD.astype(jnp.float32) @ unembedding_DV.astype(jnp.float32)
    if cap is not None:
        logits_BTV = cap * jnp.tanh(logits_BTV / cap)
    normalised_BTV = jax.nn.log_softmax(logits_BTV / temperature)
    picked_BT1 = jnp.take_along_axis(normalised_BTV, targets_BT[..., None], axis=-1)
    return picked_BT1[..., 0], -(jnp.exp(normalised_BTV) * normalised_BTV).sum(-1)


@pytest.fixture(scope='module')
def arrays():
    keys = jax.random.split(jax.random.key(0), 3)
    return (
        3 * jax.random.normal(keys[0], (ROWS, COLUMNS, WIDTH)),
        jax.random.normal(keys[1], (WIDTH, VOCABULARY)),
        jax.random.randint(keys[2], (ROWS, COLUMNS), 0, VOCABULARY),
    )


def weighted_sum(function, targets_BT, **options):
    """(hidden states, output layer) to a weighted sum and the log-probabilities, and gradients."""

    def weighted(hidden_BTD, unembedding_DV):
        logprobs_BT, entropies_BT = function(hidden_BTD, unembedding_DV, targets_BT, **options)
        weights_BT = jnp.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) / 10
        return (weights_BT * (logprobs_BT - 0.3 * entropies_BT)).sum(), logprobs_BT

    return jax.jit(jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True))


# Windows of less than a column, of some columns (dividing 10 or not), of all and of more.
@pytest.mark.parametrize('cap', [None, 5.0])
@pytest.mark.parametrize('chunk', [1, 6, 9, 30, 1024])
def test_values_and_gradients_are_those_of_full_logits(arrays, chunk, cap):
    hidden_BTD, unembedding_DV, targets_BT = arrays
    how = dict(cap=cap, temperature=0.7 if chunk == 9 else 1.0)

    ours, theirs = (
        weighted_sum(token_logprobs, targets_BT, chunk=chunk, **how),
        weighted_sum(naive, targets_BT, **how),
    )
    found, expected = ours(hidden_BTD, unembedding_DV), theirs(hidden_BTD, unembedding_DV)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(scale, 1))


@pytest.mark.parametrize('temperature', [0.6, 1.0, 1.5])
def test_what_is_sampled_at_a_temperature_has_a_score_of_mean_zero(arrays, temperature):
    """So an advantage that all tokens share moves nothing, see `SamplingConfig.for_training`."""
    hidden_D, unembedding_DV = arrays[0][0, 0], arrays[1]
    probabilities_V = jax.nn.softmax(hidden_D @ unembedding_DV / temperature)

    def mean_logprob(unembedding_DV, scored_at):
        logprobs_1V, _ = token_logprobs(
            jnp.broadcast_to(hidden_D, (1, VOCABULARY, WIDTH)), unembedding_DV,
            jnp.arange(VOCABULARY)[None], temperature=scored_at,
        )
        return (probabilities_V * logprobs_1V[0]).sum()

    score_DV = jax.grad(mean_logprob)(unembedding_DV, temperature)
    np.testing.assert_allclose(score_DV, 0, atol=1e-6)
    if temperature != 1:
        assert np.abs(jax.grad(mean_logprob)(unembedding_DV, 1.0)).max() > 1e-4


@pytest.mark.parametrize('vocabulary', [50, 50257, 151936])
def test_values_in_float64(vocabulary):
    """Also where sums have many terms, in numbers that split into parts or do not."""
    keys = jax.random.split(jax.random.key(1), 3)
    hidden_BTD = 3 * jax.random.normal(keys[0], (2, 6, WIDTH))
    unembedding_DV = jax.random.normal(keys[1], (WIDTH, vocabulary)) / 3
    targets_BT = jax.random.randint(keys[2], (2, 6), 0, vocabulary)
    logprobs_BT, entropies_BT = token_logprobs(hidden_BTD, unembedding_DV, targets_BT, chunk=6)
    logits_BTV = np.float64(hidden_BTD) @ np.float64(unembedding_DV)
    normalised_BTV = logits_BTV - np.logaddexp.reduce(logits_BTV, axis=-1, keepdims=True)
    expected_BT = np.take_along_axis(normalised_BTV, np.asarray(targets_BT)[..., None], -1)[..., 0]
    np.testing.assert_allclose(logprobs_BT, expected_BT, atol=1e-5)
    expected_BT = -(np.exp(normalised_BTV) * normalised_BTV).sum(-1)
    np.testing.assert_allclose(entropies_BT, expected_BT, atol=1e-5)


def test_bfloat16_states_are_normalised_in_float32(arrays):
    hidden_BTD, unembedding_DV, targets_BT = arrays
    hidden_BTD = hidden_BTD.astype(jnp.bfloat16)
    logprobs_BT, entropies_BT = token_logprobs(hidden_BTD, unembedding_DV, targets_BT, chunk=6)
    assert logprobs_BT.dtype == entropies_BT.dtype == jnp.float32
    rounded_DV = unembedding_DV.astype(jnp.bfloat16)
    expected = naive(hidden_BTD, rounded_DV, targets_BT)
    np.testing.assert_allclose(logprobs_BT, expected[0], atol=1e-4)
    np.testing.assert_allclose(entropies_BT, expected[1], atol=1e-4)

    def gradient(function):
        return jax.grad(lambda *x: function(*x, targets_BT)[0].sum(), argnums=(0, 1))

    found = gradient(token_logprobs)(hidden_BTD, unembedding_DV)
    assert found[0].dtype == jnp.bfloat16 and found[1].dtype == jnp.float32
    exact = gradient(naive)(hidden_BTD.astype(jnp.float32), rounded_DV.astype(jnp.float32))
    for ours, theirs in zip(found, exact, strict=True):
        np.testing.assert_allclose(
            ours.astype(np.float32), theirs, rtol=0, atol=0.02 * np.abs(theirs).max()
        )


@pytest.mark.parametrize('cap', [None, 5.0])
def test_rounded_products_are_those_of_rounded_numbers(arrays, cap):
    """Values to the last digits; gradients, whose operands are rounded as well, nearly."""
    hidden_BTD, unembedding_DV, targets_BT = arrays

    (_, ours), of_ours = weighted_sum(
        token_logprobs, targets_BT, chunk=6, cap=cap, product_dtype='bfloat16'
    )(hidden_BTD, unembedding_DV)
    rounded = [jax.lax.reduce_precision(x, 8, 7) for x in (hidden_BTD, unembedding_DV)]
    (_, theirs), of_theirs = weighted_sum(naive, targets_BT, cap=cap)(*rounded)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    for own, other in zip(of_ours, of_theirs, strict=True):
        assert own.dtype == jnp.float32
        np.testing.assert_allclose(own, other, rtol=0, atol=0.01 * np.abs(other).max())


def test_rows_without_tokens_are_no_error(arrays):
    shape = (ROWS, 0)
    scored = token_logprobs(jnp.zeros((*shape, WIDTH)), arrays[1], jnp.zeros(shape, jnp.int32))
    assert [x.shape for x in scored] == [shape, shape]


def test_no_array_holds_all_logits(arrays):
    """Neither direction makes an array over rows, columns and vocabulary."""
    hidden_BTD, unembedding_DV, targets_BT = arrays

    def total(hidden_BTD, unembedding_DV):
        logprobs_BT, entropies_BT = token_logprobs(hidden_BTD, unembedding_DV, targets_BT, chunk=6)
        return (logprobs_BT + entropies_BT).sum()

    program = jax.make_jaxpr(jax.grad(total, argnums=(0, 1)))(hidden_BTD, unembedding_DV)
    text = str(program)
    assert f'{ROWS},2,{VOCABULARY}]' in text  # the window's logits, so the check looks at shapes
    assert f'5,{ROWS},2,{VOCABULARY}]' not in text
    assert f'{ROWS},{COLUMNS},{VOCABULARY}]' not in text


def test_rows_stay_on_their_devices():
    devices = np.array(jax.devices()[:2])
    if len(devices) < 2:
        pytest.skip('needs two devices')
    mesh = jax.sharding.Mesh(devices, 'data')
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    shapes = [
        jax.ShapeDtypeStruct((4, COLUMNS, WIDTH), jnp.float32, sharding=rows),
        jax.ShapeDtypeStruct((WIDTH, VOCABULARY), jnp.float32, sharding=whole),
        jax.ShapeDtypeStruct((4, COLUMNS), jnp.int32, sharding=rows),
    ]
    program = jax.jit(lambda *arrays: token_logprobs(*arrays, chunk=8)).lower(*shapes).compile()
    assert 'all-gather' not in program.as_text() and 'all-to-all' not in program.as_text()
