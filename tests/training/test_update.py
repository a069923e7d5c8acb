"""The update: one gradient whatever the mesh, the microbatch and the padding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mrt_jax.errors import InputError
from mrt_jax.kernels.surrogate import token_weights
from mrt_jax.models.lora import DOWN, UP, split
from mrt_jax.models.transformer import logical_axes, unembedding
from mrt_jax.sharding.mesh import make_mesh
from mrt_jax.sharding.rules import batch_sharding, param_shardings, use_mesh
from mrt_jax.training.objective import (
    ObjectiveConfig,
    SupervisedBatch,
    UpdateBatch,
    policy_loss,
    supervised_loss,
)
from mrt_jax.training.optimizer import OptimizerConfig, make_optimizer
from mrt_jax.training.state import TrainState, abstract_state, new_state, state_shardings
from mrt_jax.training.update import (
    join_response,
    make_scorer,
    make_update,
    next_token_logprobs,
)
from tests.tiny import GEMMA, tiny_model
from tests.training.reference_objective import policy_objective

ROWS, TOKENS = 8, 12
OBJECTIVE = ObjectiveConfig(
    clip_low=0.2, clip_high=0.3, kl_coef=0.1, entropy_coef=0.01, aggregation='token'
)
LOSS = policy_loss(OBJECTIVE)
LOSSES = {
    'token': LOSS, 'sequence': policy_loss(dataclasses.replace(OBJECTIVE, ratio='sequence'))
}
MODEL, PARAMS = tiny_model()
# The plain gradient, so that what is applied shows every digit of it.
SGD = optax.sgd(1.0)
ADAM = make_optimizer(
    OptimizerConfig(learning_rate=1e-2, schedule='constant', warmup_steps=0, weight_decay=0.1,
                    b1=0.9, b2=0.98, clip_norm=1.0),
    updates=10,
)


def some_batch(seed: int = 0, aggregation: str = 'token', reference: bool = True) -> UpdateBatch:
    """Rows of unequal lengths, with log-probabilities near the tiny model's."""
    rng = np.random.default_rng(seed)
    lengths_B = rng.integers(4, TOKENS + 1, ROWS)
    columns = np.arange(TOKENS)
    positions_BT = np.where(columns < lengths_B[:, None], columns, -1).astype(np.int32)
    mask_BT = (positions_BT >= 2) & (rng.random((ROWS, TOKENS)) < 0.9)
    tokens_BT = rng.integers(0, 64, (ROWS, TOKENS)).astype(np.int32)
    logprobs_BT = score(tokens_BT, positions_BT)
    near = lambda: (logprobs_BT + 0.3 * rng.standard_normal(mask_BT.shape)).astype(np.float32)  # noqa: E731
    return UpdateBatch(
        tokens_BT=tokens_BT,
        positions_BT=positions_BT,
        weights_BT=np.asarray(token_weights(mask_BT, aggregation)),
        old_logprobs_BT=near(),
        advantages_BT=rng.standard_normal(mask_BT.shape).astype(np.float32),
        reference_logprobs_BT=near() if reference else None,
    )


@functools.cache
def scorer():
    return make_scorer(MODEL, make_mesh(), rows=ROWS, microbatch_rows=ROWS)


def score(tokens_BT, positions_BT) -> np.ndarray:
    return np.asarray(scorer()(PARAMS, tokens_BT, positions_BT, None, None))


@functools.cache
def compiled(optimizer, loss, rows, microbatch_rows, axes, kernel):
    """(mesh, update), the same for the same arguments so that each compiles once."""
    mesh = make_mesh(**dict(axes))
    update = make_update(
        MODEL.clone(kernel=kernel), optimizer, loss, mesh, rows=rows,
        microbatch_rows=microbatch_rows,
    )
    return mesh, update


