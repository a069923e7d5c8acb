"""A bit flipped anywhere in the newest checkpoint is found, and costs steps only."""

import numpy as np
import pytest
from absl import logging

from mrt_jax.training.loop import run_loop
from tests.faults.kill import metrics_without_clocks
from tests.faults.tiny_run import loop_config, make_trainer

STEPS, BEFORE, FLIPS = 4, 3, 25


@pytest.fixture
def warnings(monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(logging, 'warning', lambda text, *args: lines.append(text % args))
    return lines


def test_each_of_25_flips_is_found_and_the_run_goes_on_from_the_one_before(
    tmp_path, warnings, capsys
):
    trainer, config = make_trainer(STEPS), loop_config(STEPS)
    run_loop(trainer, config, tmp_path)
    expected = metrics_without_clocks(tmp_path)
    newest = tmp_path / 'checkpoints' / str(STEPS)  # Saved anew each time the run has gone on.
    rng = np.random.default_rng(0)
    flipped = set()
    for flip in range(FLIPS):
        files = sorted(path for path in newest.rglob('*') if path.is_file())
        # Each file once, then any.
        file = files[flip if flip < len(files) else int(rng.integers(len(files)))]
        bit = int(rng.integers(8 * file.stat().st_size))
        content = bytearray(file.read_bytes())
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        capsys.readouterr()
        run_loop(trainer, config, tmp_path)
        assert len(warnings) == flip + 1, f'bit {bit} of {file}'
        assert f'{newest} is damaged (' in warnings[-1]
        assert file.relative_to(newest).as_posix() in warnings[-1]
        assert f'step {BEFORE}' in warnings[-1]
        assert f'going on from step {BEFORE} ' in capsys.readouterr().err
        assert metrics_without_clocks(tmp_path) == expected
        flipped.add(file.relative_to(newest).as_posix())
    # Manifest, orbax's descriptions, arrays and the JSON beside them.
    kinds = ('manifest.json', '_CHECKPOINT_METADATA', 'state/_METADATA', 'state/d/', 'meta/')
    assert all(any(name.startswith(kind) for name in flipped) for kind in kinds), flipped
