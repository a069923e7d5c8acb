"""BUILD against the tree, without Bazel: sources, dependencies, no cycles."""

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Packages whose name on the registry is not that of their module.
DISTRIBUTIONS = {'absl': 'absl_py', 'orbax': 'orbax_checkpoint'}


@functools.cache
def read_targets():
    """Sources and dependencies by target name, from the calls in BUILD."""
    targets = {}
    for node in ast.parse((ROOT / 'BUILD').read_text()).body:
        call = node.value if isinstance(node, ast.Expr) else None
        if isinstance(call, ast.Call) and call.func.id.startswith('py_'):
            fields = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
            assert fields['name'] not in targets, f'BUILD has two targets {fields["name"]}'
            targets[fields['name']] = fields.get('srcs', []), set(fields.get('deps', []))
    return targets


@functools.cache
def source_files():
    folders = ('mrt_jax', 'configs', 'experiments', 'tests')
    return sorted(str(p.relative_to(ROOT)) for f in folders for p in (ROOT / f).rglob('*.py'))


def imported_modules(file):
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def needed_labels(file, owners):
    """Labels that a file's imports ask for, its own target among them."""
    for module in imported_modules(file):
        name = module
        while name and name not in owners:
            name = name.rpartition('.')[0]
        if name:
            yield f':{owners[name]}'


def test_every_source_is_in_exactly_one_target():
    listed = [source for sources, _ in read_targets().values() for source in sources]
    assert sorted(listed) == source_files(), 'mend the srcs in BUILD'


def test_every_import_is_a_dependency():
    targets = read_targets()
    owners = {
        source.removesuffix('.py').removesuffix('/__init__').replace('/', '.'): name
        for name, (sources, _) in targets.items() for source in sources
    }
    missing = {
        (name, label)
        for name, (sources, deps) in targets.items()
        for source in sources
        for label in needed_labels(source, owners)
        if label != f':{name}' and label not in deps
    }
    assert not missing, f'add to deps in BUILD: {sorted(missing)}'


def test_every_package_imported_is_a_dependency():
    missing = set()
    for name, (sources, deps) in read_targets().items():
        external = {label.removeprefix('@pypi//') for label in deps if label.startswith('@pypi//')}
        pinned = {distribution(line) for line in requirement_lines()}
        for source in sources:
            for module in imported_modules(source):
                top = module.split('.')[0]
                package = DISTRIBUTIONS.get(top, top)
                if package in pinned and package not in external:
                    missing.add((name, f'@pypi//{package}'))
    assert not missing, f'add to deps in BUILD: {sorted(missing)}'


def requirement_lines():
    for file in ('requirements.txt', 'requirements-dev.txt'):
        for line in (ROOT / file).read_text().splitlines():
            if line and not line.startswith(('#', '-r')):
                yield line


def distribution(line):
    return line.partition('==')[0].replace('-', '_')


def test_targets_form_no_cycle():
    targets, open_targets, done = read_targets(), [], set()

    def visit(name):
        assert name not in open_targets, f'BUILD has a cycle: {[*open_targets, name]}'
        if name in done:
            return
        open_targets.append(name)
        for label in targets[name][1]:
            if label.startswith(':'):
                visit(label[1:])
        done.add(open_targets.pop())

    for name in targets:
        visit(name)
