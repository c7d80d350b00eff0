"""Regular expressions that every supported Python matches alike, read from the source.

Python 3.11.0 to 3.11.4, Debian 12's among them, match a possessive quantifier over a group wrongly, and an atomic group
too (CPython issue 106052): there a folder's listing came out empty, and fields were added in the middle of a line. Over
a single character or a set such a quantifier is right, and keeps a pattern linear.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUANTIFIER = r"(?:[*+?]|\{\d*,?\d*\})\+"
OVER_A_GROUP = re.compile(rf"(?<!\\)\){QUANTIFIER}|\(\?>")
# Behind a piece that is put in, which may be a group.
AT_THE_BEGINNING = re.compile(QUANTIFIER)


def refused(source: str) -> Iterator[int]:
    """The numbers of the lines in which a string of ``source`` has the idiom."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            if OVER_A_GROUP.search(_text(node.value)):
                yield node.lineno
        elif isinstance(node, ast.JoinedStr):
            behind = (piece for before, piece in pairwise(node.values) if isinstance(before, ast.FormattedValue))
            if any(isinstance(piece, ast.Constant) and AT_THE_BEGINNING.match(str(piece.value)) for piece in behind):
                yield node.lineno


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


@pytest.mark.parametrize(
    "pattern",
    [
        *("'(?:a|b)*+'", "b'(?:%b)++'", "'(a){2,3}+'", "'(?:ab)?+'", "'(?>a|b)'"),
        *("f'{QUOTED}*+'", "rf'x(?:{QUOTED}|[^>])*+>'"),
    ],
)
def test_the_idiom_is_seen(pattern: str) -> None:
    assert list(refused(f"X = {pattern}"))


@pytest.mark.parametrize("pattern", ["r'[^>]*+>'", "r'\\)++'", "'(?:a|b)*'", "'(a+)+'", "f'{A}+'", "'x++'"])
def test_what_every_python_matches_alike_passes(pattern: str) -> None:
    assert not list(refused(f"X = {pattern}"))


@pytest.mark.long
@pytest.mark.parametrize("folder", ["proxy", "plugins", "tests"])
def test_no_pattern_has_a_possessive_quantifier_over_a_group(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path != Path(__file__)
        for line in refused(path.read_text())
    ]
    assert not found
