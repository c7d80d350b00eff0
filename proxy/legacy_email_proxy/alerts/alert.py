"""One message to the operator: all that is new, over or lasting, as a text for people and as data for programs."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..replies import printable
from .conditions import Change, Severity, Step

__all__ = ("Alert", "of_changes", "trial_alert")

_HEADS = {Step.BEGUN: "NEW", Step.OVER: "OVER", Step.LASTS: "STILL"}
_MOST_CHANGES = 20
"""A text with more than these helps nobody, and some receivers refuse it."""
_SAYS_OCTETS = 500


@dataclass(frozen=True, slots=True)
class Alert:
    """``title`` is one line; ``text`` begins with it. ``severity`` is that of the worst that is new or lasts."""

    title: str
    text: str
    severity: str
    troubles: tuple[dict[str, Any], ...] = ()

    @property
    def plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "text": self.text, "title": self.title, "severity": self.severity, "host": _host(),
            "troubles": list(self.troubles),
        }  # fmt: skip


def of_changes(changes: Sequence[Change]) -> Alert:
    """The message about these changes."""
    counts = {step: sum(change.step is step for change in changes) for step in Step}
    words = {
        Step.BEGUN: ("new trouble", "new troubles"), Step.LASTS: ("trouble lasts", "troubles last"),
        Step.OVER: ("trouble is over", "troubles are over"),
    }  # fmt: skip
    parts = [f"{count} {words[step][count > 1]}" for step, count in counts.items() if count]
    title = f"Mail proxy {_host()}: {', '.join(parts)}"
    lines = [title, *map(_line, changes[:_MOST_CHANGES])]
    if len(changes) > _MOST_CHANGES:
        lines.append(f"... and {len(changes) - _MOST_CHANGES} more")
    wrong = {change.trouble.about.severity for change in changes if change.step is not Step.OVER}
    severity = "ok" if not wrong else str(Severity.CRITICAL if Severity.CRITICAL in wrong else Severity.WARNING)
    troubles = tuple({"step": str(change.step), **change.trouble.plain()} for change in changes[:_MOST_CHANGES])
    return Alert(title, "\n".join(lines), severity, troubles)


def trial_alert() -> Alert:
    """The message that ``alert test`` sends."""
    title = f"Mail proxy {_host()}: test"
    return Alert(title, f"{title}\nThis is a test. Real trouble will be told in the same way.", "ok")


def _line(change: Change) -> str:
    # What is said may hold a backend's words.
    said = printable(change.trouble.says, limit=_SAYS_OCTETS)
    advice = "" if change.step is Step.OVER else f" -> {change.trouble.about.advice}"
    return f"{_HEADS[change.step]}: {said}{advice}"


def _host() -> str:
    return socket.gethostname() or "localhost"
