"""A tiny policy and the plain way to score with it, shared by the sampling tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt_jax.kernels.matcher import build_matcher
from mrt_jax.models.config import ModelConfig
from mrt_jax.models.transformer import Transformer, init_params, unembedding
from mrt_jax.sampling.phases import Terminals
from tests.tiny import GEMMA, tiny_model

# Id 0 pads, id 1 ends a row; the thought's end marker takes two tokens or ends inside one.
PIECES = [b'', b'', b'a', b'b', b'c', b'</t', b'>', b'c</t>', b'd', b'e', b'stop', b'f', b'g']
EOS = 1


class TinyPolicy:
    """A network over `PIECES` with sharpened random parameters."""

    def __init__(self, model, params) -> None:
        self.model, self.params = model, params
        self._logprobs = jax.jit(self._forward)

    def _forward(self, params, tokens_BT, positions_BT):
        hidden_BTD, _ = self.model.apply({'params': params}, tokens_BT, positions_BT)
        logits_BTV = jnp.einsum('btd,dv->btv', hidden_BTD, unembedding(params, self.model.config))
        if cap := self.model.config.logit_cap:
            logits_BTV = cap * jnp.tanh(logits_BTV / cap)
        return jax.nn.log_softmax(logits_BTV.astype(jnp.float32), axis=-1)

    def next_token_logprobs(self, sequences, width: int) -> np.ndarray:
        """Log-probabilities [rows, width, V] from one plain forward pass, without a cache."""
        tokens_BT = np.zeros((len(sequences), width), np.int32)
        positions_BT = np.full((len(sequences), width), -1, np.int32)
        for row, sequence in enumerate(sequences):
            tokens_BT[row, : len(sequence)] = sequence
            positions_BT[row, : len(sequence)] = np.arange(len(sequence))
        return np.asarray(self._logprobs(self.params, tokens_BT, positions_BT))


def assert_same(one, two) -> None:
    """Two trees of results: integers equal, numbers but for rounding."""
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True
    ):
        x, y = np.asarray(x), np.asarray(y)
        if np.issubdtype(x.dtype, np.floating):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5, err_msg=str(path))
        else:
            np.testing.assert_array_equal(x, y, str(path))


@pytest.fixture(scope='session')
def tiny() -> TinyPolicy:
    """Two layers with grouped heads."""
    model = Transformer(
        ModelConfig(
            family='llama',
            vocab_size=len(PIECES),
            width=16,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            head_width=8,
            ffn_width=32,
            max_positions=256,
            tie_embeddings=False,
        )
    )
    params = init_params(model, jax.random.key(0))
    # Fresh parameters predict almost uniformly; a larger output layer makes tokens matter.
    params['embedding'] *= 20
    params['unembedding'] *= 3
    return TinyPolicy(model, params)


@pytest.fixture(scope='session')
def tiny_gemma() -> TinyPolicy:
    """Windows shorter than the prompts, and caps that bend most scores and logits."""
    model, params = tiny_model(vocab_size=len(PIECES), **GEMMA)
    return TinyPolicy(model, params | {'embedding': 4 * params['embedding']})


@pytest.fixture(scope='session')
def terminals() -> Terminals:
    return Terminals(
        think_end=build_matcher(['</t>'], PIECES),
        stop=build_matcher(['stop'], PIECES),
        eos_ids=(EOS,),
        termination_tokens=(5, 6, 9),
    )


@pytest.fixture(scope='session')
def prompts() -> list[list[int]]:
    rng = np.random.default_rng(5)
    return [rng.integers(2, len(PIECES), rng.integers(1, 8)).tolist() for _ in range(32)]
