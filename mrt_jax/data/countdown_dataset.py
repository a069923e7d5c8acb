"""Countdown puzzles as a tensorflow-datasets dataset, without TensorFlow and without a network."""

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from mrt_jax.data.countdown_puzzles import SPLITS, CountdownSpec, Puzzle, draw_puzzles
from mrt_jax.data.sequences import MappedSequence
from mrt_jax.errors import InputError
from mrt_jax.manifest import find_damage, write_manifest

DATA_VARIABLE = 'MRT_JAX_DATA'


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


def data_directory() -> Path:
    """Where datasets are kept: $MRT_JAX_DATA, else the user's cache folder."""
    if DATA_VARIABLE in os.environ:
        return Path(os.environ[DATA_VARIABLE])
    cache = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(cache) / 'mrt_jax' / 'datasets'


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
    folder = data_directory() / f'{Countdown.name}-{Countdown.VERSION}-{digest}'
    if not folder.exists():
        _build(spec, folder)
    damage = find_damage(folder)
    if damage:
        raise InputError(
            f'{folder}: the dataset is damaged: {damage}; delete the folder to have it built again'
        )
    source = Countdown(spec, data_dir=folder).as_data_source(split=split)
    return MappedSequence(
        source,
        lambda row: Puzzle(tuple(int(n) for n in row['numbers']), int(row['target'])),
    )


def _build(spec: CountdownSpec, folder: Path) -> None:
    """Builds beside the folder and renames: it appears whole, whoever else builds it meanwhile."""
    partial = folder.with_name(f'.{folder.name}.{uuid.uuid4().hex}.partial')
    tfds.disable_progress_bar()
    try:
        partial.mkdir(parents=True)
        with contextlib.redirect_stdout(io.StringIO()):  # It announces a download.
            Countdown(spec, data_dir=partial).download_and_prepare()
        write_manifest(partial)
        with contextlib.suppress(FileExistsError):
            _rename_to_new(partial, folder)
    except OSError as error:
        raise InputError(
            f'{folder}: the countdown dataset cannot be written ({error.strerror or error}); set '
            f'${DATA_VARIABLE} to a folder that can be written'
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _rename_to_new(source: Path, target: Path) -> None:
    """Renames a folder; raises FileExistsError where another process was first."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise FileExistsError(error.errno, error.strerror, str(target)) from error
        raise