def run(
    batch, *, optimizer=SGD, loss=LOSS, microbatch_rows=ROWS, state=None, kernel='plain', **axes
):
    """One update from the tiny parameters: (state, metrics) as NumPy."""
    mesh, update = compiled(
        optimizer, loss, len(batch.tokens_BT), microbatch_rows, tuple(axes.items()), kernel
    )
    if state is None:
        state = new_state(jax.tree.map(jnp.copy, PARAMS), optimizer)
    state = jax.device_put(state, state_shardings(MODEL, optimizer, mesh))
    with use_mesh(mesh):
        state, metrics = update(state, {}, jax.device_put(batch, batch_sharding(mesh)))
    return jax.device_get((state, metrics))


def gradient_of(state: TrainState):
    return jax.tree.map(lambda old, new: np.asarray(old) - new, PARAMS, state.params)


def assert_close(actual, expected, relative: float) -> None:
    """Leaf by leaf, relative to the leaf's norm."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(a - b) <= relative * np.linalg.norm(b) + 1e-12


def assert_same_update(actual, expected, relative: float = 1e-5) -> None:
    assert_close(gradient_of(actual[0]), gradient_of(expected[0]), relative)
    assert actual[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        # Terms around 1 cancel in a loss of 0.01: what they are rounded by does not shrink with it.
        np.testing.assert_allclose(actual[1][name], value, rtol=relative, atol=3e-7, err_msg=name)


@pytest.fixture(scope='module')
def whole():
    """The update on one device, in one piece."""
    return run(some_batch())


@pytest.mark.parametrize(
    'layout',
    [dict(data=8), dict(fsdp=8), dict(data=2, fsdp=2, tensor=2, microbatch_rows=4),
     dict(data=2, tensor=2, sequence=2, microbatch_rows=4)], ids=str,
)
def test_every_mesh_gives_the_same_update(whole, layout):
    assert_same_update(run(some_batch(), **layout), whole)


def test_replicas_that_are_not_apart_give_the_same_update(whole):
    """As with cuDNN's attention, which turns down rows as short as these."""
    layout = dict(data=2, fsdp=2, microbatch_rows=4)
    assert_same_update(run(some_batch(), kernel='cudnn', **layout), whole)


@pytest.mark.parametrize('microbatch_rows', [1, 2, 4])
def test_every_microbatch_gives_the_same_update(whole, microbatch_rows):
    assert_same_update(run(some_batch(), microbatch_rows=microbatch_rows), whole)


@pytest.mark.parametrize('aggregation', ['token', 'sequence', 'constant'])
@pytest.mark.parametrize('reference', [True, False])
@pytest.mark.parametrize('ratio', ['token', 'sequence'])
def test_loss_and_metrics_equal_the_reference(aggregation, reference, ratio):
    batch = some_batch(1, aggregation, reference)
    _, metrics = run(batch, loss=LOSSES[ratio], microbatch_rows=2)
    hidden, _ = MODEL.apply({'params': PARAMS}, batch.tokens_BT, batch.positions_BT)
    logits = np.asarray(hidden @ unembedding(PARAMS, MODEL.config), np.float64)
    all_logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    shifted = np.take_along_axis(all_logprobs[:, :-1], batch.tokens_BT[:, 1:, None], -1)[..., 0]
    entropies = -(np.exp(all_logprobs) * all_logprobs).sum(-1)[:, :-1]
    loss, expected = policy_objective(
        np.pad(shifted, ((0, 0), (1, 0))), np.pad(entropies, ((0, 0), (1, 0))), batch.weights_BT,
        batch.old_logprobs_BT, batch.advantages_BT, batch.reference_logprobs_BT,
        clip_low=0.2, clip_high=0.3, kl_coef=0.1 if reference else 0.0, entropy_coef=0.01,
        ratio=ratio,
    )
    for name, value in expected.items():
        # A loss near 0 is a sum of terms of about 1, in float32.
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, atol=1e-7, err_msg=name)
    assert (0 < expected['clip_fraction'] < 1) == (ratio == 'token')
    assert ('kl_to_reference' in metrics) == reference


