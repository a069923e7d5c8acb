"""What TensorBoard shows of a step: distributions, and traces as a page that its text plugin keeps.
"""

import html
import re

import numpy as np
import pytest
from tensorboard.plugin_util import markdown_to_safe_html

from mrt_jax.kernels.episodes import Episodes
from mrt_jax.kernels.progress import Success
from mrt_jax.methods.experience import Experience, make_reader
from mrt_jax.methods.prover import Proof
from mrt_jax.methods.trace_text import MAX_CHARACTERS
from mrt_jax.policies.chat import ChatTemplate
from mrt_jax.sampling.sampler import Rollout, encode_prompts
from mrt_jax.tasks.countdown_tokenizer import CHAT_TEMPLATE, countdown_tokenizer
from mrt_jax.tasks.task import Verdict, get_task
from mrt_jax.training.exhibits import exhibits_of, is_due
from mrt_jax.training.rl_batch import agreement
from mrt_jax.training.trace_markdown import plain, trace_markdown

EPISODES = ('Try 3*5=15\n', 'Try 3+5=8\n', 'Try 3-5\n')
ENDING = '</think>Answer: 3*5'
# J of three traces at their boundaries, of two answers each; the third trace has one episode.
SUCCESS = np.array([[0.5, 1.0, 0.0, 0.0], [0.0, 0.0, 0.5, 1.0], [1.0, 1.0, 0.0, 0.0]], np.float32)


@pytest.fixture(scope='module')
def reader():
    tokenizer = countdown_tokenizer()
    chat = ChatTemplate(CHAT_TEMPLATE, tokenizer.special_tokens)
    return make_reader(
        get_task('countdown'), tokenizer, chat, tokenizer.eos_ids, tokenizer.vocab_size
    )


@pytest.fixture(scope='module')
def experience(reader):
    encode = reader.tokenizer.encode
    parts = [*map(encode, EPISODES), encode(ENDING)]
    tokens = [*sum(parts, []), 0, 0]  # Padding behind the end.
    ends = np.cumsum([0, *map(len, parts[:-1])])
    prompts = encode_prompts([encode('3 5 make 15\n')] * 3, 20)
    rollout = Rollout(
        prompt_tokens_BP=prompts.tokens_BP, prompt_lengths_B=prompts.lengths_B,
        tokens_BT=np.array([tokens] * 3), logprobs_BT=None, sampled_BT=None,
        lengths_B=np.array([len(tokens) - 2] * 3), thought_closed_B=None,
        forced_B=np.array([False, True, False]), ended_B=np.array([True] * 3), caches=(),
    )
    episodes = Episodes(
        np.array([ends, ends, [0, *[ends[-1]] * 3]]), np.array([3, 3, 1])
    )
    verdicts = tuple(Verdict(right, '15', 'equal') for right in (True, False, True))
    return Experience(rollout, episodes, verdicts, np.array([1, 0, 1], np.float32))


def proof_of(answers: int) -> Proof:
    counts = np.full(SUCCESS.shape, answers, np.float32)
    return Proof(Success(SUCCESS, np.zeros_like(SUCCESS), counts), counts, 0, None)


def cells_of(markdown: str) -> list[list[str]]:
    """Texts of the cells that TensorBoard shows, row by row."""
    page = markdown_to_safe_html(markdown)
    rows = re.findall(r'<tr>(.*?)</tr>', page, re.DOTALL)
    cells = [re.findall(r'<t[hd].*?>(.*?)</t[hd]>', row, re.DOTALL) for row in rows]
    strip = lambda cell: html.unescape(re.sub('<(?!br).*?>', '', cell))  # noqa: E731
    return [[strip(cell) for cell in row] for row in cells]


def test_an_episode_is_a_line_with_j_and_the_colour_of_its_progress(reader, experience):
    markdown = trace_markdown(reader, experience, proof_of(2), 0)
    assert cells_of(markdown) == [
        ['J', 'progress', 'episode'],
        ['50%', '', 'before any thought'],
        ['100%', '🟩 +50%', 'Try 3*5=15'],
        ['0%', '🟥 -100%', 'Try 3+5=8'],
        ['0%', '⬜ +0%', 'Try 3-5'],
        ['', '', ENDING],
    ]
    page = html.unescape(markdown_to_safe_html(markdown))
    assert '3 5 make 15' in page and 'cut' not in page
    assert f'right, {experience.rollout.lengths_B[0]} tokens' in page


def test_without_the_meta_prover_the_text_is_there(reader, experience):
    markdown = trace_markdown(reader, experience, None, 1)
    assert cells_of(markdown) == [['episode'], *([text.strip()] for text in EPISODES), [ENDING]]
    assert 'wrong' in markdown and 'thought cut at its budget' in markdown


@pytest.mark.parametrize('text', [
    'a|b', '<think>5*3*2</think>', '1. one\n2. two', '# no heading', '`code` [x](y)',
    '$x_1$ & ~~y~~', 'https://example.org', '&lt;', 'Grün 🟩', '\\boxed{3}',
])
def test_text_is_shown_as_it_is(text):
    [_, [shown]] = cells_of(f'| x |\n| --- |\n| {plain(text)} |')
    assert shown.replace('<br>', '\n') == text


def test_long_texts_are_cut_in_their_middle():
    [_, [shown]] = cells_of(f'| x |\n| --- |\n| {plain("ab" * MAX_CHARACTERS)} |')
    assert len(shown) < MAX_CHARACTERS + 40 and f'[…{MAX_CHARACTERS} characters…]' in shown


def test_distributions_and_the_first_trace_of_each_group(reader, experience):
    exhibits = exhibits_of(reader, experience, proof_of(2), group_size=2)
    lengths = experience.rollout.lengths_B
    np.testing.assert_array_equal(exhibits['histograms/response_tokens'].values, lengths)
    np.testing.assert_array_equal(
        exhibits['histograms/success'].values, [0.5, 1, 0, 0, 0, 0, 0.5, 1, 1, 1]
    )
    traces = [trace_markdown(reader, experience, proof_of(2), row) for row in (0, 2)]
    assert exhibits['texts/traces'].text == '\n\n---\n\n'.join(traces)
    assert 'histograms/success' not in exhibits_of(reader, experience, None, group_size=1)


def test_steps_that_are_shown():
    assert [done for done in range(1, 7) if is_due(3, done)] == [3, 6]
    assert not any(is_due(0, done) for done in range(1, 7))


def test_answers_agree_where_j_is_0_or_1(experience):
    mask_BE = experience.episodes.mask_BE
    assert agreement(proof_of(2), mask_BE) == {'unanimous': pytest.approx(0.8)}
    assert agreement(proof_of(1), mask_BE) == {}  # A single answer agrees with itself.
