"""Padding, packing, rematerialisation, dtypes and fresh parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt_jax.models import transformer
from mrt_jax.models.transformer import (
    REMAT_POLICIES,
    Transformer,
    abstract_params,
    for_decoding,
    init_params,
    logical_axes,
    unembedding,
)
from mrt_jax.sampling.forward import next_logits
from tests.dot_operands import dot_operands
from tests.tiny import GEMMA, tiny_config, tiny_model

BIASED = dict(attention_bias=True, output_bias=True, mlp_bias=True, qk_norm=True)

TOKENS_BT = np.random.default_rng(0).integers(0, 64, (2, 12), dtype=np.int32)
POSITIONS_BT = np.broadcast_to(np.arange(12, dtype=np.int32), (2, 12))


def read(model, params, *inputs):
    return jax.jit(model.apply)({'params': params}, *inputs)


def test_padding_changes_nothing():
    model, params = tiny_model()
    whole, new_kv = read(model, params, TOKENS_BT, POSITIONS_BT)
    for left, right in ((0, 4), (3, 1)):
        pad = ((0, 0), (left, right))
        tokens = np.pad(TOKENS_BT, pad, constant_values=7)
        positions = np.pad(POSITIONS_BT, pad, constant_values=-1)
        padded, padded_kv = read(model, params, tokens, positions)
        kept = slice(left, left + 12)
        np.testing.assert_allclose(padded[:, kept], whole, atol=1e-5)
        for long, short in zip(jax.tree.leaves(padded_kv), jax.tree.leaves(new_kv), strict=True):
            np.testing.assert_allclose(long[..., kept, :], short, atol=1e-5)
        assert np.isfinite(padded).all()


@pytest.mark.parametrize(
    'changes', [{}, dict(sliding_window=3), GEMMA], ids=['global', 'window', 'gemma']
)
def test_packed_segments_equal_rows_of_their_own(changes):
    model, params = tiny_model(**changes)
    whole, _ = read(model, params, TOKENS_BT, POSITIONS_BT)
    packed, _ = read(
        model,
        params,
        TOKENS_BT.reshape(1, 24),
        POSITIONS_BT.reshape(1, 24),
        np.repeat(np.arange(2), 12)[None],
    )
    np.testing.assert_allclose(packed.reshape(whole.shape), whole, atol=1e-5)


def test_later_tokens_and_other_rows_change_nothing():
    model, params = tiny_model()
    apply = jax.jit(model.apply)
    before, _ = apply({'params': params}, TOKENS_BT, POSITIONS_BT)
    changed = TOKENS_BT.copy()
    changed[0, 8:] += 1
    changed[1] = changed[1, ::-1]
    after, _ = apply({'params': params}, changed % 64, POSITIONS_BT)
    np.testing.assert_array_equal(before[0, :8], after[0, :8])
    assert not np.allclose(before[0, 8:], after[0, 8:])


def loss(params, model):
    hidden, _ = model.apply({'params': params}, TOKENS_BT, POSITIONS_BT)
    return jnp.square(hidden @ unembedding(params, model.config)).mean()


@pytest.mark.parametrize('remat', [name for name in REMAT_POLICIES if name != 'none'])
def test_rematerialisation_changes_no_gradient(remat):
    plain, params = tiny_model(qk_norm=True)
    frugal = Transformer(plain.config, remat=remat)
    expected = jax.jit(jax.grad(loss), static_argnums=1)(params, plain)
    got = jax.jit(jax.grad(loss), static_argnums=1)(params, frugal)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), got, expected)


def test_gradients_agree_with_differences():
    """The derivative along a random direction, by central differences."""
    model, params = tiny_model(attention_bias=True, output_bias=True, mlp_bias=True, num_layers=1)
    _, direction = tiny_model(
        attention_bias=True, output_bias=True, mlp_bias=True, num_layers=1, seed=1
    )

    def along(step):
        return loss(jax.tree.map(lambda x, d: x + step * d, params, direction), model)

    ahead, behind = (jax.jit(along)(step) for step in (3e-3, -3e-3))
    np.testing.assert_allclose((ahead - behind) / 6e-3, jax.jit(jax.grad(along))(0.0), rtol=1e-2)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('columns', [False, True], ids=['rows', 'columns'])
@pytest.mark.parametrize(
    'changes',
    [{}, BIASED, dict(tie_embeddings=False, lora_rank=2), GEMMA],
    ids=['plain', 'biased', 'lora', 'gemma'],
)
def test_layers_read_apart_are_those_of_the_stack(changes, columns, dtype, monkeypatch):
    """By rows or, on one CPU, by columns: hidden states, keys, values and logits."""
    monkeypatch.setattr(transformer, 'on_one_cpu', lambda: columns)
    model, params = tiny_model(dtype=dtype, **changes)
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), params)
    decoder, apart = for_decoding(model, params)
    assert decoder.columns == columns
    assert len(apart['layers']) == model.config.num_layers
    for path, param in jax.tree_util.tree_leaves_with_path(apart):
        assert param.dtype == ('float32' if path[-1].key == 'scale' else dtype)

    def everything(model, params):
        hidden_BTD, new_kv = read(model, params, TOKENS_BT, POSITIONS_BT)
        return hidden_BTD, new_kv, next_logits(model, params, hidden_BTD[:, -1])

    for one, two in zip(
        jax.tree.leaves(everything(model, params)), jax.tree.leaves(everything(decoder, apart)),
        strict=True,
    ):
        tolerance = (1e-5 if dtype == 'float32' else 0.1) * np.abs(one.astype(np.float32)).max()
        np.testing.assert_allclose(
            one.astype(np.float32), two.astype(np.float32), atol=tolerance
        )


def test_compute_dtype_is_of_activations_only():
    model, params = tiny_model(dtype='bfloat16')
    hidden, new_kv = read(model, params, TOKENS_BT, POSITIONS_BT)
    assert {x.dtype for x in jax.tree.leaves((hidden, new_kv))} == {jnp.dtype('bfloat16')}
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('float32')}
    exact, _ = read(Transformer(model.config), params, TOKENS_BT, POSITIONS_BT)
    np.testing.assert_allclose(hidden.astype(np.float32), exact, atol=0.1)


@pytest.mark.parametrize(
    'changes',
    [{}, BIASED, dict(tie_embeddings=False, lora_rank=2), GEMMA],
    ids=['plain', 'biased', 'lora', 'gemma'],
)
def test_rounded_products_are_the_same_by_rows_and_by_columns(changes, monkeypatch):
    """Only what is multiplied is rounded: activations, keys, values and logits are float32."""
    monkeypatch.setattr(transformer, 'on_one_cpu', lambda: True)
    model, params = tiny_model(product_dtype='bfloat16', **changes)
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), params)
    decoder, apart = for_decoding(model, params)
    assert {str(x.dtype) for x in jax.tree.leaves(apart)} == {'float32', 'bfloat16'}
    assert apart['embedding'].dtype == 'float32' and apart['unembedding'].dtype == 'bfloat16'

    def everything(model, params):
        hidden_BTD, new_kv = read(model, params, TOKENS_BT, POSITIONS_BT)
        return hidden_BTD, new_kv, next_logits(model, params, hidden_BTD[:, -1])

    by_rows, exact = (everything(x, params)[:2] for x in (model, model.clone(product_dtype=None)))
    by_columns = everything(decoder, apart)
    logits_BV = np.float64(jax.lax.reduce_precision(by_columns[0][:, -1], 8, 7)) @ np.float64(
        jax.lax.reduce_precision(transformer.unembedding(params, model.config), 8, 7)
    )
    cap = model.config.logit_cap
    if cap is not None:
        logits_BV = cap * np.tanh(logits_BV / cap)
    np.testing.assert_allclose(by_columns[2], logits_BV, atol=1e-4 * np.abs(logits_BV).max())
    for one, two, three in zip(
        *map(jax.tree.leaves, (by_rows, by_columns[:2], exact)), strict=True
    ):
        assert one.dtype == two.dtype == jnp.float32
        scale = np.abs(three).max()
        # A number that lies between two of bfloat16 may be rounded to either.
        np.testing.assert_allclose(one, two, atol=0.01 * scale)
        np.testing.assert_allclose(one, three, atol=0.05 * scale)
    assert np.abs(by_rows[0] - exact[0]).max() > 1e-4


def test_products_are_rounded_on_one_cpu_only(monkeypatch):
    monkeypatch.setattr(transformer, 'on_one_cpu', lambda: False)
    model, params = tiny_model()
    with pytest.raises(ValueError, match='rounded on one CPU only'):
        read(model.clone(product_dtype='bfloat16'), params, TOKENS_BT, POSITIONS_BT)


def test_all_products_with_parameters_reach_the_fast_kernels(monkeypatch):
    """XLA converts operands of other products to float32: attention's are the only ones left."""
    monkeypatch.setattr(transformer, 'on_one_cpu', lambda: True)
    model, params = tiny_model(product_dtype='bfloat16')

    def total(params):
        return model.apply({'params': params}, TOKENS_BT, POSITIONS_BT)[0].sum()

    def decode(params, hidden_BD):
        decoder, apart = for_decoding(model, params)
        hidden_BTD, _ = read(decoder, apart, TOKENS_BT[:, :1], POSITIONS_BT[:, :1])
        return next_logits(decoder, apart, hidden_BD + hidden_BTD[:, 0])

    hidden_BD = jnp.zeros((len(TOKENS_BT), model.config.width))
    layer = 7  # Products with parameters; attention has two, and four more in its derivative.
    for function, arguments, rounded, exact in (
        (jax.grad(total), (params,), 3 * layer, 6),
        (decode, (params, hidden_BD), layer * model.config.num_layers + 1, None),
    ):
        found = dot_operands(jax.jit(function).lower(*arguments).compile())
        assert found['bf16'] == rounded, found
        if exact is not None:
            assert found['f32'] == exact, found


