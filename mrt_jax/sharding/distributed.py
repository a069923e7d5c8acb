"""Several processes as one run: how they join, and which of them writes.

The plan is that of JAX: every process runs the same program on the same global arrays, each of
which lies in parts on the devices of all. What the program reads on the host must be the same for
all of them, see `host_data`; files are written by the process that leads, checkpoints by all. The
workdir is on a file system that all share.
"""

import jax
from jax.experimental import multihost_utils

from mrt_jax.errors import InputError

DETECTED = 'auto'
# A process that is not heard of for so long is lost, and the others end with an error. They notice
# sooner if they wait for it at a collective operation.
HEARTBEAT_SECONDS = 30


def join_processes(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins the processes of a run; does nothing without arguments. Comes before any use of JAX.

    Args:
        coordinator: HOST:PORT that process 0 listens at, or 'auto' to take everything from the
            cluster that JAX detects: TPU pods, SLURM, Kubernetes or MPI.
        num_processes: of the run.
        process_id: of this one, from 0.

    Raises:
        InputError: some arguments are missing or out of range, or there is no cluster to detect.
    """
    given = [value is not None for value in (coordinator, num_processes, process_id)]
    if not any(given):
        return
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    timeouts = {
        'heartbeat_timeout_seconds': HEARTBEAT_SECONDS,
        'shutdown_timeout_seconds': HEARTBEAT_SECONDS,
    }
    if coordinator == DETECTED:
        if any(given[1:]):
            raise InputError(
                '--coordinator=auto takes --num_processes and --process_id from the cluster: leave '
                'them out'
            )
        try:
            jax.distributed.initialize(**timeouts)
        except ValueError as error:
            raise InputError(
                f'--coordinator=auto: JAX detects no cluster here ({error}): give '
                '--coordinator=HOST:PORT, --num_processes and --process_id'
            ) from error
        return
    if coordinator is None or num_processes is None or process_id is None:
        raise InputError(
            '--coordinator, --num_processes and --process_id go together: give all of them, or '
            '--coordinator=auto on a cluster that JAX detects'
        )
    _, colon, port = coordinator.rpartition(':')
    if not colon or not port.isdecimal():
        raise InputError(f'--coordinator={coordinator}: give HOST:PORT, or auto')
    if not 0 <= process_id < num_processes:
        raise InputError(
            f'--process_id={process_id} must be from 0 to --num_processes={num_processes} less 1'
        )
    jax.distributed.initialize(
        coordinator, num_processes, process_id, cluster_detection_method='deactivate', **timeouts
    )


def leads() -> bool:
    """Whether this process writes the files of a run; the only one always does."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns once every process has got here.

    Args:
        name: of the place, the same for all.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
