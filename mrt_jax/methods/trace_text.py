"""Traces as texts for readers."""

from collections.abc import Sequence

from mrt_jax.policies.tokenizers import Tokenizer

MAX_CHARACTERS = 320


def episode_texts(
    tokenizer: Tokenizer, tokens: Sequence[int], boundaries: Sequence[int]
) -> tuple[list[str], str]:
    """The episodes of a response, and what stands behind the last.

    Args:
        tokenizer: of the policy.
        tokens: of the response.
        boundaries: tokens in each prefix, the empty one first, the whole thought last.
    """
    pieces = [tokens[a:b] for a, b in zip([0, *boundaries], [*boundaries, None], strict=True)]
    # Before the first boundary there is no episode.
    _, *episodes, ending = tokenizer.decode_parts(pieces)
    return episodes, ending


def shorten(text: str) -> str:
    """Cuts text of more than `MAX_CHARACTERS` in its middle."""
    if len(text) <= MAX_CHARACTERS:
        return text
    half = MAX_CHARACTERS // 2
    return f'{text[:half]} […{len(text) - 2 * half:,} characters…] {text[-half:]}'
