"""An event of the log, and its facts as the file can hold them: short, in one line, printable."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ("Event", "address", "addresses", "said", "text", "text_or_none", "whole", "whole_or_none")

_TEXT = 500
"""Characters that are kept of a reply, a cause and the like."""

_ADDRESS = 320
"""The longest address that RFC 5321 allows, with its `@`."""


class Event(NamedTuple):
    """One record of the log."""

    time: float
    words: str
    facts: Mapping[str, Any]
    level: int = logging.INFO


def said(facts: Mapping[str, Any]) -> str:
    """The last word on a message, a recipient or a command."""
    for name in ("backend", "cause", "reason", "verdict", "reply"):
        if facts.get(name):
            return text(facts[name])
    return ""


def addresses(facts: Mapping[str, Any]) -> list[str]:
    """The recipients that an event names."""
    found = facts.get("recipients")
    if not isinstance(found, (list, tuple)):
        found = [facts["recipient"]] if facts.get("recipient") else []
    return [text(each, _ADDRESS) for each in found]


def address(value: object) -> str | None:
    """The address, if there is one; the null sender is an empty one."""
    return None if value is None else text(value, _ADDRESS)


def text(value: object, limit: int = _TEXT) -> str:
    """In one line, and without what could make a terminal do something: a peer chose it."""
    shown = "" if value is None else str(value)[:limit]
    return shown if shown.isprintable() else "".join(each if each.isprintable() else " " for each in shown)


def text_or_none(value: object) -> str | None:
    """See :func:`text`."""
    return None if value is None else text(value)


def whole(value: object) -> int:
    """The number, as far as the file can hold it."""
    return value if isinstance(value, int) and abs(value) < 1 << 62 else 0


def whole_or_none(value: object) -> int | None:
    """See :func:`whole`."""
    return None if value is None else whole(value)
