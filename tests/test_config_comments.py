"""Every key of a config is explained where it is declared."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / 'configs').glob('*.py'))
HEADING_WORDS = 4  # A comment of fewer words heads a section and explains no key.


def read_comments(source: str) -> dict[int, str]:
    """Text of each comment by its line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: token.string.lstrip('# ')
        for token in tokens if token.type == tokenize.COMMENT
    }


def lines_above(line: int, comments: dict[int, str], lines: list[str]) -> str:
    """The comment that stands alone right above a line, '' if it is a heading or not there."""
    found: list[str] = []
    while line - 1 in comments and lines[line - 2].lstrip().startswith('#'):
        line -= 1
        found.insert(0, comments[line])
    text = ' '.join(found)
    return text if len(text.split()) >= HEADING_WORDS else ''


def keywords_of(value: ast.expr) -> list[ast.keyword]:
    """Keys of a group: of `dict(...)`, also inside `ConfigDict(...)`."""
    if isinstance(value, ast.Call):
        name = value.func.attr if isinstance(value.func, ast.Attribute) else value.func.id
        if name == 'dict':
            return value.keywords
        if name == 'ConfigDict' and value.args:
            return keywords_of(value.args[0])
    return []


def names_as_word(text: str, key: str) -> bool:
    """Whether a comment names a key, or points to a file whose docstrings list it."""
    if re.search(rf'\b{key}\b', text):
        return True
    files = re.findall(r'\b(?:[\w-]+/)+\w+\.py\b', text)
    listed = re.compile(rf'^ +(\w+, )*{key}(, \w+)*: ', re.MULTILINE)
    return any(listed.search((ROOT / file).read_text()) for file in files)


def read_declarations(source: str) -> dict[str, bool]:
    """Whether each key that a file declares is explained, once at least, by dotted name.

    A key is declared by `config.KEY = VALUE`, those of a group by `config.KEY = ConfigDict(...)`.
    """
    comments, lines = read_comments(source), source.splitlines()
    explained: dict[str, bool] = {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assign):
            continue
        targets = [
            target for each in node.targets
            for target in (each.elts if isinstance(each, ast.Tuple) else [each])
        ]
        for target in targets:
            if not isinstance(target, ast.Attribute) or target.value.id != 'config':
                continue
            above = lines_above(node.lineno, comments, lines)
            beside = [comments.get(n, '') for n in range(node.lineno, node.end_lineno + 1)]
            group = keywords_of(node.value)
            about = ' '.join([above, *beside]).strip()
            if not group:
                explained[target.attr] = explained.get(target.attr, False) or bool(about)
            for keyword in group:
                name = f'{target.attr}.{keyword.arg}'
                here = explained.get(name, False)
                explained[name] = here or names_as_word(about, keyword.arg)
    return explained


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.name)
def test_every_key_is_explained(file):
    # Files that build on another need not explain its keys again.
    inherited = read_declarations((ROOT / 'configs/countdown.py').read_text())
    explained = read_declarations(file.read_text())
    missing = [key for key, here in explained.items() if not here and not inherited.get(key)]
    assert not missing, (
        f'configs/{file.name}: explain {", ".join(missing)} by a comment on its line or right '
        f'above it, of {HEADING_WORDS} words or more above it; a comment of a group must name each '
        'of its keys, or a file that does'
    )


def test_the_parser_finds_what_is_missing():
    source = '\n'.join([
        'config = _shared()',
        'config.a = 1  # steps',
        'config.b = 2',
        '',
        '# Rollouts.',
        'config.c = 3',
        '# What to do with the fourth.',
        'config.d = config.e = 4',
        '# x: of the first.',
        'config.f = ConfigDict(dict(x=1, y=2))',
        'config.g, config.h = 1, 2',
        'config.i = dict(',
        '    z=1,  # z, tokens',
        '    zz=2,',
        ')',
        '# Rates of mistakes, see mrt_jax/data/search_traces.py.',
        'config.k = dict(solve=0.1, unheard_of=0.1)',
        'other.key = 5',
    ])
    assert read_declarations(source) == {
        'a': True, 'b': False, 'c': False, 'd': True, 'e': True, 'f.x': True, 'f.y': False,
        'g': False, 'h': False, 'i.z': True, 'i.zz': False, 'k.solve': True, 'k.unheard_of': False,
    }