def test_the_gradient_is_the_slope_of_the_loss(whole):
    state, metrics = whole
    gradient = gradient_of(state)
    norm = optax.tree.norm(gradient)
    np.testing.assert_allclose(norm, metrics['grad_norm'], rtol=1e-5)
    values, reach = [], 3e-4  # So short that hardly a token crosses a clip on the way.
    for sign in (1, -1):
        moved = jax.tree.map(lambda p, g, s=sign: p + s * reach * g / norm, PARAMS, gradient)
        values.append(run(some_batch(), state=new_state(moved, SGD))[1]['loss'])
    np.testing.assert_allclose((values[0] - values[1]) / (2 * reach), norm, rtol=2e-3)


def test_padding_rows_and_columns_change_nothing(whole):
    batch = some_batch()
    noise = np.random.default_rng(3)

    def pad(x, fill):
        """Two columns on the left, three on the right and eight rows, full of rubbish."""
        return np.pad(x, ((0, ROWS), (2, 3)), constant_values=fill)

    padded = UpdateBatch(
        tokens_BT=pad(batch.tokens_BT, 7),
        positions_BT=pad(batch.positions_BT, -1),
        weights_BT=pad(batch.weights_BT, 0),
        old_logprobs_BT=pad(batch.old_logprobs_BT, -np.inf),
        advantages_BT=pad(batch.advantages_BT, np.nan),
        reference_logprobs_BT=pad(batch.reference_logprobs_BT, noise.standard_normal()),
    )
    assert_same_update(run(padded), whole)


def test_a_step_that_is_not_finite_changes_nothing():
    good = some_batch()
    bad = good.replace(advantages_BT=np.where(good.weights_BT > 0, np.nan, good.advantages_BT))
    start = new_state(jax.tree.map(jnp.copy, PARAMS), ADAM)
    before, _ = run(good, optimizer=ADAM, state=start)
    state = before
    for skipped in (1, 2):
        state, metrics = run(bad, optimizer=ADAM, state=state)
        assert metrics['skipped'] == 1 and not np.isfinite(metrics['loss'])
        assert (state.skipped_in_a_row, state.step) == (skipped, 1 + skipped)
        for a, b in zip(
            jax.tree.leaves((state.params, state.opt_state)),
            jax.tree.leaves((before.params, before.opt_state)), strict=True,
        ):
            np.testing.assert_array_equal(a, b)
    state, metrics = run(good, optimizer=ADAM, state=state)
    assert (metrics['skipped'], state.skipped_in_a_row, state.step) == (0, 0, 4)
    assert optax.tree_utils.tree_get(state.opt_state, 'learning_rate') == np.float32(1e-2)


def test_an_infinite_gradient_is_skipped_though_the_loss_is_finite():
    batch = some_batch()
    batch = batch.replace(advantages_BT=np.full_like(batch.advantages_BT, 1e38))
    state, metrics = run(batch, optimizer=ADAM)
    assert np.isfinite(metrics['loss']) and not np.isfinite(metrics['grad_norm'])
    assert metrics['skipped'] == 1
    assert_close(state.params, jax.device_get(PARAMS), 0)


def test_supervised_updates_share_it_all():
    batch = some_batch()
    segments_BT = np.zeros_like(batch.tokens_BT)
    supervised = SupervisedBatch(
        batch.tokens_BT, batch.positions_BT, segments_BT, batch.weights_BT
    )
    first = run(supervised, loss=supervised_loss)
    logprobs_BT = score(batch.tokens_BT, batch.positions_BT)
    np.testing.assert_allclose(
        first[1]['loss'], -(batch.weights_BT * logprobs_BT).sum(), rtol=1e-5
    )
    layout = dict(microbatch_rows=4, data=2, tensor=2)
    assert_same_update(run(supervised, loss=supervised_loss, **layout), first)


