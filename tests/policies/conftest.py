"""Tokenisers trained on a few lines of text, once a session."""

import io
import json

import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from mrt_jax.policies.chat import ChatTemplate
from mrt_jax.policies.policy import Policy
from mrt_jax.tasks.countdown_tokenizer import CHAT_TEMPLATE, countdown_tokenizer
from tests.tiny import tiny_model

CORPUS = [
    'The quick brown fox jumps over the lazy dog.',
    'def solve(n: int) -> list[int]:\n    return [i * i for i in range(n)]',
    'Try 3+5=8, 8*7=56 no\nTry 3*5=15, 15+7=22 yes',
    'Ein schöner Tag: Füße, Straße, Öl. ¿Dónde está? 日本語のテキスト',
] * 20


@pytest.fixture(scope='session')
def byte_level() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=['<|end|>', '<|pad|>', '<think>', '</think>'],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens(['naïve token'])
    return backend


@pytest.fixture(scope='session')
def metaspace() -> tokenizers.Tokenizer:
    """The layout of Llama 2's tokenizer.json: marked spaces and bytes for what is unknown."""
    backend = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token='<unk>', fuse_unk=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend('\u2581'), normalizers.Replace(' ', '\u2581')]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace('\u2581', ' '),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(' ', 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=['<unk>', '<s>', '</s>', *(f'<0x{byte:02X}>' for byte in range(256))],
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    # Byte pieces belong to the model's vocabulary, not to the text that users can write.
    spec = backend.to_str()
    return tokenizers.Tokenizer.from_str(_keep_added(spec, {'<unk>', '<s>', '</s>'}))


@pytest.fixture(scope='session')
def sentencepiece_model() -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        model_type='bpe',
        vocab_size=420,
        byte_fallback=True,
        normalization_rule_name='identity',
        remove_extra_whitespaces=False,
        user_defined_symbols=['</think>'],
        minloglevel=2,
    )
    return model.getvalue()


@pytest.fixture(scope='session')
def policy() -> Policy:
    """A tiny untrained policy with a tokeniser; its network has a few ids more than that."""
    tokenizer = countdown_tokenizer()
    model, params = tiny_model(vocab_size=tokenizer.vocab_size + 6, tie_embeddings=False)
    return Policy(
        config=model.config,
        params=params,
        tokenizer=tokenizer,
        chat=ChatTemplate(CHAT_TEMPLATE, tokenizer.special_tokens),
        eos_ids=tokenizer.eos_ids,
        generation={'temperature': 0.6},
    )


def _keep_added(spec: str, names: set[str]) -> str:
    content = json.loads(spec)
    content['added_tokens'] = [t for t in content['added_tokens'] if t['content'] in names]
    return json.dumps(content)
