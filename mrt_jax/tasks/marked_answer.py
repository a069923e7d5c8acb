"""Answers that stand in a marked line behind the thought:

    ... the thought ...
    </think>
    Answer: 42
"""

THINK_END = '</think>'
ANSWER = 'Answer:'
CONCLUSION = f'{THINK_END}\n{ANSWER} '  # ends a thought and asks for the answer


def extract_answer(response: str) -> str | None:
    """The line that answers: after the thought's end and the last 'Answer:' behind it."""
    _, ended, rest = response.rpartition(THINK_END)
    return extract_direct(rest) if ended else None


def extract_direct(response: str) -> str | None:
    """The line that answers in a response without a thought block: after the last 'Answer:'."""
    _, marked, answer = response.rpartition(ANSWER)
    return answer.strip().partition('\n')[0].strip() or None if marked else None
