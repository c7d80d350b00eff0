"""What ``check`` prints: one finding per line, in plain words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ("Finding", "Level")


class Level(Enum):
    """How bad it is."""

    GOOD = "ok"
    WARNING = "warning"
    BAD = "FAILED"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact about a backend. ``advice`` says what to do about it, where there is something to do."""

    level: Level
    text: str
    advice: str = ""
