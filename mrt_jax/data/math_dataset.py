"""Mathematical problems as tensorflow-datasets datasets, from files that the user brings.

Nothing is downloaded. The file of a ready dataset lies in `files/` of the data directory (see
`dataset_folder`), under the dataset's name and one of the endings .jsonl, .csv and .parquet.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from mrt_jax.data.dataset_folder import DATA_VARIABLE, data_directory, open_dataset_folder
from mrt_jax.data.problem_files import SUFFIXES, MathProblem, read_problems
from mrt_jax.data.sequences import MappedSequence
from mrt_jax.errors import InputError

SPLITS = ('train', 'validation', 'test')
_HELD_OUT = 50  # One problem in so many is for validation, and one for the test.


@dataclasses.dataclass(frozen=True)
class ReadyDataset:
    """A published set of problems.

    Attributes:
        counts: problems of each file, by the file's name without its ending.
        tests: the files that are the test split; without any, the problems are divided into all
            three, else the others into train and validation.
    """

    counts: Mapping[str, int]
    tests: tuple[str, ...] = ()


def _benchmark(name: str, count: int) -> ReadyDataset:
    return ReadyDataset({name: count}, (name,))


READY: Mapping[str, ReadyDataset] = {
    'aime2024': _benchmark('aime2024', 30),
    'aime2025': _benchmark('aime2025', 30),
    'amc2023': _benchmark('amc2023', 40),
    'math500': _benchmark('math500', 500),
    'minerva': _benchmark('minerva', 272),
    'omni_math': _benchmark('omni_math', 4428),
    'gsm8k': ReadyDataset({'gsm8k_train': 7473, 'gsm8k_test': 1319}, ('gsm8k_test',)),
    'numinamath': ReadyDataset({'numinamath': 859_494}),  # NuminaMath-CoT, the training split
    'deepscaler': ReadyDataset({'deepscaler': 40_315}),
}


class MathProblems(tfds.core.GeneratorBasedBuilder):
    """Problems, answers and what else their files say.

    Args:
        problems: of each split; a builder without them reads what another one wrote.
    """

    VERSION = tfds.core.Version('1.0.0')

    def __init__(
        self, problems: Mapping[str, Sequence[MathProblem]] | None = None, **kwargs
    ) -> None:
        self._problems = problems or {}
        super().__init__(file_format='array_record', **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description='Mathematical problems with their answers.',
            features=tfds.features.FeaturesDict(
                dict.fromkeys(MathProblem._fields, tfds.features.Text())
            ),
            # Written in the order of the file: examples are found again by index.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: object) -> dict[str, object]:
        return {split: self._generate_examples(split) for split in self._problems}

    def _generate_examples(self, split: str):
        for index, problem in enumerate(self._problems[split]):
            yield index, problem._asdict()


def load_math_problems(source: str, split: str) -> Sequence[MathProblem]:
    """The problems of a split, read by index; the dataset is built when it is not there.

    Args:
        source: a name in `READY`, or the path of a file; one problem in 50 of such a file is for
            validation and one for the test, told by the problem's text.
        split: 'train', 'validation' or 'test'.

    Raises:
        InputError: there is no such dataset, file or split, a file has another number of problems
            than published, or what `read_problems` says.
    """
    ready = READY.get(source)
    if ready is None and Path(source).suffix not in SUFFIXES:
        raise InputError(
            f'there is no dataset {source!r}: give {", ".join(READY)}, or a file that ends in '
            f'{", ".join(SUFFIXES)}'
        )
    files = [_find_file(name) for name in ready.counts] if ready else [Path(source)]
    for file in files:
        if not file.is_file():
            raise InputError(f'{file}: there is no such file')
    # A changed file has another digest, and so a dataset of its own.
    digest = hashlib.sha256(b''.join(_digest(file) for file in files)).hexdigest()[:16]
    name = f'{MathProblems.name}-{MathProblems.VERSION}-{files[0].stem}-{digest}'
    folder = open_dataset_folder(
        name, lambda folder: MathProblems(_divide(files, ready), data_dir=folder)
    )
    builder = MathProblems(data_dir=folder)
    if split not in builder.info.splits:
        raise InputError(
            f'{source} has no split {split!r}; it has {", ".join(builder.info.splits)}'
        )
    return MappedSequence(
        builder.as_data_source(split=split),
        lambda row: MathProblem(**{key: value.decode() for key, value in row.items()}),
    )


def _find_file(name: str) -> Path:
    folder = data_directory() / 'files'
    found = [folder / f'{name}{suffix}' for suffix in SUFFIXES]
    for file in found:
        if file.is_file():
            return file
    raise InputError(
        f'{found[0]}: there is no such file; put the problems there, or as '
        f'{" or ".join(SUFFIXES[1:])}, with the columns problem and answer ('
        f'${DATA_VARIABLE} is the folder above files/)'
    )


def _divide(files: Sequence[Path], ready: ReadyDataset | None) -> dict[str, list[MathProblem]]:
    splits: dict[str, list[MathProblem]] = {}
    for file in files:
        problems = read_problems(file)
        if ready and len(problems) != ready.counts[file.stem]:
            raise InputError(
                f'{file}: has {len(problems)} problems, but {file.stem} has '
                f'{ready.counts[file.stem]}: this is another release or a part of it; give it a '
                'name of its own and use its path as the dataset'
            )
        tests = ready.tests if ready else ()
        for problem in problems:
            split = 'test' if file.stem in tests else _split_of(problem.problem)
            # Where the test has a file of its own, it is that file.
            split = 'train' if split == 'test' and tests and file.stem not in tests else split
            splits.setdefault(split, []).append(problem)
    return {split: splits[split] for split in SPLITS if split in splits}


def _split_of(text: str) -> str:
    """By the text alone, so that a problem stays in its split when others are added."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], 'little') % _HELD_OUT
    return {0: 'test', 1: 'validation'}.get(number, 'train')


def _digest(file: Path) -> bytes:
    with file.open('rb') as stream:
        return hashlib.file_digest(stream, 'sha256').digest()
