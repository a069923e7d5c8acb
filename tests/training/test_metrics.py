"""metrics.jsonl is exact and can be cut back; TensorBoard shows the same."""

import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from mrt_jax.errors import InputError
from mrt_jax.training.metrics import Histogram, Markdown, MetricsWriter


def lines_of(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def write_steps(workdir, steps, resume_step=None) -> None:
    with MetricsWriter(workdir, resume_step) as writer:
        for step in steps:
            writer.write(step, {'loss': step / 8})


def test_a_line_is_complete_when_write_returns(tmp_path):
    with MetricsWriter(tmp_path, None) as writer:
        writer.write(1, {'loss': jnp.float32(0.1), 'tokens': np.int64(12), 'skipped': 0.0})
        assert lines_of(tmp_path) == [
            {'step': 1, 'loss': float(np.float32(0.1)), 'tokens': 12, 'skipped': 0.0}
        ]
        text = (tmp_path / 'metrics.jsonl').read_text()
    assert text.startswith('{"step": 1, ') and '"tokens": 12,' in text


def test_equal_numbers_give_equal_text(tmp_path):
    value = np.float32(1) / np.float32(3)
    with MetricsWriter(tmp_path, None) as writer:
        for same in (value, jnp.asarray(value), np.asarray(value), float(value), value.reshape(1)):
            writer.write(1, {'x': same})
    texts = (tmp_path / 'metrics.jsonl').read_text().splitlines()
    assert len(set(texts)) == 1
    assert np.float32(json.loads(texts[0])['x']) == value


def test_not_finite_is_null_in_the_file_and_kept_in_the_row(tmp_path):
    with MetricsWriter(tmp_path, None) as writer:
        row = writer.write(1, {'loss': jnp.float32(jnp.nan), 'ratio_max': np.inf, 'kl': 0.5})
    assert lines_of(tmp_path) == [{'step': 1, 'loss': None, 'ratio_max': None, 'kl': 0.5}]
    assert np.isnan(row['loss']) and row['ratio_max'] == np.inf


@pytest.mark.parametrize('bad', ['text', None, np.zeros(2), jnp.zeros((2, 1))])
def test_what_is_no_number_is_named(tmp_path, bad):
    with MetricsWriter(tmp_path, None) as writer, pytest.raises(ValueError, match="'episodes'"):
        writer.write(1, {'episodes': bad})


@pytest.mark.parametrize('tail', [b'', b'{"step": 7, "lo', b'{"step": 6}'])
def test_resuming_removes_later_steps_and_a_line_cut_short(tmp_path, tail):
    write_steps(tmp_path, range(1, 7))
    whole = (tmp_path / 'metrics.jsonl').read_bytes()
    (tmp_path / 'metrics.jsonl').write_bytes(whole + tail)
    write_steps(tmp_path, range(5, 7), resume_step=4)
    assert (tmp_path / 'metrics.jsonl').read_bytes() == whole


def test_beginning_anew_removes_all_lines(tmp_path):
    write_steps(tmp_path, range(0, 3))
    write_steps(tmp_path, range(0, 3))
    assert [line['step'] for line in lines_of(tmp_path)] == [0, 1, 2]


@pytest.mark.parametrize('bad', ['not json\n', '[1]\n', '{"loss": 1}\n'])
def test_a_foreign_line_is_the_users_to_repair(tmp_path, bad):
    (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n' + bad + '{"step": 2}\n')
    with pytest.raises(InputError, match=r'metrics\.jsonl: line 2'):
        MetricsWriter(tmp_path, 2)


def test_tensorboard_shows_the_same_and_forgets_what_was_undone(tmp_path):
    with MetricsWriter(tmp_path, None) as writer:
        for step in (1, 2, 3, 4):
            writer.write(step, {'loss': float(step)})
        writer.write_text(2, 'trace', '**Try** 3+5')
    # TensorBoard reads files in the order of the second in their names.
    first = next(tmp_path.glob('events.*'))
    first.rename(first.with_name('events.out.tfevents.0000000001.host'))
    with MetricsWriter(tmp_path, 2) as writer:
        writer.write(3, {'loss': 30.0})
    events = EventAccumulator(str(tmp_path), size_guidance={'tensors': 0}).Reload()
    shown = {e.step: float(e.tensor_proto.float_val[0]) for e in events.Tensors('loss')}
    assert shown == {1: 1.0, 2: 2.0, 3: 30.0}
    assert events.Tensors('trace')[0].tensor_proto.string_val[0] == b'**Try** 3+5'


def test_exhibits_go_to_tensorboard_only(tmp_path):
    values = np.array([0.0, 0.0, 1.0, np.nan, np.inf, 3.0])
    with MetricsWriter(tmp_path, None) as writer:
        row = writer.write(
            1, {'loss': 1.0, 'histograms/x': Histogram(values), 'texts/x': Markdown('**a**')}
        )
    assert row == {'loss': 1.0} and lines_of(tmp_path) == [{'step': 1, 'loss': 1.0}]
    events = EventAccumulator(str(tmp_path), size_guidance={'tensors': 0}).Reload()
    assert events.Tensors('texts/x')[0].tensor_proto.string_val[0] == b'**a**'
    [event] = events.Tensors('histograms/x')
    left_right_count = make_ndarray(event.tensor_proto)
    assert left_right_count[:, 2].sum() == 4 and left_right_count[0, 2] == 2
    assert left_right_count[0, 0] == 0 and left_right_count[-1, 1] == 3
    plugins = {
        name: events.SummaryMetadata(f'{name}/x').plugin_data.plugin_name
        for name in ('histograms', 'texts')
    }
    assert plugins == {'histograms': 'histograms', 'texts': 'text'}


def test_no_tensorflow():
    code = (
        'import sys, mrt_jax.training.metrics; '
        "print([name for name in sys.modules if name.split('.')[0] == 'tensorflow'])"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'
