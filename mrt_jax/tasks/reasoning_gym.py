"""Questions of the reasoning-gym package as tasks: `reasoning_gym:chain_sum`.

Parameters of a generator follow a colon: `reasoning_gym:chain_sum:max_terms=3,max_digits=2`, with
values as JSON; `size` (questions of the train, validation and test splits, a list) and `seed` are
those of the dataset. The package makes the questions. It never sees what a policy writes: answers
are read by the grammars of `answer_types`.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrt_jax.data.sequences import MappedSequence
from mrt_jax.data.sum_traces import SumUnsteadiness, draw_sum_trace
from mrt_jax.errors import InputError
from mrt_jax.kernels.episodes import AttemptMarkers
from mrt_jax.tasks import answer_types
from mrt_jax.tasks.answer_types import AnswerError, AnswerType
from mrt_jax.tasks.marked_answer import ANSWER, CONCLUSION, THINK_END, extract_answer
from mrt_jax.tasks.name_parameters import read_parameters
from mrt_jax.tasks.task import Problem, Task, Verdict, Written

PREFIX = 'reasoning_gym:'
INSTRUCTION = 'Think in attempts, then end with a line "Answer:" and the answer.'
ATTEMPT = 'Try '

_BY_ANSWER: Mapping[AnswerType, tuple[str, ...]] = {
    answer_types.NUMBER: (
        'basic_arithmetic', 'binary_alternation', 'chain_sum', 'count_bits', 'count_primes',
        'decimal_chain_sum', 'gcd', 'gsm_symbolic', 'largest_island', 'lcm', 'leg_counting',
        'letter_counting', 'number_format', 'number_sequence', 'products', 'rectangle_count',
        'simple_equations', 'simple_geometry',
    ),
    answer_types.NUMBERS: ('number_filtering', 'number_sorting'),
    answer_types.FRACTION: ('dice', 'fraction_simplification'),
    answer_types.PROBABILITY: ('coin_flip',),
    answer_types.COMPLEX: ('complex_arithmetic',),
    answer_types.FACTORS: ('prime_factorization',),
    answer_types.HEXADECIMAL: ('bitwise_arithmetic',),
    answer_types.CALENDAR: ('calendar_arithmetic',),
    answer_types.DURATION: ('time_intervals',),
    answer_types.COORDINATES: ('advanced_geometry',),
    answer_types.WORD: ('base_conversion', 'course_schedule', 'isomorphic_strings'),
    answer_types.rounded_to_figures(12, digits=12): ('decimal_arithmetic',),
}
ANSWER_TYPES: Mapping[str, AnswerType] = {
    generator: kind for kind, generators in _BY_ANSWER.items() for generator in generators
}


def make_task(name: str) -> Task:
    """The task of a name such as 'reasoning_gym:chain_sum:max_terms=3'.

    Raises:
        InputError: the generator is not supported, or its parameters are not written as above;
            whether it takes their values shows when the questions are drawn.
    """
    generator, _, text = name.removeprefix(PREFIX).partition(':')
    if generator not in ANSWER_TYPES:
        raise InputError(
            f'task {name!r}: there is no checker for the generator {generator!r}; there are for '
            f'{", ".join(sorted(ANSWER_TYPES))}'
        )
    parameters = read_parameters(name, text)
    if isinstance(size := parameters.get('size'), list):
        parameters['size'] = tuple(size)
    kind = ANSWER_TYPES[generator]

    def problems(split: str) -> Sequence[Problem]:
        # tensorflow-datasets is slow to import and not needed to check an answer.
        from mrt_jax.data.generated_dataset import load_questions
        from mrt_jax.data.generated_questions import Question, QuestionSpec

        dataset = dict(parameters)
        settings = {'sizes': dataset.pop('size', None), 'seed': dataset.pop('seed', None)}
        given = {key: value for key, value in settings.items() if value is not None}
        spec = QuestionSpec(generator, dataset, **given)

        def pose(question: Question) -> Problem:
            content = f'{question.text}\n{INSTRUCTION}'
            messages = ({'role': 'user', 'content': content},)
            return Problem(f'{generator}-{question.number}', messages, question.answer)

        return MappedSequence(load_questions(spec, split, kind.readable), pose)

    return Task(
        name=name,
        rule=AttemptMarkers(ATTEMPT),
        think_end=THINK_END,
        termination=CONCLUSION,
        conclusion=CONCLUSION,
        stop=(),
        problems=problems,
        check=functools.partial(check, kind),
        demonstrate=demonstrate_sum if generator == 'chain_sum' else None,
        words=(ATTEMPT, f'{ANSWER} '),
        cues=(f'\n{ATTEMPT}',),
    )


def check(kind: AnswerType, response: str, answer: Any) -> Verdict:
    """Judges a response by its marked answer.

    Raises:
        InputError: the reference is not an answer of this kind.
    """
    try:
        reference = kind.read(str(answer))
    except AnswerError as error:
        raise InputError(f'the answer should be {kind.form}, got {answer!r}') from error
    extracted = extract_answer(response)
    if extracted is None:
        return Verdict(False, None, 'no_answer')
    try:
        correct = kind.same(kind.read(extracted), reference)
    except AnswerError:
        return Verdict(False, extracted, 'error')
    return Verdict(correct, extracted, 'equal' if correct else 'different')


def demonstrate_sum(
    problem: Problem, settings: Mapping[str, Any], rng: np.random.Generator
) -> Written:
    """Writes attempts at a chain sum, unsteady as `settings` (see `SumUnsteadiness`) say."""
    try:
        unsteadiness = SumUnsteadiness(**settings)
    except TypeError as error:
        raise InputError(f'demonstrations: {error}') from error
    question = problem.messages[0]['content'].removesuffix(INSTRUCTION)
    chain = re.sub(r'\s', '', question.rpartition(':')[2].rpartition('=')[0])
    terms = [int(term) for term in re.findall(r'[-+]?[0-9]+', chain)]
    thought, answer = draw_sum_trace(terms, unsteadiness, rng)
    return Written(thought, str(answer))
