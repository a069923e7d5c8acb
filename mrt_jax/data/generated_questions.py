"""Questions of the reasoning-gym package's generators, drawn into splits that share none.

The package makes questions and reference answers; nothing that a policy writes ever reaches it,
since its scorers evaluate their text.
"""

import dataclasses
import decimal
import importlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from typing import Any

from mrt_jax.errors import InputError

PACKAGE, PACKAGE_VERSION = 'reasoning-gym', '0.1.25'
REQUIREMENTS = 'requirements-smollm2.txt'
SPLITS = ('train', 'validation', 'test')
MAX_MISSES = 2000  # draws in a row without a new question after which there is none
# Item i of a generator follows from its seed + i, so that seeds must lie further apart than draws.
MAX_DRAWS, SEEDS_APART = 1_000_000, 1 << 24


@dataclasses.dataclass(frozen=True)
class QuestionSpec:
    """What is drawn; it fixes the questions.

    Attributes:
        generator: name in the package, such as 'chain_sum'.
        parameters: of the generator, as JSON values; its defaults hold for the others.
        sizes: questions of the train, validation and test splits.
        seed: of the draws.
    """

    generator: str
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sizes: tuple[int, int, int] = (5000, 512, 1024)
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.sizes) != len(SPLITS) or not all(_is_count(size) for size in self.sizes):
            raise InputError(
                f'{self.generator}: size counts the questions of {", ".join(SPLITS)}, such as '
                f'[5000,512,1024]; got {list(self.sizes)}'
            )
        if not _is_count(self.seed):
            raise InputError(
                f'{self.generator}: seed is a whole number of at least 0, got {self.seed!r}'
            )


@dataclasses.dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        number: what the generator made it from, unique within a dataset.
        text: the question.
        answer: the generator's answer.
    """

    number: int
    text: str
    answer: str


@dataclasses.dataclass(frozen=True)
class DrawnSplit:
    """A split's questions, all different, and how many draws were not used.

    Attributes:
        questions: in the order drawn.
        repeated: drawn before in this split.
        elsewhere: in a split that was drawn before this one.
        unreadable: with an answer that the checker cannot read.
    """

    questions: tuple[Question, ...]
    repeated: int
    elsewhere: int
    unreadable: int


def draw_splits(
    spec: QuestionSpec, readable: Callable[[str], bool]
) -> dict[str, DrawnSplit]:
    """Draws every split.

    What is held out is drawn first and training does without its questions: so the test split is
    what the generator makes, however long the training split.

    Args:
        spec: what to draw.
        readable: whether the checker can read an answer; questions with another are not used.

    Raises:
        InputError: the package is missing, does not take the parameters, or has too few different
            questions.
    """
    drawn, taken = {}, set()
    for split in reversed(SPLITS):
        drawn[split] = _draw_split(spec, split, taken, readable)
        taken |= {question.text for question in drawn[split].questions}
    return {split: drawn[split] for split in SPLITS}


def _draw_split(
    spec: QuestionSpec, split: str, taken: set[str], readable: Callable[[str], bool]
) -> DrawnSplit:
    index = SPLITS.index(split)
    size, seed = spec.sizes[index], (len(SPLITS) * spec.seed + index) * SEEDS_APART
    draw = _open_generator(spec, seed)
    questions: dict[str, Question] = {}
    repeated = elsewhere = unreadable = misses = 0
    for place in range(MAX_DRAWS):
        if len(questions) == size:
            return DrawnSplit(tuple(questions.values()), repeated, elsewhere, unreadable)
        text, answer = draw(place)
        misses += 1
        if text in taken:
            elsewhere += 1
        elif text in questions:
            repeated += 1
        elif not readable(answer):
            unreadable += 1
        else:
            misses = 0
            questions[text] = Question(seed + place, text, answer)
        if misses > MAX_MISSES:
            break
    raise InputError(
        f'{_describe(spec)}: found {len(questions)} different {split} questions; further draws '
        f'only repeat them ({repeated}), are in other splits ({elsewhere}) or have no answer that '
        f'can be checked ({unreadable}); ask for fewer than {size} or widen the parameters'
    )


def _open_generator(spec: QuestionSpec, seed: int) -> Callable[[int], tuple[str, str]]:
    """Question and answer by place; the package is imported here and nowhere else."""
    package = _import_package(spec.generator)
    _, config_class = package.factory.DATASETS[spec.generator]
    parameters = {
        name: _read_parameter(spec, name, value, config_class)
        for name, value in spec.parameters.items()
    }
    try:
        dataset = package.create_dataset(
            spec.generator, seed=seed, size=MAX_DRAWS, **parameters
        )
    except Exception as error:  # Generators refuse values with exceptions of any kind.
        raise InputError(f'{_describe(spec)}: the generator refuses this: {error}') from error

    def draw(place: int) -> tuple[str, str]:
        # Some generators compute in the thread's decimal context, and one changes it.
        with decimal.localcontext(decimal.Context()):
            try:
                item = dataset[place]
            except Exception as error:
                raise InputError(
                    f'{_describe(spec)}: the generator fails with these parameters: {error!r}'
                ) from error
        return item['question'].strip(), str(item['answer'])

    return draw


def _import_package(generator: str) -> Any:
    say = f'{generator}: its questions are made by the package {PACKAGE} {PACKAGE_VERSION}'
    todo = f'pip install -r {REQUIREMENTS}'
    try:
        package = importlib.import_module(PACKAGE.replace('-', '_'))
    except ImportError as error:
        raise InputError(f'{say}, which cannot be imported ({error}): {todo}') from error
    version = importlib.metadata.version(PACKAGE)
    if version != PACKAGE_VERSION:
        raise InputError(f'{say}, and {version} is installed: {todo}')
    return package


def _read_parameter(spec: QuestionSpec, name: str, value: Any, config_class: type) -> Any:
    """A JSON value as the generator takes it.

    Raises:
        InputError: the generator has no such parameter, or of another type.
    """
    defaults = vars(config_class())
    known = sorted(
        field.name for field in dataclasses.fields(config_class)
        if field.name not in ('seed', 'size')
        and isinstance(defaults[field.name], bool | int | float | str | list | tuple)
    )
    if name not in known:
        raise InputError(
            f'{spec.generator} has no parameter {name!r}; it has {", ".join(known) or "none"}, '
            'and size and seed of the dataset'
        )
    default = defaults[name]
    fits, form = _form_of(default)
    if not fits(value):
        raise InputError(
            f'{spec.generator}: {name} is {form}, as JSON, such as {_as_json(default)}; '
            f'got {_as_json(value)}'
        )
    return type(default)(value)


def _form_of(default: Any) -> tuple[Callable[[Any], bool], str]:
    """What values may stand for a default, and how they are called."""
    if isinstance(default, bool):
        return lambda value: isinstance(value, bool), 'true or false'
    if isinstance(default, int):
        return _is_whole, 'a whole number'
    if isinstance(default, float):
        return lambda value: _is_whole(value) or isinstance(value, float), 'a number'
    if isinstance(default, str):
        return lambda value: isinstance(value, str), 'a text in double quotes'
    each = _form_of(default[0])[0] if default else lambda value: True
    return lambda value: isinstance(value, list) and all(map(each, value)), 'a list'


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value >= 0


def _as_json(value: Any) -> str:
    return json.dumps(value, separators=(',', ':'))


def _describe(spec: QuestionSpec) -> str:
    given = ', '.join(f'{name}={_as_json(value)}' for name, value in spec.parameters.items())
    return f'{spec.generator} ({given})' if given else spec.generator
