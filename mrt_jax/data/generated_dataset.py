"""Generated questions as a tensorflow-datasets dataset."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from mrt_jax.data.dataset_folder import open_dataset_folder
from mrt_jax.data.generated_questions import (
    PACKAGE_VERSION,
    SPLITS,
    DrawnSplit,
    Question,
    QuestionSpec,
    draw_splits,
)
from mrt_jax.data.sequences import MappedSequence
from mrt_jax.errors import InputError

COUNTS_FILE = 'unused_draws.json'


class ReasoningGym(tfds.core.GeneratorBasedBuilder):
    """Question, answer and number of each draw.

    Args:
        spec: what was drawn.
        drawn: the splits to write; a builder without them reads what another one wrote.
    """

    VERSION = tfds.core.Version('1.0.0')

    def __init__(
        self, spec: QuestionSpec, drawn: Mapping[str, DrawnSplit] | None = None, **kwargs
    ) -> None:
        self._spec = spec
        self._drawn = drawn or {}
        super().__init__(file_format='array_record', **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f'Questions drawn by reasoning-gym {PACKAGE_VERSION} for {self._spec}.',
            features=tfds.features.FeaturesDict(
                {
                    'number': tfds.features.Scalar(np.int64),
                    'text': tfds.features.Text(),
                    'answer': tfds.features.Text(),
                }
            ),
            # Written in the order drawn: examples are found again by index.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: object) -> dict[str, object]:
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str):
        for index, question in enumerate(self._drawn[split].questions):
            yield index, dataclasses.asdict(question)


def load_questions(
    spec: QuestionSpec, split: str, readable: Callable[[str], bool]
) -> Sequence[Question]:
    """The questions of a split, read by index; the dataset is built when it is not there.

    Args:
        spec: what to draw.
        split: 'train', 'validation' or 'test'.
        readable: as in `draw_splits`.

    Raises:
        InputError: no such split, the questions cannot be drawn, or the dataset's files cannot be
            written or are damaged.
    """
    if split not in SPLITS:
        raise InputError(f'{spec.generator} has no split {split!r}; it has {", ".join(SPLITS)}')
    text = json.dumps([dataclasses.asdict(spec), PACKAGE_VERSION], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    name = f'{ReasoningGym.name}-{ReasoningGym.VERSION}-{spec.generator}-{digest}'

    def make_builder(folder: Path) -> ReasoningGym:
        drawn = draw_splits(spec, readable)
        _report_unused(spec, drawn, folder / COUNTS_FILE)
        return ReasoningGym(spec, drawn, data_dir=folder)

    folder = open_dataset_folder(name, make_builder)
    return MappedSequence(
        ReasoningGym(spec, data_dir=folder).as_data_source(split=split),
        lambda row: Question(int(row['number']), row['text'].decode(), row['answer'].decode()),
    )


def _report_unused(spec: QuestionSpec, drawn: Mapping[str, DrawnSplit], file: Path) -> None:
    """Says how many draws were dropped, in the log and in a file beside the questions."""
    counts = {
        split: {
            'questions': len(found.questions), 'repeated': found.repeated,
            'elsewhere': found.elsewhere, 'unreadable': found.unreadable,
        }
        for split, found in drawn.items()
    }
    file.write_text(json.dumps(counts, indent=1) + '\n', encoding='utf-8')
    for split, found in counts.items():
        logging.info(
            '%s: %d %s questions; draws not used: %d repeated, %d of another split, %d with an '
            'answer that cannot be checked', spec.generator, found['questions'], split,
            found['repeated'], found['elsewhere'], found['unreadable'],
        )
