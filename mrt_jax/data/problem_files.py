"""Files of mathematical problems: JSONL, CSV or Parquet, read and checked row by row."""

import ast
import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mrt_jax.data.boxes import last_box
from mrt_jax.errors import InputError

SUFFIXES = ('.jsonl', '.csv', '.parquet')
# Names that published files use for a column.
_ALIASES = {
    'problem': ('problem', 'question', 'Problem', 'Question'),
    'answer': ('answer', 'final_answer', 'Answer', 'expected_answer'),
    'solution': ('solution', 'Solution'),
    'level': ('level', 'difficulty'),
    'source': ('source', 'domain', 'subject', 'type'),
    'id': ('id', 'problem_id', 'unique_id', 'ID'),
}


class MathProblem(NamedTuple):
    """One problem; texts that a file has not are ''.

    Attributes:
        id: unique within the file: its own, else the number of the row.
        problem, answer, solution, level, source: as in the file.
    """

    id: str
    problem: str
    answer: str
    solution: str = ''
    level: str = ''
    source: str = ''


def read_problems(file: Path) -> list[MathProblem]:
    """Reads a whole file.

    An answer may be missing where the solution has it: in its last box, or behind '####'.

    Raises:
        InputError: names the file, and the row or column that is wrong.
    """
    problems, rows_by_id = [], {}
    columns: dict[str, str] | None = None
    for number, row in enumerate(_rows(file), start=1):
        if columns is None:
            columns = _find_columns(file, row)
        problem = _read_row(f'{file}: row {number}', number, row, columns)
        if problem.id in rows_by_id:
            raise InputError(
                f'{file}: rows {rows_by_id[problem.id]} and {number} have the same id '
                f'{problem.id!r}'
            )
        rows_by_id[problem.id] = number
        problems.append(problem)
    if not problems:
        raise InputError(f'{file}: has no problems')
    return problems


def _rows(file: Path) -> Iterator[Mapping[str, Any]]:
    try:
        if file.suffix == '.jsonl':
            with file.open(encoding='utf-8') as stream:
                for number, line in enumerate(stream, start=1):
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise InputError(f'{file}: line {number} is not a JSON object')
                    yield row
        elif file.suffix == '.csv':
            csv.field_size_limit(2**24)  # Solutions are longer than the default allows.
            with file.open(encoding='utf-8', newline='') as stream:
                yield from csv.DictReader(stream)
        elif file.suffix == '.parquet':
            import pyarrow.parquet  # slow to import, and only this needs it

            for batch in pyarrow.parquet.ParquetFile(file).iter_batches():
                yield from batch.to_pylist()
        else:
            raise InputError(f'{file}: must be one of {", ".join(SUFFIXES)}')
    except InputError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f'{file}: cannot be read: {error}') from error


def _find_columns(file: Path, row: Mapping[str, Any]) -> dict[str, str]:
    """Names of the file's columns by ours."""
    columns = {
        ours: next((name for name in names if name in row), '')
        for ours, names in _ALIASES.items()
    }
    present = ', '.join(map(str, row))
    if not columns['problem']:
        raise InputError(f"{file}: has no column 'problem'; it has {present}")
    if not columns['answer'] and not columns['solution']:
        raise InputError(f"{file}: has no column 'answer', and no 'solution'; it has {present}")
    return columns


def _read_row(
    where: str, number: int, row: Mapping[str, Any], columns: Mapping[str, str]
) -> MathProblem:
    values = {ours: row.get(name) if name else None for ours, name in columns.items()}
    texts = {ours: '' if value is None else str(value).strip() for ours, value in values.items()}
    if not texts['problem']:
        raise InputError(f'{where}: {columns["problem"]!r} is empty')
    answer = _unwrap(values['answer'], texts['answer']) or last_box(texts['solution'])
    if not answer:
        raise InputError(f'{where}: has no answer, and its solution has none in a box')
    return MathProblem(
        texts['id'] or str(number), texts['problem'], answer, texts['solution'], texts['level'],
        texts['source'],
    )


def _unwrap(value: Any, text: str) -> str:
    """The answer itself where a file has it in a list of one, or behind GSM8K's marks."""
    if text.startswith('[') and isinstance(value, str):
        try:
            value = ast.literal_eval(text)  # Minerva's answers are lists written as text.
        except (ValueError, SyntaxError):
            return text
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return value[0].strip()
    return text.rpartition('####')[2].strip().replace(',', '') if '####' in text else text
