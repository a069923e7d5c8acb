"""A sampled trace as Markdown for TensorBoard, each episode with J and a square for its progress.

TensorBoard's text page takes tables but no style, so colour comes from the squares.
"""

from collections.abc import Sequence

import numpy as np

from mrt_jax.methods.experience import Experience, Reader
from mrt_jax.methods.prover import Proof
from mrt_jax.methods.trace_text import episode_texts, shorten

RISES, FALLS, STAYS = '🟩', '🟥', '⬜'
_MARKUP = set('\\`*_{}[]()<>#+-.!|&~:/@')  # of Markdown and HTML, addresses that become links too


def trace_markdown(
    reader: Reader, experience: Experience, proof: Proof | None, row: int
) -> str:
    """One trace of a batch.

    Args:
        reader: of the task.
        experience: the batch.
        proof: J at its boundaries; None leaves out what is known of it only.
        row: of the trace.
    """
    rollout, episodes = experience.rollout, experience.episodes
    prompt = np.asarray(rollout.prompt_tokens_BP[row])
    prompt = prompt[len(prompt) - int(rollout.prompt_lengths_B[row]) :].tolist()
    tokens = np.asarray(rollout.tokens_BT[row])[: int(rollout.lengths_B[row])].tolist()
    count = int(episodes.counts_B[row]) + 1
    texts, ending = episode_texts(
        reader.tokenizer, tokens, np.asarray(episodes.boundaries_BE[row, :count]).tolist()
    )
    verdict = 'right' if experience.verdicts[row].correct else 'wrong'
    cut = ', thought cut at its budget' if bool(rollout.forced_B[row]) else ''
    success = None if proof is None else np.asarray(proof.success.mean_BE[row, :count]).tolist()
    return '\n'.join([
        f'**{verdict}, {len(tokens)} tokens{cut}**', '',
        plain(reader.tokenizer.decode(prompt)), '',
        *_table(texts, ending, success),
    ])


def plain(text: str) -> str:
    """Shortened text that Markdown shows as it is, line breaks included; fit for a table's cell."""
    escaped = ''.join(f'&#{ord(c)};' if c in _MARKUP else c for c in shorten(text.strip()))
    return escaped.replace('\n', '<br>')


def _table(texts: Sequence[str], ending: str, success: Sequence[float] | None) -> list[str]:
    if success is None:
        return ['| episode |', '| --- |', *(f'| {plain(text)} |' for text in (*texts, ending))]
    lines = ['| J | progress | episode |', '| --- | --- | --- |',
             f'| {success[0]:.0%} | | *before any thought* |']
    for text, before, after in zip(texts, success, success[1:], strict=False):
        square = RISES if after > before else FALLS if after < before else STAYS
        lines.append(f'| {after:.0%} | {square} {after - before:+.0%} | {plain(text)} |')
    return [*lines, f'| | | {plain(ending)} |']
