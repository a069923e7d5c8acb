"""A tiny untrained policy that reads countdown, and a few problems."""

import numpy as np
import pytest

from mrt_jax.data.countdown_puzzles import CountdownSpec, Puzzle
from mrt_jax.policies.chat import ChatTemplate
from mrt_jax.policies.policy import Policy
from mrt_jax.tasks.countdown import make_problem
from mrt_jax.tasks.countdown_tokenizer import CHAT_TEMPLATE, countdown_tokenizer
from tests.tiny import tiny_model


@pytest.fixture(scope='session')
def policy() -> Policy:
    tokenizer = countdown_tokenizer()
    model, params = tiny_model(vocab_size=tokenizer.vocab_size, tie_embeddings=False)
    # Every hidden state shares its first component, which favours a few words of the task: so
    # thoughts have episodes and come to an end, and what is said still depends on the context.
    likely = np.array([*tokenizer.encode('Try 3 no\n</think>'), *tokenizer.eos_ids])
    params = {
        **params,
        'embedding': params['embedding'].at[:, 0].set(6.0),
        'unembedding': (3 * params['unembedding']).at[0, likely].set(1.5),
    }
    return Policy(
        config=model.config,
        params=params,
        tokenizer=tokenizer,
        chat=ChatTemplate(CHAT_TEMPLATE, tokenizer.special_tokens),
        eos_ids=tokenizer.eos_ids,
    )


@pytest.fixture(scope='session')
def problems():
    spec = CountdownSpec()
    puzzles = [((1, 2, 3), 6), ((4, 5), 20), ((10, 11, 12, 13), 46), ((7, 8), 15), ((9, 3), 12)]
    return [make_problem(Puzzle(numbers, target), spec) for numbers, target in puzzles]
