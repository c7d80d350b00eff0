"""Where in a TOML text a key stands: tomllib tells what a file holds, but not on which line."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from typing import Any

__all__ = ("Lines",)

Key = tuple[str | int, ...]

_HEADER = re.compile(r"\s*\[(\[?)([^\[\]]+)\]\]?\s*(?:#.*)?")
_KEY = re.compile(r"\s*([^=#\[\]{},]+?)\s*=")


class Lines:
    """Key → line, read off the text of a valid file by its headers and ``key =`` beginnings.

    Keys inside an inline table or behind a quoted ``=`` are not seen: those are said to stand where their table does.
    """

    def __init__(self, text: str) -> None:
        self._lines: dict[Key, int] = {}
        table: Key = ()
        counted: Counter[Key] = Counter()
        for number, line in enumerate(text.splitlines(), 1):
            if header := _HEADER.fullmatch(line):
                table = _parts(f"[{header[2]}]")
                if header[1]:
                    counted[table] += 1
                    table = (*table, counted[table] - 1)
                for depth in range(1, len(table) + 1):
                    self._lines.setdefault(table[:depth], number)
            elif key := _KEY.match(line):
                parts = _parts(f"{key[1]} = 0")
                for depth in range(1, len(parts) + 1):
                    self._lines.setdefault((*table, *parts[:depth]), number)

    def of(self, *key: str | int) -> int:
        """The line of this key, or of the nearest table around it; 1 if there is none."""
        while key and key not in self._lines:
            key = key[:-1]
        return self._lines.get(key, 1)


def _parts(text: str) -> Key:
    """The parts of the one key in ``text``, quotes undone, which is TOML's own business."""
    try:
        value: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return ()
    parts: list[str] = []
    while isinstance(value, dict) and value:
        [(part, value)] = value.items()
        parts.append(part)
    return tuple(parts)
