"""Places in this test suite, as the indexes name them: ``folder/test_file.py::function`` or a transcript's path."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

TESTS = Path(__file__).parent


def missing(places: Iterable[str]) -> list[str]:
    """Those that aren't there."""
    return [place for place in places if not _is_there(*place.split("::"))]


def _is_there(path: str, function: str = "") -> bool:
    file = TESTS / path
    if not function:
        return file.suffix == ".txt" and file.exists()
    return file.exists() and bool(re.search(rf"^(?:async )?def {function}[(]", file.read_text(), re.MULTILINE))
