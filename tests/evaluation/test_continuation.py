"""Going on from contexts: the text that follows, what of it is kept, and the answers behind it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt_jax.errors import InputError
from mrt_jax.evaluation.continuation import Context, Piece, make_continuer
from mrt_jax.evaluation.evaluate import evaluate_policy
from mrt_jax.policies.complete import Completion
from mrt_jax.sampling.forward import next_logits, read_tokens
from mrt_jax.sampling.phases import Budget
from mrt_jax.sampling.processors import SamplingConfig
from mrt_jax.tasks.mathematics import CUES
from mrt_jax.tasks.task import get_task
from tests.evaluation.synthetic import judge_length

GREEDY = SamplingConfig(temperature=0.0)
OPTIONS = dict(branches=3, max_answer_tokens=6, seed=5, batch_size=4)
CUE = '\nTry '


@pytest.fixture(scope='module')
def task():
    return dataclasses.replace(get_task('countdown'), check=judge_length)


@pytest.fixture(scope='module')
def continuer(policy, task):
    return make_continuer(policy, task, sampling=SamplingConfig(), **OPTIONS)


@pytest.fixture(scope='module')
def contexts(policy, problems):
    """Thoughts of several lengths; the first is empty and one does not end in a newline."""
    texts = ['', 'Try 3 no\n', 'Try 3+5=8 no\nTry 3', 'Try 3 no\n' * 4]
    return [
        Context(
            problem, sample, tuple(policy.encode_messages(problem.messages)),
            tuple(policy.tokenizer.encode(text)), complete=sample == 1,
        )
        for sample, (problem, text) in enumerate(zip(problems, texts, strict=False))
    ]  # fmt: skip


@functools.partial(jax.jit, static_argnames='model')
def likeliest(model, params, tokens_1T, length):
    """The likeliest token behind the first `length`."""
    hidden_1TD, _ = read_tokens(model, params, tokens_1T, jnp.arange(tokens_1T.shape[1])[None])
    return next_logits(model, params, hidden_1TD[:, length - 1]).argmax()


def write_greedily(continuer, text, count):
    """The likeliest tokens behind a text, one whole forward pass each, to the end of sequence."""
    policy, tokens = continuer.policy, continuer.reader.tokenizer.encode(text)
    start = len(tokens)
    while len(tokens) < start + count and tokens[-1] not in policy.eos_ids:
        padded_1T = np.pad(tokens, (0, 64 - len(tokens)))[None]
        tokens.append(int(likeliest(continuer.model, policy.params, padded_1T, len(tokens))))
    return tokens[start:]


def test_a_greedy_continuation_is_what_the_policy_writes_behind_the_same_text(
    policy, task, contexts
):
    continuer = make_continuer(policy, task, sampling=GREEDY, **OPTIONS)
    cues = [continuer.cue_tokens(context, CUE) for context in contexts[1:3]]
    pieces = continuer.go_on(contexts[1:3], cues, turn=1, max_new_tokens=10, stop=None)
    for context, piece, cue in zip(contexts[1:3], pieces, ['Try ', '\nTry '], strict=True):
        prompt = policy.chat.render(context.problem.messages)
        text = prompt + policy.tokenizer.decode(context.thought) + cue
        written = write_greedily(continuer, text, 10)
        cue_ids = tuple(policy.tokenizer.encode(cue))
        ended = written[-1] in policy.eos_ids
        expected = continuer.read_piece(cue_ids, Completion(tuple(written), (), ended))
        assert piece == expected and piece.sampled == len(written)


def test_greedy_answers_are_those_of_the_evaluation(policy, task, problems):
    records = evaluate_policy(
        policy, task, problems, budget=Budget(24, 6), sampling=GREEDY, num_samples=1, branches=1,
        max_boundaries=3, batch_size=8,
    )
    continuer = make_continuer(policy, task, sampling=GREEDY, **(OPTIONS | {'branches': 2}))
    contexts = [
        Context(
            problem, 0, tuple(continuer.reader.prompt_tokens(problem)), record.thought_ids,
            not record.forced,
        )
        for problem, record in zip(problems, records, strict=True)
    ]  # fmt: skip
    for record, answers in zip(records, continuer.answer(contexts, turn=0), strict=True):
        assert [answer.correct for answer in answers] == [record.success[-1] == 1] * 2
        assert [answer.tokens for answer in answers] == [record.answer_tokens[-1]] * 2


def test_a_plain_answer_has_no_text_that_ends_the_thought(policy, task, contexts):
    continuer = make_continuer(policy, task, sampling=GREEDY, **OPTIONS)
    seen = []
    judging = dataclasses.replace(
        continuer.reader,
        task=dataclasses.replace(
            task, check=lambda text, answer: seen.append(text) or judge_length(text, answer)
        ),
    )
    continuer = dataclasses.replace(continuer, reader=judging)
    continuer.answer(contexts[:2], turn=0, plain=True)
    for context, text in zip(contexts[:2], seen, strict=True):
        thought = policy.tokenizer.decode(context.thought)
        prompt = policy.chat.render(context.problem.messages)
        written = write_greedily(continuer, prompt + thought, 6)
        assert text == thought + policy.tokenizer.decode(written)
    seen.clear()
    continuer.answer(contexts[:2], turn=0)
    assert seen[0].startswith(task.termination)
    assert seen[1].startswith('Try 3 no\n' + task.conclusion)


def test_what_is_drawn_depends_neither_on_the_batch_nor_on_its_size(policy, task, contexts):
    def run(contexts, batch_size):
        continuer = make_continuer(
            policy, task, sampling=SamplingConfig(), **(OPTIONS | {'batch_size': batch_size})
        )
        stop = continuer.stop_matcher(at_openings=True)
        cues = [continuer.cue_tokens(context, CUE) for context in contexts]
        pieces = continuer.go_on(contexts, cues, turn=1, max_new_tokens=16, stop=stop)
        return list(zip(pieces, continuer.answer(contexts, turn=1), strict=True))

    together = run(contexts, 4)
    assert run(contexts[::-1], 8) == together[::-1]
    assert run(contexts[2:3], 4) == together[2:3]
    assert len({piece.tokens for piece, _ in together}) > 1


def test_rounds_and_samples_have_random_numbers_of_their_own(continuer, contexts):
    twins = [contexts[3], dataclasses.replace(contexts[3], sample=9)]
    stop = continuer.stop_matcher(at_openings=True)
    cues = [continuer.cue_tokens(context, CUE) for context in twins]
    first = continuer.go_on(twins, cues, turn=1, max_new_tokens=16, stop=stop)
    again = continuer.go_on(twins, cues, turn=2, max_new_tokens=16, stop=stop)
    assert len({piece.tokens for piece in [*first, *again]}) > 2


def test_cues_begin_a_line_once(policy, continuer, contexts):
    thought = tuple(policy.tokenizer.encode('Try 5 no\n\n'))
    contexts = [*contexts, dataclasses.replace(contexts[0], thought=thought)]
    cues = [policy.tokenizer.decode(continuer.cue_tokens(context, CUE)) for context in contexts]
    # The prompt of an empty thought ends in a newline, too.
    assert cues == ['Try ', 'Try ', '\nTry ', 'Try ', 'Try ']
    waits = [policy.tokenizer.decode(continuer.cue_tokens(c, CUES[0])) for c in contexts]
    assert waits == ['\nWait', '\nWait', '\n\nWait', '\nWait', 'Wait']


@pytest.mark.parametrize(
    'sampled, ended, kept, complete, opening',
    [
        ('3 no\nTry 4 no\nTry 5', False, '3 no\nTry 4 no\n', False, ''),
        ('3 no\nTry ', True, '3 no\n', False, 'Try '),  # Stopped at the next attempt.
        ('3 no', False, None, False, ''),  # No whole attempt: all of it goes, the cue too.
        ('3 no\nTry 4</think>', True, '3 no\nTry 4', True, ''),
        ('3 no\n<|end|>', True, '3 no\n', True, ''),
        ('<|end|>', True, '', True, ''),
    ],
)
def test_what_is_kept_of_a_piece(policy, continuer, sampled, ended, kept, complete, opening):
    encode = policy.tokenizer.encode
    cue, tokens = tuple(encode('\nTry ')), tuple(encode(sampled))
    expected = () if kept is None else (*cue, *encode(kept))
    piece = continuer.read_piece(cue, Completion(tokens, (), ended))
    assert piece == Piece(expected, len(tokens), complete, tuple(encode(opening)))


def test_a_stop_string_of_the_task_ends_the_thought(policy, task):
    stopping = dataclasses.replace(task, think_end='', stop=('yes',))
    continuer = make_continuer(policy, stopping, sampling=GREEDY, **OPTIONS)
    tokens = tuple(policy.tokenizer.encode('3 no\nTry 4 yes'))
    piece = continuer.read_piece((), Completion(tokens, (), True))
    assert piece == Piece(tokens, len(tokens), complete=True)


def test_paragraphs_that_were_cut_are_dropped(policy):
    continuer = make_continuer(policy, get_task('math'), sampling=GREEDY, **OPTIONS)
    encode = policy.tokenizer.encode
    cue = tuple(encode('\n\nWait'))
    for text, kept in [
        (', a.\n\nb.\n\nc', ', a.\n\nb.\n\n'),
        (', a', None),  # The newlines of the cue separate no whole paragraph.
        (', a.\n\n', ', a.\n\n'),
    ]:
        tokens = tuple(encode(text))
        piece = continuer.read_piece(cue, Completion(tokens, (), False))
        assert piece.tokens == (() if kept is None else (*cue, *encode(kept)))


def test_room_is_checked(continuer):
    texts = continuer.longest_text + OPTIONS['max_answer_tokens']
    continuer.check_room(256 - texts, 'shorten')
    with pytest.raises(InputError, match='257 positions.* has 256: shorten'):
        continuer.check_room(257 - texts, 'shorten')
