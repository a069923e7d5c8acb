"""Runs `bazel test //...` on this checkout with the Bazel that Debian packages (bazel-bootstrap).

python -m tests.bazel.run [--workspace=FOLDER] [BAZEL FLAGS AND TARGETS]

Not part of the tests. That Bazel is version 4 and fetches nothing here, so the rules that BUILD
loads are stood in for by repositories of a few lines: rules_python hands on Bazel's own Python
rules, and every package of `@pypi` is an empty library, since the packages come from the
environment that runs this. The sources are those of the checkout, linked into a workspace.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINKED = (
    'BUILD', 'LICENSE', 'README.md', 'configs', 'docs', 'experiments', 'mrt_jax', 'pyproject.toml',
    'tests', *(path.name for path in ROOT.glob('requirements*.txt')),
)
# Rules that Bazel 4 has itself, by the file from which its own tools load them.
NATIVE_RULES = {
    'rules_python/python/defs.bzl': ('py_binary', 'py_library', 'py_test'),
    'rules_cc/cc/defs.bzl': (
        'cc_binary', 'cc_import', 'cc_library', 'cc_proto_library', 'cc_test', 'cc_toolchain',
        'cc_toolchain_suite', 'fdo_prefetch_hints', 'fdo_profile', 'objc_import', 'objc_library',
    ),
    'rules_java/java/defs.bzl': (
        'java_binary', 'java_import', 'java_library', 'java_package_configuration', 'java_plugin',
        'java_proto_library', 'java_lite_proto_library', 'java_runtime', 'java_test',
        'java_toolchain',
    ),
    'rules_proto/proto/defs.bzl': ('proto_lang_toolchain', 'proto_library'),
}
TOOLCHAIN = '''\
load("@bazel_tools//tools/python:toolchain.bzl", "py_runtime_pair")

py_runtime(
    name = "runtime",
    interpreter_path = "{python}",
    python_version = "PY3",
)

py_runtime_pair(
    name = "pair",
    py3_runtime = ":runtime",
)

toolchain(
    name = "toolchain",
    toolchain = ":pair",
    toolchain_type = "@bazel_tools//tools/python:toolchain_type",
)
'''
PUBLIC = '{rule}(name = "{name}", visibility = ["//visibility:public"])\n'


def write_stand_ins(folder: Path) -> list[str]:
    """Repositories in place of those that BUILD loads; the flags that name them."""
    packages = {'pytest', *re.findall(r'"@pypi//(\w+)"', (ROOT / 'BUILD').read_text())}
    files = {
        **{
            name: ''.join(f'{rule} = native.{rule}\n' for rule in rules)
            for name, rules in NATIVE_RULES.items()
        },
        **{f'{name.rpartition("/")[0]}/BUILD': '' for name in NATIVE_RULES},
        'remote_coverage_tools/BUILD': PUBLIC.format(
            rule='filegroup', name='coverage_report_generator'
        ),
        **{
            f'pypi/{package}/BUILD': PUBLIC.format(rule='py_library', name=package)
            for package in packages
        },
        'environment/BUILD': TOOLCHAIN.format(python=sys.executable),
    }
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    repositories = sorted({name.partition('/')[0] for name in files})
    for name in repositories:
        (folder / name / 'WORKSPACE').write_text('')
    return [f'--override_repository={name}={folder / name}' for name in repositories]


def link_sources(folder: Path) -> None:
    """A workspace of the checkout's sources."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'WORKSPACE').write_text('workspace(name = "mrt_jax")\n')
    for name in LINKED:
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(ROOT / name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--workspace', type=Path, help='kept for the next run; else a new one')
    arguments, bazel = parser.parse_known_args()
    if not any(flag.startswith('//') for flag in bazel):
        bazel.append('//...')
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.workspace or Path(temporary)
        link_sources(folder / 'workspace')
        command = [
            'bazel', f'--output_user_root={folder / "output"}', 'test',
            *write_stand_ins(folder / 'repositories'),
            '--extra_toolchains=@environment//:toolchain', '--test_output=errors',
            '--spawn_strategy=local', *bazel,
        ]
        env = os.environ | {'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}'}
        return subprocess.run(command, cwd=folder / 'workspace', env=env, check=False).returncode


if __name__ == '__main__':
    sys.exit(main())
