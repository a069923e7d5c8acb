r"""Mathematics: a thought between <think> tags, then an answer in a box.

The thought is read as R1-style models write it: paragraphs that begin with "Wait" and the like open
episodes (MRT section 2.1), and the meta-prover ends it with the text of the published evaluation.
"""

from collections.abc import Sequence
from typing import Any

from mrt_jax.errors import InputError
from mrt_jax.kernels.episodes import ParagraphMarkers
from mrt_jax.tasks.boxed import extract_boxed
from mrt_jax.tasks.math_judge import shared_judge
from mrt_jax.tasks.task import Problem, Task, Verdict

THINK_END = '</think>'
# MRT's repository, pass_at_k_given_prefix.py; it follows a prefix that ends with a paragraph.
TERMINATION = (
    "Time is up.\n\nGiven the time I've spent and the approaches I've tried, I should stop "
    'thinking and formulate a final answer based on what I already have.\n</think>\n\n'
    '**Step-by-Step Explanation and Answer:**\n\n1. **'
)
CONCLUSION = f'\n{THINK_END}'


def check(response: str, answer: Any) -> Verdict:
    """Judges a response by the last box behind its thought.

    Args:
        response: whole text, thought included.
        answer: the reference, LaTeX or plain text, without a box; a number will do.

    Raises:
        InputError: the reference is no text and no number.
    """
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise InputError(f'an answer of mathematics is a text or a number, got {answer!r}')
    extracted = extract_boxed(response, THINK_END)
    if extracted is None:
        return Verdict(False, None, 'no_answer')
    outcome = shared_judge().judge(extracted, str(answer))
    return Verdict(outcome == 'equal', extracted, outcome)


def make_task() -> Task:
    """The task of any mathematical problem, to judge responses and traces with."""

    def problems(split: str) -> Sequence[Problem]:
        raise InputError(f"task 'math' has no problems of its own to take {split} problems from")

    return Task(
        name='math',
        rule=ParagraphMarkers(),
        think_end=THINK_END,
        termination=TERMINATION,
        conclusion=CONCLUSION,
        stop=(),
        problems=problems,
        check=check,
    )


TASKS = {'math': make_task}
