"""What the devices of a compiled program tell each other, read from its text.

`Compiled.cost_analysis` counts the body of a loop once, and collectives not at all.
"""

import collections
import math
import re
from typing import NamedTuple

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')

_COMPUTATION = re.compile(r'^(?:ENTRY )?%?([\w.\-]+) (?:\([^\n]*\) -> [^\n]*)?\{$', re.MULTILINE)
_CALLED = re.compile(r'(?:calls|to_apply|condition|body|branch_computations|true_computation|'
                     r'false_computation)=(\{[^}]*\}|%[\w.\-]+)')
_SOURCE = re.compile(r'op_name="([^"]*)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SHAPE = re.compile(r'\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]')
_LINE = re.compile(r'^\s+(?:ROOT )?%[\w.\-]+ = (\(.*?\)|\S+) ([\w\-]+)\(', re.MULTILINE)


class Collective(NamedTuple):
    """An exchange among devices that a program holds.

    Attributes:
        kind: one of `KINDS`.
        bytes: of its results on one device.
        count: how often it runs.
        source: path of the operation that it came from, '' if the program does not tell.
    """

    kind: str
    bytes: float
    count: float
    source: str


def count_collectives(program: str, other_trips: float = 1) -> dict[str, dict[str, float]]:
    """Collectives of a program by kind, those in loops as often as the loops run.

    Args:
        program: `Compiled.as_text()`.
        other_trips: how often loops run that end on a condition.

    Returns:
        For each kind that occurs `count`, and `bytes`, those of its results on one device.
    """
    totals: dict[str, dict[str, float]] = collections.defaultdict(lambda: {'count': 0, 'bytes': 0})
    for collective in list_collectives(program, other_trips):
        totals[collective.kind]['count'] += collective.count
        totals[collective.kind]['bytes'] += collective.count * collective.bytes
    return dict(totals)


def list_collectives(program: str, other_trips: float = 1) -> list[Collective]:
    """Collectives of a program, arguments as for `count_collectives`.

    A computation that is called from several places comes once for each of them.
    """
    bodies = _computations(program)
    found: list[Collective] = []

    def walk(name: str, times: float) -> None:
        for line in bodies.get(name, ()):
            match = _LINE.match(line)
            if not match:
                continue
            result, operation = match.groups()
            kind = operation.removesuffix('-start')
            if kind in KINDS:
                size = _result_bytes(result, operation != kind)
                source = _SOURCE.search(line)
                found.append(Collective(kind, size, times, source[1] if source else ''))
            trips = times
            if operation == 'while':
                trips *= _trips(line, bodies) or other_trips
            for called in _CALLED.findall(line):
                for callee in re.findall(r'%([\w.\-]+)', called):
                    walk(callee, trips)

    entry = re.search(r'^ENTRY %?([\w.\-]+)', program, re.MULTILINE)
    if entry is None:
        raise ValueError('the program has no entry computation')
    walk(entry[1], 1)
    return found


def _trips(line: str, bodies: dict[str, list[str]]) -> int | None:
    """Turns of a loop: those that XLA states, or the constant that its counter is compared with.

    None if the loop ends on anything else.
    """
    if stated := _TRIPS.search(line):
        return int(stated[1])
    condition = re.search(r'condition=%([\w.\-]+)', line)
    lines = bodies.get(condition[1], []) if condition else []
    operations = {found.group(2) for found in map(_LINE.match, lines) if found}
    constants = re.findall(r' constant\((\d+)\)', '\n'.join(lines))
    counts = operations == {'constant', 'parameter', 'get-tuple-element', 'compare'}
    if not counts or len(constants) != 1:
        return None
    return -(-int(constants[0]) // _step(line, lines, bodies))


def _step(line: str, condition: list[str], bodies: dict[str, list[str]]) -> int:
    """What a loop's counter grows by at a turn: more than 1 where the compiler has unrolled it."""
    places = re.findall(r' get-tuple-element\([^)]*\), index=(\d+)', '\n'.join(condition))
    body = re.search(r'body=%([\w.\-]+)', line)
    lines = bodies.get(body[1], []) if body else []
    results = next((text for text in reversed(lines) if text.lstrip().startswith('ROOT ')), '')
    carried = re.search(r' tuple\((.*?)\)', results)
    if len(places) != 1 or carried is None:
        return 1
    counter = re.findall(r'%([\w.\-]+)', carried[1])[int(places[0])]
    values = dict(re.findall(r'%([\w.\-]+) = \S+ constant\((\d+)\)', '\n'.join(lines)))
    added = re.search(
        rf'%{re.escape(counter)} = \S+ add\(%([\w.\-]+), %([\w.\-]+)\)', '\n'.join(lines)
    )
    steps = [int(values[name]) for name in added.groups() if name in values] if added else []
    return steps[0] if len(steps) == 1 and steps[0] > 0 else 1


def _computations(program: str) -> dict[str, list[str]]:
    """Lines of each computation by its name.

    It ends with a line that is a brace alone: attributes of kernels have lines that begin with one.
    """
    parts = _COMPUTATION.split(program)[1:]
    return {
        name: f'{body}\n'.partition('\n}\n')[0].splitlines()
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


def _result_bytes(result: str, started: bool) -> float:
    """Bytes of a collective's result; one that is started lists its operands before it."""
    sizes = [
        _itemsize(dtype) * math.prod(int(size) for size in shape.split(',') if size)
        for dtype, shape in _SHAPE.findall(result)
    ]
    return max(sizes, default=0) if started else sum(sizes)


def _itemsize(dtype: str) -> float:
    if dtype == 'pred':
        return 1
    bits = re.search(r'\d+', dtype)
    return int(bits[0]) / 8 if bits else 4