def test_packed_demonstrations_equal_separate_rows():
    tokens = np.random.default_rng(4).integers(0, 64, (2, 6)).astype(np.int32)
    columns = np.tile(np.arange(6, dtype=np.int32), (2, 1))
    weights = np.where(columns > 1, np.float32(0.1), 0)

    def lay_out(shape):
        """The two demonstrations in the first places of two rows of twelve."""
        numbers = np.repeat(np.arange(2, dtype=np.int32), 6)
        rows = lambda x, fill: np.pad(  # noqa: E731
            x.reshape(shape), ((0, 2 - shape[0]), (0, 12 - shape[1])), constant_values=fill
        )
        return SupervisedBatch(
            rows(tokens, 0), rows(columns, -1), rows(numbers, 0), rows(weights, 0)
        )

    runs = [
        run(lay_out(shape), loss=supervised_loss, microbatch_rows=1) for shape in ((1, 12), (2, 6))
    ]
    assert_same_update(*runs)


def test_adapters_get_the_gradient_of_their_kernels_and_nothing_else_trains(whole):
    model, params = tiny_model(lora_rank=3)
    adapters, _ = split(params)
    # The tiny parameters with adapters that do nothing yet.
    adapters = {'layers': {
        name: {DOWN: pair[DOWN], UP: jnp.zeros_like(pair[UP])}
        for name, pair in adapters['layers'].items()
    }}
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    update = make_update(model, SGD, LOSS, mesh, rows=ROWS, microbatch_rows=4)
    state = jax.device_put(
        new_state(jax.tree.map(jnp.copy, adapters), SGD), state_shardings(model, SGD, mesh)
    )
    frozen = jax.device_put(PARAMS, param_shardings(logical_axes(MODEL), mesh))
    batch = jax.device_put(some_batch(), batch_sharding(mesh))
    with use_mesh(mesh):
        state, metrics = update(state, frozen, batch)
    np.testing.assert_allclose(metrics['loss'], whole[1]['loss'], rtol=1e-5)
    kernels = gradient_of(whole[0])['layers']
    for name, after in jax.device_get(state.params)['layers'].items():
        down = np.asarray(adapters['layers'][name][DOWN])
        # y = x (W + A B), so the gradient of B is A^T times that of W; that of A is 0 as B is.
        axes = 'hc' if name == 'output' else 'd'
        expected = np.einsum(f'l{axes}r,l{axes}...->lr...', down, kernels[name]['kernel'])
        assert_close(-after[UP], expected, 1e-5)
        np.testing.assert_array_equal(after[DOWN], down)


def test_scores_are_those_of_the_network_in_any_microbatch():
    batch = some_batch()
    expected = score(batch.tokens_BT, batch.positions_BT)
    assert (expected[batch.positions_BT <= 0] == 0).all()
    assert (expected[batch.positions_BT > 0] < 0).all()
    mesh = make_mesh(data=2, tensor=2)
    scorer = make_scorer(MODEL, mesh, rows=ROWS, microbatch_rows=2)
    params = jax.device_put(PARAMS, state_shardings(MODEL, SGD, mesh).params)
    tokens, positions = jax.device_put(
        (batch.tokens_BT, batch.positions_BT), batch_sharding(mesh)
    )
    np.testing.assert_allclose(scorer(params, tokens, positions, None, None), expected, atol=1e-5)


@pytest.mark.parametrize(
    ('microbatch_rows', 'axes', 'message'),
    [(3, {}, 'does not divide the 8 rows'), (0, {}, 'does not divide'),
     (2, dict(data=2, fsdp=2), r'not a multiple of mesh.data x mesh.fsdp = 4')],
)
def test_rows_that_do_not_divide_are_refused(microbatch_rows, axes, message):
    for make in (
        lambda **rows: make_update(MODEL, SGD, supervised_loss, make_mesh(**axes), **rows),
        lambda **rows: make_scorer(MODEL, make_mesh(**axes), **rows),
    ):
        with pytest.raises(InputError, match=message):
            make(rows=8, microbatch_rows=microbatch_rows)


