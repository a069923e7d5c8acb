import json

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from mrt_jax.errors import InputError
from mrt_jax.policies.token_pieces import byte_of_stand_in
from mrt_jax.policies.tokenizers import JsonTokenizer, load_tokenizer
from mrt_jax.tasks.countdown_tokenizer import countdown_tokenizer

SPECIALS = {'eos_token': '<|end|>', 'pad_token': {'content': '<|pad|>', 'special': True}}
TEXTS = [
    'The quick brown fox.',
    'two  spaces, a tab\tand a\n\nline',
    'naïve café – 日本語 🙂 e\u0301 \u200b',
    'def f(x):\n    return {"a": [x ** 2, 0x1F]}  # done',
    ' leading space and trailing ',
    '',
]


@pytest.fixture(scope='module')
def tokenizer(request, byte_level, metaspace, sentencepiece_model, tmp_path_factory):
    if request.param == 'countdown':
        return countdown_tokenizer()
    if request.param == 'byte_level':
        return JsonTokenizer(byte_level, SPECIALS)
    if request.param == 'metaspace':
        return JsonTokenizer(metaspace, {'bos_token': '<s>', 'eos_token': '</s>'})
    folder = tmp_path_factory.mktemp('sentencepiece')
    (folder / 'tokenizer.model').write_bytes(sentencepiece_model)
    return load_tokenizer(folder)


everywhere = pytest.mark.parametrize(
    'tokenizer', ['byte_level', 'countdown', 'metaspace', 'sentencepiece'], indirect=True
)


@everywhere
@pytest.mark.parametrize('text', TEXTS)
def test_text_survives_encoding(tokenizer, text):
    ids = tokenizer.encode(text)
    joined = b''.join(tokenizer.token_bytes[i] for i in ids).decode()
    assert tokenizer.decode(ids) == text
    assert joined == (f' {text}' if tokenizer.spelling.drops_first_space and text else text)


@everywhere
def test_random_ids_decode_as_their_bytes(tokenizer):
    ids = np.random.default_rng(0).integers(0, tokenizer.vocab_size, 500).tolist()
    shown = [i for i in ids if i not in tokenizer.hidden_ids]
    joined = b''.join(tokenizer.token_bytes[i] for i in shown)
    text = joined.decode(errors='replace')
    expected = text.removeprefix(' ') if tokenizer.spelling.drops_first_space else text
    assert tokenizer.decode(ids) == expected
    assert tokenizer.decode([tokenizer.vocab_size + 7]) == ''


