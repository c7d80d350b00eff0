"""What a site may choose about the maildrop itself: what is shown, under which unique-ids, and what deleting means."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from legacy_email_proxy.contracts import Context

from .unique_ids import DOVECOT, UNIQUE_IDS, UniqueIds

__all__ = ("Deletion", "Options", "configured_options")


class Deletion(Enum):
    """``BACKEND_IMAP_DELETE``: what QUIT does with the messages that were marked."""

    EXPUNGE = "expunge"
    TRASH = "trash"
    FLAG = "flag"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Options:
    """``None`` means no limit."""

    deletion: Deletion = Deletion.EXPUNGE
    unique_ids: UniqueIds = DOVECOT
    newest_messages: int | None = None
    newest_days: int | None = None
    read_only: bool = False
    hide_after: int | None = None
    """In how many sessions a message may be unavailable before it is no longer listed."""


def configured_options(context: Context) -> Options:
    """What the settings say; they have no way to be wrong together."""
    settings = context.settings
    return Options(
        deletion=Deletion(settings["BACKEND_IMAP_DELETE"]),
        unique_ids=UNIQUE_IDS[settings["POP3_UIDL_FORMAT"]],
        newest_messages=settings["POP3_NEWEST_MESSAGES"],
        newest_days=settings["POP3_NEWEST_DAYS"],
        read_only=settings["POP3_READ_ONLY"],
        hide_after=settings["POP3_HIDE_UNFETCHABLE_AFTER"],
    )
