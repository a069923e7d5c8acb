r"""Answers in a box: `\boxed{...}`."""

_BOXES = ('\\boxed', '\\fbox')


def last_box(text: str) -> str | None:
    """Content of the last box of a text; None if there is none, or it is not closed."""
    start = max(text.rfind(box) for box in _BOXES)
    opening = text.find('{', start)
    # Nothing but spaces may stand between the command and its braces.
    if start < 0 or opening < 0 or text[start:opening].rstrip() not in _BOXES:
        return None
    return _in_braces(text, opening)


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
