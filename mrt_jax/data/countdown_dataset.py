"""Countdown puzzles as a tensorflow-datasets dataset, without TensorFlow and without a network."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from mrt_jax.data.countdown_puzzles import CountdownSpec, Puzzle, draw_puzzles
from mrt_jax.data.sequences import MappedSequence
from mrt_jax.errors import InputError

DATA_VARIABLE = 'MRT_JAX_DATA'


class Countdown(tfds.core.GeneratorBasedBuilder):
    """Numbers, target and name of each puzzle; the config's spec fixes them all."""

    VERSION = tfds.core.Version('1.0.0')

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
            # Order of writing is order of drawing: examples are found again by index.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: object) -> dict[str, object]:
        return {
            split: self._generate_examples(split) for split in ('train', 'validation', 'test')
        }

    def _generate_examples(self, split: str):
        for index, puzzle in enumerate(draw_puzzles(self._spec, split)):
            numbers = list(puzzle.numbers)
            yield index, {'numbers': numbers, 'target': puzzle.target, 'key': puzzle.key}


def data_directory() -> Path:
    """Where datasets are kept: $MRT_JAX_DATA, else the user's cache folder."""
    if DATA_VARIABLE in os.environ:
        return Path(os.environ[DATA_VARIABLE])
    cache = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(cache) / 'mrt_jax' / 'datasets'


def load_puzzles(spec: CountdownSpec, split: str) -> Sequence[Puzzle]:
    """The puzzles of a split, read by index; the dataset is built when it is not there.

    Raises:
        InputError: the dataset's files cannot be read.
    """
    # A spec has a folder of its own, so that a changed spec never reads another one's puzzles.
    text = json.dumps(dataclasses.asdict(spec), sort_keys=True)
    folder = data_directory() / hashlib.sha256(text.encode()).hexdigest()[:16]
    builder = Countdown(spec, data_dir=folder)
    try:
        builder.download_and_prepare()
        source = builder.as_data_source(split=split)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f'{folder}: the countdown dataset cannot be read ({error}); delete the folder to have '
            f'it built again, or set ${DATA_VARIABLE} to a folder that can be written'
        ) from error
    return MappedSequence(
        source,
        lambda row: Puzzle(tuple(int(n) for n in row['numbers']), int(row['target'])),
    )
