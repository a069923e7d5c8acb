"""The files for accelerators ask for the JAX of requirements.txt, with an extra that it has."""

import importlib.metadata
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def read_jax(file: str) -> tuple[set[str], list[str]]:
    """Extras of JAX that a file asks for, and its lines about JAX without them."""
    lines = (ROOT / file).read_text().splitlines()
    found = [re.fullmatch(r'jax(?:\[(\w+)\])?(==.*)', line) for line in lines]
    return {match[1] for match in found if match}, [match[2] for match in found if match]


@pytest.mark.parametrize(('kind', 'extra'), [('cuda', 'cuda13'), ('tpu', 'tpu')])
def test_accelerators_get_the_same_jax(kind, extra):
    file = f'requirements-{kind}.txt'
    assert '-r requirements.txt' in (ROOT / file).read_text().splitlines()
    extras, pins = read_jax(file)
    assert extras == {extra} and pins == read_jax('requirements.txt')[1]
    assert extra in importlib.metadata.metadata('jax').get_all('Provides-Extra')
