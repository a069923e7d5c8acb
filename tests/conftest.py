"""Every test runs on eight virtual CPU devices, and what one test compiles no other compiles again.

Both are set before JAX starts its backend, in the environment, so that commands which tests start
inherit them.
"""

import gc
import os
from pathlib import Path

import pytest

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
_FLAG = '--xla_force_host_platform_device_count'
if _FLAG not in os.environ.get('XLA_FLAGS', ''):
    os.environ['XLA_FLAGS'] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=8".strip()


def pytest_configure(config):
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(config.cache.mkdir('compiled')))
    os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')
    # The tests' programs are small: making them takes far longer than running them.
    os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')


@pytest.fixture(scope='session', autouse=True)
def data_folder(tmp_path_factory):
    """Datasets are built once for all tests, and not among the user's."""
    folder = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        folder = folder.parent  # Of all workers.
    os.environ['MRT_JAX_DATA'] = str(folder / 'data')


_MAPPINGS = Path('/proc/self/maps')
_MANY = 20_000  # Of the 65,530 that Linux gives a process; each compiled program takes several.


@pytest.fixture(scope='module', autouse=True)
def room_for_programs():
    """Lets go of compiled programs before the process has as many as the system allows.

    It then dies in XLA; what is needed again comes from the persistent cache.
    """
    yield
    if _MAPPINGS.exists() and _MAPPINGS.read_text().count('\n') > _MANY:
        import jax

        jax.clear_caches()
        gc.collect()
