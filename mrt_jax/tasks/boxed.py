"""Answers in a box: `\\boxed{...}` behind the thought."""

_BOXES = ('\\boxed', '\\fbox')
_SEARCHED = 20_000  # Characters at the end of a response in which a box is looked for.


def extract_boxed(response: str, think_end: str) -> str | None:
    r"""Content of the last box behind the thought; None without one.

    Args:
        response: whole text. Boxes in the thought do not count, nor does anything if the thought
            has no end.
        think_end: text that ends the thought; '' where there is no thought block.
    """
    _, ended, answer = response.rpartition(think_end) if think_end else ('', True, response)
    if not ended:
        return None
    answer = answer[-_SEARCHED:]
    start = max(answer.rfind(box) for box in _BOXES)
    if start < 0:
        return None
    opening = answer.find('{', start)
    # Nothing but spaces may stand between the command and its braces.
    if opening < 0 or answer[start:opening].rstrip() not in _BOXES:
        return None
    return _in_braces(answer, opening)


def _in_braces(text: str, opening: int) -> str | None:
    """Text between a brace and the one that closes it; None if nothing does."""
    depth = 0
    skip = False
    for i in range(opening, len(text)):
        if skip:  # `\{` and `\}` are signs, not braces.
            skip = False
        elif text[i] == '\\':
            skip = True
        elif text[i] == '{':
            depth += 1
        elif text[i] == '}':
            depth -= 1
            if depth == 0:
                return text[opening + 1 : i].strip()
    return None
