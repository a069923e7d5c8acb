r"""Mathematics: a thought between <think> tags, then an answer in a box.

The thought is read as R1-style models write it: paragraphs that begin with "Wait" and the like open
episodes (MRT section 2.1), and the meta-prover ends it with the text of the published evaluation.
`math_direct` is for policies without a thought block: the whole response is the thought, and the
last box anywhere in it is the answer.
"""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mrt_jax.data.boxes import last_box
from mrt_jax.data.sequences import MappedSequence
from mrt_jax.errors import InputError
from mrt_jax.kernels.episodes import ParagraphMarkers
from mrt_jax.tasks.math_judge import shared_judge
from mrt_jax.tasks.task import Problem, Task, Verdict

if TYPE_CHECKING:
    from mrt_jax.data.problem_files import MathProblem

INSTRUCTION = 'Please reason step by step, and put your final answer within \\boxed{}.'
THINK_END = '</think>'
# MRT's repository, pass_at_k_given_prefix.py; it follows a prefix that ends with a paragraph.
TERMINATION = (
    "Time is up.\n\nGiven the time I've spent and the approaches I've tried, I should stop "
    'thinking and formulate a final answer based on what I already have.\n</think>\n\n'
    '**Step-by-Step Explanation and Answer:**\n\n1. **'
)
CONCLUSION = f'\n{THINK_END}'
DIRECT_TERMINATION = (
    "Time is up.\n\nGiven the time I've spent and the approaches I've tried, I should stop and "
    'give a final answer based on what I already have.\n\n**Final Answer:** \\boxed{'
)
DIRECT_CONCLUSION = '\n\n**Final Answer:** \\boxed{'
# MRT section 6.7. Behind a thought that ends in a newline, as R1's do, one more is the paper's; one
# that was cut gets two, so that the cue opens an episode there, too.
CUES = ('\n\nWait', '\n\nBut wait', '\n\nAlternatively', '\n\nBut hold on')
KINDS = ('math', 'math_direct')
_SEARCHED = 20_000  # characters at a response's end in which a box is looked for


def extract_boxed(response: str) -> str | None:
    """Content of the last box behind the thought's end; None without one."""
    _, ended, answer = response.rpartition(THINK_END)
    return extract_direct(answer) if ended else None


def extract_direct(response: str) -> str | None:
    """Content of the last box of a response without a thought block; None without one."""
    return last_box(response[-_SEARCHED:])


def check(
    response: str, answer: Any, extract: Callable[[str], str | None] = extract_boxed
) -> Verdict:
    """Judges a response by its box.

    Args:
        response: whole text, thought included.
        answer: the reference, LaTeX or plain text, without a box; a number will do.
        extract: finds the answer in the response.

    Raises:
        InputError: the reference is no text and no number.
    """
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise InputError(f'an answer of mathematics is a text or a number, got {answer!r}')
    extracted = extract(response)
    if extracted is None:
        return Verdict(False, None, 'no_answer')
    outcome = shared_judge().judge(extracted, str(answer))
    return Verdict(outcome == 'equal', extracted, outcome)


def make_task(name: str) -> Task:
    """The task 'math', to judge responses with, or 'math:DATASET' with problems of its own.

    DATASET is a name in `data.math_dataset.READY` or the path of a file of problems. 'math_direct'
    is the same for policies without a thought block.
    """
    kind, _, source = name.partition(':')
    direct = kind == 'math_direct'

    def problems(split: str) -> Sequence[Problem]:
        if not source:
            raise InputError(
                f'task {name!r} has no {split} problems: name a dataset, such as {kind}:aime2024'
            )
        # tensorflow-datasets is slow to import and not needed to check an answer.
        from mrt_jax.data.math_dataset import load_math_problems

        return MappedSequence(load_math_problems(source, split), _pose)

    return Task(
        name=name,
        rule=ParagraphMarkers(),
        think_end='' if direct else THINK_END,
        termination=DIRECT_TERMINATION if direct else TERMINATION,
        conclusion=DIRECT_CONCLUSION if direct else CONCLUSION,
        stop=(),
        problems=problems,
        check=functools.partial(check, extract=extract_direct) if direct else check,
        checks_at_once=shared_judge().workers,
        cues=CUES,
    )


def _pose(problem: 'MathProblem') -> Problem:
    content = f'{problem.problem}\n\n{INSTRUCTION}'
    return Problem(problem.id, ({'role': 'user', 'content': content},), problem.answer)
