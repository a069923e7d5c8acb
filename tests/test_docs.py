"""The pages in docs/: their examples give what they show, and their links lead where they say."""

import ast
import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / 'docs').glob('*.md'))
LINK = re.compile(r'\[`(\w+)`\]\((\.\./[\w/.]+\.py)#L(\d+)\)')


@pytest.mark.parametrize(
    'page', [page for page in PAGES if '>>> ' in page.read_text()], ids=lambda page: page.name
)
def test_examples_give_what_they_show(page):
    failed, tried = doctest.testfile(str(page), module_relative=False)
    assert tried > 10 and not failed


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_to_the_function(page):
    links = LINK.findall(page.read_text())
    assert len(links) > 10
    wrong = []
    for name, file, line in links:
        found = [
            node.lineno for node in ast.parse((page.parent / file).read_text()).body
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name.lstrip('_') == name
        ]
        assert len(found) == 1, f'{page.name}: {file} has no {name}'
        if found != [int(line)]:
            wrong.append(f'{file}#L{line} -> #L{found[0]} for {name}')
    assert not wrong, f'{page.name}: write these lines\n' + '\n'.join(wrong)
