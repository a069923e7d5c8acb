"""What a run trains for: each kind of training by the name that `config.objective` gives it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mrt_jax.errors import InputError
from mrt_jax.training import reinforcement, rl_setup, star, supervised
from mrt_jax.training.loop import Accepted, nothing
from mrt_jax.training.whole_run import Setup, loop_config


class Kind(NamedTuple):
    """One kind of training.

    Attributes:
        prepare: checks a config before anything is compiled and returns what a run fixes; raises
            InputError.
        train: runs it in a workdir, or goes on there; False if SIGTERM has stopped it.
        own_key: a key that its configs have.
    """

    prepare: Callable[[Any], Setup]
    train: Callable[[Any, Path, Accepted], bool]
    own_key: str


KINDS = {
    'rl': Kind(rl_setup.prepare, reinforcement.train_policy, 'credit'),
    'sft': Kind(supervised.prepare, supervised.train_supervised, 'rows_per_step'),
    'star': Kind(star.prepare, star.train_star, 'selection'),
}


def check_config(config: Any) -> None:
    """Checks a config; compiles nothing.

    Raises:
        InputError: what is wrong with it, the policy, the data or the mesh.
    """
    kind = _kind(config)
    loop_config(config)
    kind.prepare(config)


def train(config: Any, workdir: Path, accepted: Accepted = nothing) -> bool:
    """Trains what the config describes and writes the policy to `workdir/policy`.

    `accepted` is called when the config, the policy and the checkpoint, if there is one, have been.

    Returns:
        Whether the last step was reached; else SIGTERM has stopped the run, which can go on.

    Raises:
        InputError: see `check_config`.
        NonFiniteError, DivergedError, ResourceError: see `run_loop`.
    """
    kind = _kind(config)
    loop_config(config)  # Before a policy is read.
    return kind.train(config, workdir, accepted)


def _kind(config: Any) -> Kind:
    if config.objective not in KINDS:
        raise InputError(
            f'objective={config.objective!r} is unknown; known: {", ".join(KINDS)}, compare'
        )
    kind = KINDS[config.objective]
    if kind.own_key not in config:
        raise InputError(
            f'objective={config.objective!r} needs keys such as {kind.own_key}, which this config '
            'lacks: take a variant of that kind of training'
        )
    return kind
