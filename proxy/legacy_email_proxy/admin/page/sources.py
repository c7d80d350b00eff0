"""What the pages read of the running service. What stands above this room is handed in as a plain function."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ...build import Composition
from ...history.database import FILE_NAME, TooNew, open_to_read
from ...reloading import Current
from ..disk import Disk
from ..outcomes import Outcomes
from ..readiness import Readiness
from ..sign_ins import SignIns

__all__ = ("NoHistory", "Sources")

_Answer = TypeVar("_Answer")


class NoHistory(Exception):
    """The history can not be read; ``why`` is ``off``, ``none``, ``damaged`` or ``slow``."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True)
class Sources:
    """``troubles`` gives what is wrong now as JSON could hold it; ``advice`` what to do, by the condition's key.

    ``listening`` has where each listener really listens, by its name in the settings (``SMTP``, ``POP3S``). ``reload``
    reads the settings anew and returns the mistakes.
    """

    current: Current
    readiness: Readiness
    outcomes: Outcomes
    troubles: Callable[[], Sequence[Mapping[str, Any]]] = tuple
    advice: Mapping[str, str] = field(default_factory=dict)
    listening: Mapping[str, Sequence[tuple[str, int]]] = field(default_factory=dict)
    reload: Callable[[], Awaitable[Sequence[str]]] | None = None
    sign_ins: SignIns = field(default_factory=SignIns)
    _disk: Disk = field(default_factory=Disk)

    @property
    def composition(self) -> Composition:
        """What new sessions get now."""
        return self.current.composition

    @property
    def settings(self) -> Any:
        """The process's settings."""
        return self.composition.settings

    async def history(self, question: Callable[[sqlite3.Connection], _Answer]) -> _Answer:
        """What ``question`` reads from the history, in a thread. Raises :class:`NoHistory`."""
        path: Path = self.settings["STATE_DIR"] / FILE_NAME
        try:
            return await self._disk.call(_asked, path, question)
        except FileNotFoundError:
            raise NoHistory("none" if self.settings["HISTORY_DAYS"] else "off") from None
        except TimeoutError:
            raise NoHistory("slow") from None
        except (OSError, sqlite3.Error, TooNew):
            raise NoHistory("damaged") from None


def _asked(path: Path, question: Callable[[sqlite3.Connection], _Answer]) -> _Answer:
    connection = open_to_read(path)
    try:
        return question(connection)
    finally:
        connection.close()
