"""Policy folders for the commands: a tiny untrained policy, with and without a tokeniser."""

import dataclasses

import pytest

from mrt_jax.policies.chat import ChatTemplate
from mrt_jax.policies.policy import Policy
from mrt_jax.policies.save import save_policy
from mrt_jax.tasks.countdown_tokenizer import CHAT_TEMPLATE, countdown_tokenizer
from tests.tiny import tiny_model


@pytest.fixture(scope='session')
def policy() -> Policy:
    tokenizer = countdown_tokenizer()
    model, params = tiny_model(vocab_size=tokenizer.vocab_size)
    # Larger parameters than fresh ones, so that the policy prefers some tokens to others, and
    # ends of a response that an untrained policy finds now and then.
    params = {**params, 'embedding': 4 * params['embedding']}
    return Policy(
        config=model.config,
        params=params,
        tokenizer=tokenizer,
        chat=ChatTemplate(CHAT_TEMPLATE, tokenizer.special_tokens),
        eos_ids=(*tokenizer.eos_ids, *range(20, 40)),
    )


@pytest.fixture(scope='session')
def policy_folder(policy, tmp_path_factory):
    return str(save_policy(tmp_path_factory.mktemp('policies') / 'with_tokenizer', policy))


@pytest.fixture(scope='session')
def bare_folder(policy, tmp_path_factory):
    bare = dataclasses.replace(policy, tokenizer=None, chat=None)
    return str(save_policy(tmp_path_factory.mktemp('policies') / 'without_tokenizer', bare))
