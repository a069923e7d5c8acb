"""A run of several processes as a script for a cluster, to read, to edit and to hand in.

The workdir must be a folder that all machines see.
"""

import json
import shlex
from collections.abc import Sequence

from experiments.machines import Machines, tpu_line
from mrt_jax.errors import InputError

COORDINATOR_PORT = 8476


def write_tpu(command: Sequence[str], machines: Machines) -> str:
    """The command that runs one process on every host of a TPU pod.

    Raises:
        InputError: not one TPU VM is named, or no zone.
    """
    if len(machines.tpus) != 1 or not machines.zone:
        raise InputError('--print=tpu needs the name of one TPU VM, --tpus=NAME, and --zone')
    return tpu_line(machines.tpus[0], machines, shlex.join([*command, '--coordinator=auto'])) + '\n'


def write_slurm(
    title: str, command: Sequence[str], machines: Machines, count: int, devices: int
) -> str:
    """A batch script: one process on each node, with so many of its GPUs."""
    line = shlex.join(['srun', '--kill-on-bad-exit=1', *command, '--coordinator=auto'])
    return f'''#!/bin/bash
# {title}: one process a node. Submitted again, the run goes on.
#SBATCH --job-name={title}
#SBATCH --nodes={count}
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:{devices}
#SBATCH --time=24:00:00
#SBATCH --output={title}-%j.txt
# Before its time is up the run is told to save and stop.
#SBATCH --signal=TERM@300
#SBATCH --requeue

cd {shlex.quote(machines.checkout)} || exit 1
# JAX would give each process one GPU of its node.
export JAX_LOCAL_DEVICE_IDS={','.join(map(str, range(devices)))}
{line}
'''


def write_kubernetes(
    title: str, command: Sequence[str], machines: Machines, count: int, devices: int, image: str
) -> str:
    """A JobSet with a pod for each process, with so many GPUs.

    Raises:
        InputError: no image is named.
    """
    if not image:
        raise InputError('--print=kubernetes needs an image with the requirements, --image=NAME')
    # The first pod's name in the service that a JobSet makes for its pods.
    arguments = [
        *command, f'--coordinator={title}-train-0-0.{title}:{COORDINATOR_PORT}',
        f'--num_processes={count}', '--process_id=$(JOB_COMPLETION_INDEX)',
    ]
    written = '\n'.join(f'              - {json.dumps(argument)}' for argument in arguments)
    return f'''# {title}: one process a pod. If one is lost the others end, and all start again.
# The checkout and the workdir are to lie on a volume that all pods mount: add it below.
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: {json.dumps(title)}
spec:
  failurePolicy:
    maxRestarts: 10
  replicatedJobs:
  - name: train
    replicas: 1
    template:
      spec:
        completionMode: Indexed
        parallelism: {count}
        completions: {count}
        backoffLimit: 0
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: 300
            containers:
            - name: train
              image: {json.dumps(image)}
              workingDir: {json.dumps(machines.checkout)}
              command:
{written}
              ports:
              - containerPort: {COORDINATOR_PORT}
              resources:
                limits:
                  nvidia.com/gpu: {devices}
'''