def test_a_fresh_model_starts_near_uniform():
    """Depth makes neither the hidden states nor the first logits of a fresh model large."""
    config = tiny_config(num_layers=8, width=64, tie_embeddings=False)
    model = Transformer(config)
    params = jax.jit(init_params, static_argnums=0)(model, jax.random.key(0))
    hidden, _ = read(model, params, TOKENS_BT, POSITIONS_BT)
    logits = hidden @ unembedding(params, config)
    entropy = -(jax.nn.softmax(logits) * jax.nn.log_softmax(logits)).sum(-1)
    assert entropy.mean() > 0.98 * np.log(64)
    assert params['embedding'].std() == pytest.approx(0.02, rel=0.1)
    assert params['layers']['up']['kernel'].std() == pytest.approx(64**-0.5, rel=0.1)
    assert params['layers']['down']['kernel'].std() == pytest.approx((48 * 16) ** -0.5, rel=0.1)


def test_every_parameter_has_logical_axes():
    config = tiny_config(
        attention_bias=True, output_bias=True, mlp_bias=True, qk_norm=True, tie_embeddings=False
    )
    model = Transformer(config)
    shapes, axes = abstract_params(model), logical_axes(model)
    ranks = jax.tree.map(lambda shape: shape.ndim, shapes)
    named = jax.tree.map(len, axes, is_leaf=lambda node: isinstance(node, tuple))
    assert ranks == named
    layers = jax.tree.leaves(axes['layers'], is_leaf=lambda node: isinstance(node, tuple))
    assert all(names[0] == 'layers' for names in layers)
    assert shapes == jax.eval_shape(lambda: init_params(model, jax.random.key(1)))


def test_unembedding_is_the_embedding_where_tied():
    model, params = tiny_model()
    np.testing.assert_array_equal(unembedding(params, model.config), params['embedding'].T)
    model, params = tiny_model(tie_embeddings=False)
    np.testing.assert_array_equal(unembedding(params, model.config), params['unembedding'])


def test_unknown_remat_policy_is_refused():
    with pytest.raises(ValueError, match="remat 'some'.*none, dots, full"):
        Transformer(tiny_config(), remat='some')
