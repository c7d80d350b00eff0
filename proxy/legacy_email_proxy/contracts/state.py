"""The contract of shared state: what several proxies have to know together, in a database that all of them reach.

Entry-point group ``legacy_email_proxy.state``; ``STATE_URL`` says where the database is. A plugin gets it from
:attr:`Context.shared_state`, and keeps what it has to remember in ``STATE_DIR`` where there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

__all__ = ("SharedState",)


class SharedState(Protocol):
    """Small values by name. ``kind`` says what they are, ``key`` whose.

    The database may be away. So every call ends within seconds, and raises a
    :class:`~legacy_email_proxy.contracts.failures.Failure` if it could not be done. What was to be changed may have
    been changed all the same then.
    """

    async def read(self, kind: str, key: str) -> bytes | None:
        """The value; ``None`` if there is none."""

    async def change(self, kind: str, key: str, edit: Callable[[bytes | None], bytes | None]) -> bytes | None:
        """Let ``edit`` make the new value of the present one, and return it; ``None`` removes it.

        Nobody else changes it meanwhile. It is safe from a power cut on return. ``edit`` runs in a thread, and must not
        wait for anything.
        """

    async def take(self, kind: str, key: str, holder: str, seconds: float) -> bool:
        """Take this name for ``holder``, for so many seconds by the database's clock, or keep it for so long again.

        Returns whether it worked: while one holder has it, no other one gets it.
        """

    async def leave(self, kind: str, key: str, holder: str) -> None:
        """Give it back, if ``holder`` has it."""
