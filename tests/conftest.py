"""Every test runs on eight virtual CPU devices, and what one test compiles no other compiles again.

Both are set before JAX starts its backend, in the environment, so that commands which tests start
inherit them.
"""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
_FLAG = '--xla_force_host_platform_device_count'
if _FLAG not in os.environ.get('XLA_FLAGS', ''):
    os.environ['XLA_FLAGS'] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=8".strip()


def pytest_configure(config):
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(config.cache.mkdir('compiled')))
    os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')
    # The tests' programs are small: making them takes far longer than running them.
    os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
