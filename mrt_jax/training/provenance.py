"""What a run was started with: `WORKDIR/provenance.json`, a list that every start adds to.

Digests are SHA-256, and those of files can be had without this code, see `contents_digest`.
"""

import datetime
import hashlib
import importlib.metadata
import json
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mrt_jax.errors import InputError
from mrt_jax.manifest import contents_digest
from mrt_jax.policies.adapters import adapted_policy, is_adapter_folder
from mrt_jax.policies.load import locate_policy
from mrt_jax.sharding.mesh import make_mesh
from mrt_jax.tasks.task import Problem, get_task
from mrt_jax.whole_file import whole_file

FILE = 'provenance.json'
ROOT = Path(__file__).parents[2]
# Asked for by no file of requirements in so many words.
_BACKENDS = ('jaxlib', 'libtpu', 'jax-cuda12-plugin', 'jax-cuda13-plugin')
_MOST_PROBLEMS = 100  # that are read for a digest


def record_start(config: Any, workdir: Path, command: str) -> None:
    """Adds this start, the first or a later one, to `workdir/provenance.json`.

    An entry has `time` (UTC), `command`, `git` (null outside a clone) with `commit` and `dirty`
    (a tracked file is changed), `python`, `platform`, `packages` with their versions, `devices`,
    `mesh`, `config` (digest of `config.json`), `data` and `policy` (null for a fresh one).

    Args:
        config: of the run; it lies in `workdir/config.json` already.
        workdir: of the run.
        command: that started it.

    Of several processes one records.

    Raises:
        InputError: the file that is there is none of these; or the task, the mesh or the policy
            cannot be, as in `check_config`.
    """
    mesh = make_mesh(**config.mesh)
    devices = jax.devices()
    entry = {
        'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'command': command,
        'git': git_state(ROOT),
        'python': platform.python_version(),
        'platform': platform.platform(),
        'packages': package_versions(ROOT / 'requirements.txt'),
        'devices': {
            'backend': devices[0].platform,
            'kind': devices[0].device_kind,
            'count': len(devices),
            'processes': jax.process_count(),
        },
        'mesh': dict(mesh.shape),
        'config': contents_digest(workdir / 'config.json'),
        'data': _data_of(config),
        'policy': policy_digests(config.policy) if config.policy else None,
    }
    file = workdir / FILE
    entries = [*_read(file), entry]
    with whole_file(file) as stream:
        stream.write(json.dumps(entries, indent=1) + '\n')


def git_state(root: Path) -> dict[str, Any] | None:
    """Commit of the clone at `root`, and whether a tracked file is changed; None if it is none."""
    # A folder inside another project's clone has nothing to do with that one's commits.
    if _git(root, 'rev-parse', '--show-prefix') != '':
        return None
    commit = _git(root, 'rev-parse', 'HEAD')
    changes = _git(root, 'status', '--porcelain', '--untracked-files=no')
    if commit is None or changes is None:
        return None
    return {'commit': commit, 'dirty': bool(changes)}


def package_versions(requirements: Path) -> dict[str, str]:
    """Versions of the packages that a file of requirements names, as installed, and of backends."""
    lines = requirements.read_text(encoding='utf-8').splitlines() if requirements.is_file() else []
    named = [match[0] for line in lines if (match := re.match(r'[A-Za-z0-9][\w.-]*', line))]
    versions = {}
    for name in sorted({*named, *_BACKENDS}):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def problems_digest(problems: Sequence[Problem]) -> dict[str, Any]:
    """Number of the problems, and a digest of a hundred of them at most, evenly spaced, ends
    included: to read all could take minutes."""
    count = len(problems)
    places = np.linspace(0, count - 1, min(count, _MOST_PROBLEMS)).round().astype(int)
    hashed = hashlib.sha256()
    for place in places.tolist():
        hashed.update(repr(problems[place]).encode())
    return {'problems': count, 'digest': hashed.hexdigest()}


def policy_digests(source: str) -> dict[str, Any]:
    """Where a policy lies and what its files hold; of adapters, what they adapt too.

    A digest is null where there is nothing: whoever reads the policy says so.
    """
    path = locate_policy(source)
    about = {'source': source, 'digest': contents_digest(path) if path.exists() else None}
    if is_adapter_folder(path):
        about['adapts'] = policy_digests(adapted_policy(path))
    return about


def _data_of(config: Any) -> dict[str, Any]:
    task = get_task(config.task)
    about: dict[str, Any] = {'task': config.task}
    demonstrations = config.get('demonstrations_file')
    if demonstrations:
        file = Path(demonstrations)
        digest = contents_digest(file) if file.is_file() else None
        about['demonstrations'] = {'source': demonstrations, 'digest': digest}
    for split in ('test',) if demonstrations else ('train', 'test'):
        about[split] = problems_digest(task.problems(split))
    return about


def _read(file: Path) -> list[Any]:
    if not file.exists():
        return []
    try:
        entries = json.loads(file.read_text(encoding='utf-8'))
        if not isinstance(entries, list):
            raise ValueError('no list')
    except (OSError, ValueError) as error:
        raise InputError(
            f'{file}: is not the list of starts that a run keeps there ({error}); repair it or '
            'move it away'
        ) from error
    return entries


def _git(root: Path, *arguments: str) -> str | None:
    """What git says about a folder; None without git, or outside a clone."""
    command = ['git', '--no-optional-locks', '-C', str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
