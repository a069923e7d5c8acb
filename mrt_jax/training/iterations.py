"""What an iteration has kept, on the disk: written whole, read back only where it belongs.

`WORKDIR/iterations/N/kept.jsonl` holds the traces, `sampling.json` beside it what they were sampled
with and the figures of that sampling. The second is written last: without it there is nothing.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mrt_jax.errors import InputError
from mrt_jax.methods.kept_traces import KeptTrace, read_kept, write_kept
from mrt_jax.methods.sft import digest
from mrt_jax.policies.policy import Policy
from mrt_jax.sharding.host_data import on_every_host
from mrt_jax.whole_file import whole_file

KEPT, SAMPLING = 'kept.jsonl', 'sampling.json'


@dataclasses.dataclass(frozen=True)
class Iteration:
    """The first half of an iteration.

    Attributes:
        kept: traces to fine-tune on.
        figures: metrics of the sampling, Python numbers.
    """

    kept: Sequence[KeptTrace]
    figures: Mapping[str, float]


def iteration_folder(workdir: Path, number: int) -> Path:
    """Folder of an iteration, counted from 0."""
    return workdir / 'iterations' / str(number)


def fingerprint(params: Any) -> str:
    """Tells parameters apart, to the last bit and whatever mesh they lie on."""
    hashed = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        hashed.update(jax.tree_util.keystr(path).encode())
        hashed.update(np.asarray(on_every_host(leaf)).tobytes())
    return hashed.hexdigest()[:16]


def write_iteration(
    folder: Path, iteration: Iteration, origin: Mapping[str, Any], policy: Policy
) -> None:
    """Writes an iteration; one that is there is replaced.

    Args:
        folder: see `iteration_folder`.
        iteration: to write.
        origin: JSON object that tells what the traces follow from.
        policy: has the tokenizer.
    """
    assert policy.tokenizer
    folder.mkdir(parents=True, exist_ok=True)
    described = folder / SAMPLING
    described.unlink(missing_ok=True)  # First, so that it never describes other traces.
    write_kept(folder / KEPT, iteration.kept, policy.tokenizer)
    about = {
        'origin': origin,
        'digest': _digest(iteration.kept),
        'figures': dict(iteration.figures),
    }
    with whole_file(described) as stream:
        stream.write(json.dumps(about, indent=1, allow_nan=False) + '\n')


def read_iteration(
    folder: Path, origin: Mapping[str, Any], policy: Policy
) -> Iteration | None:
    """An iteration that was written whole, with this origin; None if there is none."""
    try:
        about = json.loads((folder / SAMPLING).read_text(encoding='utf-8'))
        if about['origin'] != json.loads(json.dumps(origin)):
            return None
        kept = read_kept_of(folder, policy)
    except (OSError, ValueError, KeyError):  # An InputError is a ValueError.
        return None
    return Iteration(kept, about['figures']) if _digest(kept) == about['digest'] else None


def read_kept_of(folder: Path, policy: Policy) -> list[KeptTrace]:
    """The traces of an iteration in the middle of which a run goes on.

    Raises:
        InputError: they are gone, or see `read_kept`.
    """
    file = folder / KEPT
    if not file.exists():
        raise InputError(
            f'{file} is missing, and the checkpoint lies in the middle of training on it: bring '
            'it back, or give another workdir'
        )
    assert policy.tokenizer
    return read_kept(file, policy.tokenizer, policy.config.vocab_size)


def _digest(kept: Sequence[KeptTrace]) -> str:
    return digest(trace.demonstration for trace in kept)
