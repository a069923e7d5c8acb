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
    _, marked, answer = rest.rpartition(ANSWER)
    if not ended or not marked:
        return None
    return answer.strip().partition('\n')[0].strip() or None