@pytest.mark.parametrize(
    'change', [dict(clip_low=0.0), dict(clip_low=1.5), dict(clip_high=-0.1), dict(kl_coef=-1.0),
               dict(aggregation='mean')], ids=str,
)
def test_an_objective_that_makes_no_sense_is_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        dataclasses.replace(OBJECTIVE, **change)


def test_no_array_over_batch_tokens_and_vocabulary_exists():
    model, params = tiny_model(vocab_size=4096)
    rows, tokens = 8, 512
    update = make_update(
        model, SGD, policy_loss(OBJECTIVE), make_mesh(), rows=rows, microbatch_rows=rows
    )
    whole = jax.ShapeDtypeStruct((rows, tokens), jnp.float32)
    ids = jax.ShapeDtypeStruct((rows, tokens), jnp.int32)
    text = update.lower(
        abstract_state(model, SGD, make_mesh()), {}, UpdateBatch(ids, ids, whole, whole, whole)
    ).as_text()
    assert 'x4096xf32' in text  # Logits of a chunk.
    for shape in (f'{rows}x{tokens}x4096x', f'{rows * tokens}x4096x', f'{rows}x{tokens - 1}x4096x'):
        assert shape not in text


def test_a_compiled_update_serves_a_whole_run():
    mesh, update = compiled(ADAM, LOSS, ROWS, ROWS, (), 'plain')
    state = jax.device_put(
        new_state(jax.tree.map(jnp.copy, PARAMS), ADAM), state_shardings(MODEL, ADAM, mesh)
    )
    losses, programs = [], []
    for _ in range(4):
        with use_mesh(mesh):
            state, metrics = update(state, {}, some_batch())
        losses.append(float(metrics['loss']))
        programs.append(update._cache_size())
    assert losses[-1] < losses[0]
    assert programs[0] == programs[-1]


def test_join_response_lays_prompts_and_responses_end_to_end():
    tokens, positions = join_response(
        jnp.array([[0, 5, 6], [0, 0, 0]]), jnp.array([2, 0]), jnp.array([2, 0]),
        jnp.array([[7, 8, 0, 0], [0, 0, 0, 0]]),
    )
    assert tokens.tolist() == [[0, 5, 6, 7, 8, 0, 0], [0] * 7]
    assert positions.tolist() == [[-1, 0, 1, 2, 3, -1, -1], [-1] * 7]
    assert positions.dtype == jnp.int32


def test_capped_logits_are_those_that_training_sees():
    model, params = tiny_model(**GEMMA)
    tokens_BT = np.random.default_rng(0).integers(0, 64, (2, 12), dtype=np.int32)
    positions_BT = np.broadcast_to(np.arange(12, dtype=np.int32), (2, 12))
    got_BT, entropies_BT = jax.jit(next_token_logprobs, static_argnums=0)(
        model, params, tokens_BT, positions_BT
    )
    hidden_BTD, _ = jax.jit(model.apply)({'params': params}, tokens_BT, positions_BT)
    logits_BTV = np.asarray(hidden_BTD @ params['embedding'].T, np.float64)
    assert np.abs(logits_BTV).max() > 1.5
    logits_BTV = 1.5 * np.tanh(logits_BTV / 1.5)
    probs_BTV = np.exp(logits_BTV) / np.exp(logits_BTV).sum(-1, keepdims=True)
    expected_BX = np.take_along_axis(np.log(probs_BTV[:, :-1]), tokens_BT[:, 1:, None], -1)[..., 0]
    np.testing.assert_allclose(got_BT[:, 1:], expected_BX, atol=1e-5)
    expected_BT = -(probs_BTV * np.log(probs_BTV)).sum(-1)
    np.testing.assert_allclose(entropies_BT[:, 1:], expected_BT[:, :-1], atol=1e-5)
