"""The tokeniser of a countdown policy that is trained from scratch.

Byte-level, so that every text has an encoding and decoding gives it back exactly; the task's
words and the numbers up to `LARGEST_NUMBER` are one token each.
"""

import re
from collections.abc import Sequence

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from mrt_jax.policies.tokenizers import JsonTokenizer

PAD, END, USER, ASSISTANT = '<|pad|>', '<|end|>', '<|user|>', '<|assistant|>'
THINK, THINK_END = '<think>', '</think>'
WORDS = ('Numbers:', 'Target:', 'Try ', ' yes', ' no', 'Answer: ')
LARGEST_NUMBER = 199
_TEMPLATE = (
    '{%% for message in messages %%}'
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    '{%% endfor %%}'
    "{%% if add_generation_prompt %%}{{ '<|assistant|>%s' }}{%% endif %%}"
)
CHAT_TEMPLATE = _TEMPLATE % '<think>\\n'
DIRECT_CHAT_TEMPLATE = _TEMPLATE % ''  # for tasks without a thought block


def countdown_tokenizer(words: Sequence[str] = WORDS) -> JsonTokenizer:
    """Builds the tokeniser; the same one every time.

    Args:
        words: pieces of text that are one token each; where two fit, the one listed first.
    """
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    specials = [PAD, END, USER, ASSISTANT, THINK, THINK_END]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    spelled = [byte_level.pre_tokenize_str(word)[0][0] for word in words]
    numbers = [str(number) for number in range(10, LARGEST_NUMBER + 1)]
    known = dict.fromkeys([*specials, *alphabet, *spelled, *numbers])
    vocabulary = {piece: i for i, piece in enumerate(known)}
    # `ignore_merges` takes a word that the vocabulary holds whole; other words fall to bytes.
    backend = Backend(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    pieces = '|'.join([*map(re.escape, words), r'\d+', r'[\s\S]'])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pieces), behavior='isolated'), byte_level]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in specials])
    return JsonTokenizer(backend, {'eos_token': END, 'pad_token': PAD})