@everywhere
def test_parts_make_up_the_whole_and_split_no_character(tokenizer):
    rng = np.random.default_rng(0)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert '\ufffd' not in ''.join(tokenizer.decode_parts([[i] for i in ids]))
        cuts = sorted(rng.integers(0, len(ids) + 1, 5).tolist())
        parts = [ids[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
        assert ''.join(tokenizer.decode_parts(parts)) == text
    for _ in range(20):
        ids = rng.integers(0, tokenizer.vocab_size, 40).tolist()
        assert ''.join(tokenizer.decode_parts([[i] for i in ids])) == tokenizer.decode(ids)


def test_byte_level_decodes_like_its_package(byte_level):
    tokenizer = JsonTokenizer(byte_level, SPECIALS)
    added = byte_level.token_to_id('naïve token')
    rng = np.random.default_rng(1)
    for _ in range(50):
        ids = rng.integers(2, tokenizer.vocab_size, 30)
        ids = ids[ids != added].tolist()
        assert tokenizer.decode(ids) == byte_level.decode(ids, skip_special_tokens=False)


def test_added_tokens_are_their_literal_text(byte_level):
    tokenizer = JsonTokenizer(byte_level, SPECIALS)
    ids = tokenizer.encode('a naïve token</think>b')
    assert tokenizer.token_bytes[byte_level.token_to_id('naïve token')] == 'naïve token'.encode()
    assert tokenizer.token_bytes[tokenizer.id_of('</think>')] == b'</think>'
    assert tokenizer.decode(ids) == 'a naïve token</think>b'


def test_ends_and_padding_are_hidden_and_markers_shown(byte_level):
    tokenizer = JsonTokenizer(byte_level, SPECIALS)
    ids = tokenizer.encode('<think>x</think>y<|end|><|pad|>')
    assert tokenizer.eos_ids == (tokenizer.id_of('<|end|>'),)
    assert tokenizer.pad_id == tokenizer.id_of('<|pad|>')
    assert tokenizer.bos_id is None
    assert tokenizer.decode(ids) == '<think>x</think>y'


def test_stand_ins_are_those_of_the_byte_level_alphabet():
    assert set(byte_of_stand_in()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_of_stand_in().values()) == list(range(256))


def test_saved_truncation_and_padding_do_not_apply():
    backend = countdown_tokenizer().backend
    backend.enable_truncation(3)
    backend.enable_padding(length=16)
    assert len(JsonTokenizer(backend).encode('12+34=46, 46*2=92')) > 3
    assert len(JsonTokenizer(backend).encode('1')) == 1


def test_words_without_a_decoder_are_separated_by_spaces():
    backend = tokenizers.Tokenizer(models.WordLevel({'a': 0, 'b': 1, 'c': 2}, unk_token='a'))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = JsonTokenizer(backend)
    assert tokenizer.decode(tokenizer.encode('a b c')) == 'a b c' == backend.decode([0, 1, 2])


def test_words_with_a_fusing_decoder_are_not():
    backend = tokenizers.Tokenizer(models.WordLevel({'a': 0, 'b': 1}, unk_token='a'))
    backend.decoder = decoders.Fuse()
    assert JsonTokenizer(backend).decode([0, 1, 1]) == 'abb'


def test_context_dependent_decoder_is_refused():
    backend = countdown_tokenizer().backend
    backend.decoder = decoders.WordPiece()
    with pytest.raises(InputError, match='somewhere: decoder .*WordPiece.* not supported'):
        JsonTokenizer(backend, source='somewhere')


@everywhere
def test_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save_vocabulary(tmp_path)
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps(dict(tokenizer.settings)))
    again = load_tokenizer(tmp_path)
    assert again.token_bytes == tokenizer.token_bytes
    assert again.special_tokens == tokenizer.special_tokens
    assert [again.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


class TestSentencePiece:
    def load(self, folder, model, settings=None):
        (folder / 'tokenizer.model').write_bytes(model)
        if settings is not None:
            (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
        return load_tokenizer(folder)

    def test_special_tokens_in_text_are_found(self, tmp_path, sentencepiece_model):
        settings = {'added_tokens_decoder': {'420': {'content': '<|im_end|>', 'special': True}}}
        tokenizer = self.load(tmp_path, sentencepiece_model, settings)
        ids = tokenizer.encode('<s>fox</s> dog<|im_end|>x</think>y')
        assert ids[0] == tokenizer.bos_id and 420 in ids and tokenizer.eos_ids[0] in ids
        assert tokenizer.vocab_size == 421
        assert tokenizer.decode(ids) == 'fox dog<|im_end|>x</think>y'

    def test_legacy_folders_space_every_part(self, tmp_path, sentencepiece_model):
        tokenizer = self.load(tmp_path, sentencepiece_model, {'legacy': True})
        assert tokenizer.decode(tokenizer.encode('fox<unk>dog')) == 'fox \u2047  dog'

    def test_documents_begin_with_bos_unless_told(self, tmp_path, sentencepiece_model):
        plain = self.load(tmp_path, sentencepiece_model)
        assert plain.encode_document('fox') == [plain.bos_id, *plain.encode('fox')]
        assert plain.encode_document('<s>fox') == plain.encode('<s>fox')
        bare = self.load(tmp_path, sentencepiece_model, {'add_bos_token': False})
        assert bare.encode_document('fox') == plain.encode('fox')

    def test_pieces_agree_with_the_package(self, tmp_path, sentencepiece_model):
        import sentencepiece

        package = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model)
        tokenizer = self.load(tmp_path, sentencepiece_model)
        for text in TEXTS:
            assert tokenizer.encode(text) == package.encode(text)
            assert tokenizer.decode(package.encode(text)) == package.decode(package.encode(text))


@pytest.mark.parametrize('name', ['tokenizer.json', 'tokenizer.model'])
def test_unreadable_files_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(b'{"not": a tokenizer')
    with pytest.raises(InputError, match=name):
        load_tokenizer(tmp_path)


def test_missing_tokenizer_says_what_to_add(tmp_path):
    with pytest.raises(InputError, match='no tokenizer: put a tokenizer.json'):
        load_tokenizer(tmp_path)


def test_documents_go_on(byte_level):
    """Where a tokeniser ends sequences too, the end is left out, but not one that was written."""
    backend = tokenizers.Tokenizer.from_str(byte_level.to_str())
    end, begin = (backend.token_to_id(name) for name in ('<|end|>', '<|pad|>'))
    backend.post_processor = processors.TemplateProcessing(
        single='<|pad|> $A <|end|>', special_tokens=[('<|end|>', end), ('<|pad|>', begin)]
    )
    tokenizer = JsonTokenizer(backend, {'eos_token': '<|end|>', 'bos_token': '<|pad|>'})
    hi = tokenizer.encode('hi')
    assert tokenizer.encode_document('hi') == [begin, *hi]
    assert tokenizer.encode_document('hi<|end|>') == [begin, *hi, end]
    assert tokenizer.encode_document('') == [begin]
