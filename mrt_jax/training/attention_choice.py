"""The kernel of attention that a run has measured to be the fastest: `WORKDIR/attention.json`.

Kernels round differently, so a run keeps to the kernel that it began with.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from mrt_jax.errors import InputError
from mrt_jax.models.attention_kernels import KERNELS
from mrt_jax.models.transformer import Transformer
from mrt_jax.sharding.distributed import leads
from mrt_jax.sharding.host_data import ask_leader
from mrt_jax.training.attention_race import attention_of, kernels_in_race, run_race
from mrt_jax.whole_file import whole_file

FILE = 'attention.json'


def with_measured_kernel(model: Transformer, config: Any, mesh: Mesh, workdir: Path) -> Transformer:
    """The network with the kernel that attention='measured' stands for, the same in all processes.

    The first start times the kernels that fit, and keeps times and choice in the workdir; later
    starts take the choice from there. If it was measured on another kind of device, on another
    mesh or for another size of attention, it is measured again. Where only 'plain' fits, nothing is
    measured, and what is kept stays for when the run is back where it was measured. What is done is
    said in a line on stderr. Runs of a comparison measure each for itself.

    Args:
        model: from `make_network`; returned as it is with other values of `config.attention`.
        config: of the run.
        mesh: of the run.
        workdir: of the run.

    Raises:
        InputError: what the workdir has cannot be read.
        ResourceError: see `run_race`.
    """
    if config.attention != 'measured':
        return model
    attention = attention_of(config, model)
    platform = jax.default_backend()
    kernels = kernels_in_race(platform, model.config, attention, mesh)
    if kernels == ('plain',):
        _say(f'plain; no other kernel fits {platform}, the policy and its rows: nothing to measure')
        return model.clone(kernel='plain')
    circumstances = {
        'platform': platform, 'device': mesh.devices.flat[0].device_kind,
        'mesh': dict(mesh.shape), 'attention': dataclasses.asdict(attention),
    }
    circumstances = json.loads(json.dumps(circumstances))  # Tuples as they are read back.
    file = workdir / FILE
    kept = ask_leader(lambda: _read(file))
    if kept is not None and kept['measured_for'] == circumstances:
        _say(f'{kept["kernel"]}, as measured when the run began ({_list(kept["seconds"])})')
        return model.clone(kernel=kept['kernel'])
    if kept is not None:
        _say(f'{file} is of another device, mesh, policy or size of microbatches: measuring again')
    race = run_race(kernels, attention, mesh)
    for kernel, reason in race.failed.items():
        _say(f'{kernel} is out of the race: {reason}')
    _say(
        f'{race.winner}, the fastest of {_list(race.seconds)} in all layers of a microbatch, '
        f'forwards and back; compiled in {race.compile_seconds:.1f} s'
    )
    if leads():
        about = {
            'kernel': race.winner, 'seconds': race.seconds, 'failed': race.failed,
            'measured_for': circumstances,
        }
        with whole_file(file) as stream:
            stream.write(json.dumps(about, indent=1) + '\n')
    return model.clone(kernel=race.winner)


def _read(file: Path) -> dict[str, Any] | None:
    if not file.exists():
        return None
    try:
        kept = json.loads(file.read_text(encoding='utf-8'))
        kernel, seconds, _ = kept['kernel'], kept['seconds'], kept['measured_for']
        if kernel not in KERNELS or kernel not in seconds:
            raise ValueError(f'kernel {kernel!r}')
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f'{file}: is not the choice of a kernel that a run keeps there '
            f'({type(error).__name__}: {error}); repair it, or delete it to measure again'
        ) from error
    return kept


def _list(seconds: Mapping[str, float]) -> str:
    return ', '.join(f'{kernel} {1000 * time:.3g} ms' for kernel, time in seconds.items())


def _say(text: str) -> None:
    if leads():
        print(f'attention: {text}', file=sys.stderr)
