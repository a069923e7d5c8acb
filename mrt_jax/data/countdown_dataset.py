"""Countdown puzzles as a tensorflow-datasets dataset, without TensorFlow and without a network."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from mrt_jax.data.countdown_puzzles import SPLITS, CountdownSpec, Puzzle, draw_puzzles
from mrt_jax.data.dataset_folder import open_dataset_folder
from mrt_jax.data.sequences import MappedSequence
from mrt_jax.errors import InputError


class Countdown(tfds.core.GeneratorBasedBuilder):
    """Numbers, target and name of each puzzle; the config's spec fixes them all."""

    VERSION = tfds.core.Version('1.1.0')

    def __init__(self, spec: CountdownSpec, **kwargs) -> None:
        self._spec = spec
        super().__init__(file_format='array_record', **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f'Countdown puzzles drawn by {self._spec}.',
            features=tfds.features.FeaturesDict(
                {
                    'numbers': tfds.features.Sequence(tfds.features.Scalar(np.int32)),
                    'target': tfds.features.Scalar(np.int32),
                    'key': tfds.features.Text(),
                }
            ),
            # Written in the order of `draw_puzzles`: examples are found again by index.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: object) -> dict[str, object]:
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str):
        for index, puzzle in enumerate(draw_puzzles(self._spec, split)):
            numbers = list(puzzle.numbers)
            yield index, {'numbers': numbers, 'target': puzzle.target, 'key': puzzle.key}


def load_puzzles(spec: CountdownSpec, split: str) -> Sequence[Puzzle]:
    """The puzzles of a split, read by index; the dataset is built when it is not there.

    Raises:
        InputError: no such split, or the dataset's files cannot be written or are damaged.
    """
    if split not in SPLITS:
        raise InputError(f'countdown has no split {split!r}; it has {", ".join(SPLITS)}')
    # A spec has a folder of its own, so that a changed spec never reads another one's puzzles.
    text = json.dumps(dataclasses.asdict(spec), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    name = f'{Countdown.name}-{Countdown.VERSION}-{digest}'
    folder = open_dataset_folder(name, lambda folder: Countdown(spec, data_dir=folder))
    source = Countdown(spec, data_dir=folder).as_data_source(split=split)
    return MappedSequence(
        source,
        lambda row: Puzzle(tuple(int(n) for n in row['numbers']), int(row['target'])),
    )
