"""What the settings say about a POP3 session: one value, handed from the service down to the session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

__all__ = ("LOGIN_DELAY_SECONDS", "PROGRESS_SECONDS", "Options")

LOGIN_DELAY_SECONDS = 2.0
"""How long the ``-ERR`` to a wrong password is delayed."""

PROGRESS_SECONDS = 60.0
"""A client that takes too little of a reply in this time is disconnected.

This is not the autologout timer of RFC 1939 §3, which is about commands: while a client reads a message, a connection
to the backend is in use, and a few stuck devices could hold all connections of an account.
"""


@dataclass(frozen=True, slots=True)
class Options:
    """``implementation`` is what CAPA names; ``ask_backend``: the maildrop judges USER and PASS.

    ``expire`` is the argument of EXPIRE in CAPA, ``""`` where the provider's retention isn't known. ``stls``: there is
    a certificate, so STLS is offered.
    """

    implementation: str
    ask_backend: bool = False
    idle_seconds: float = 600.0
    progress_seconds: float = PROGRESS_SECONDS
    login_delay_seconds: float = LOGIN_DELAY_SECONDS
    expire: str = ""
    replace_nul: bool = False
    add_blank_line: bool = False
    lock: bool = False
    stls: bool = False

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], implementation: str, *, stls: bool) -> Self:
        """The options that the ``POP3_…`` variables give."""
        return cls(
            implementation=implementation,
            ask_backend=settings["POP3_LOGIN"] != "any",
            idle_seconds=settings["POP3_IDLE_SECONDS"],
            expire=settings["POP3_EXPIRE_DAYS"] or "",
            replace_nul=settings["POP3_REPLACE_NUL"],
            add_blank_line=settings["POP3_ADD_BLANK_LINE"],
            lock=settings["POP3_LOCK"],
            stls=stls,
        )
