"""What the spool's settings say, checked; where it is says :mod:`.place`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from legacy_email_proxy.contracts import Context, SettingsMistake

__all__ = ("Options",)


@dataclass(frozen=True, slots=True)
class Options:
    """See the settings' own sentences. ``notify_sender`` and ``postmaster`` say who is told.

    ``notify_from`` is the reverse-path of notifications where the backend refuses the null one.
    """

    retry_seconds: Sequence[float]
    give_up_seconds: float
    warn_seconds: float
    max_octets: int
    message_octets: int
    poison_tries: int
    connections: int
    notify_sender: bool
    notify_from: str | None
    postmaster: str | None
    daemon: str | None

    @classmethod
    def from_context(cls, context: Context) -> Options:
        """Read them. Raises :class:`SettingsMistake` with all that is wrong."""
        settings, mistakes = context.settings, []
        retry: list[float] = []
        with suppress(ValueError):
            retry = [float(item) for item in settings["SPOOL_RETRY_SECONDS"]]
        if not retry or not all(1 <= seconds <= 86400 * 30 for seconds in retry):
            mistakes.append("SPOOL_RETRY_SECONDS: numbers of seconds from 1 on, separated by commas, are needed")
        notify, postmaster = settings["SPOOL_NOTIFY"], settings["SPOOL_POSTMASTER"]
        for variable in ("SPOOL_POSTMASTER", "SPOOL_NOTIFY_SENDER"):
            address = settings[variable]
            if address is not None and not ("@" in address and address.isprintable() and " " not in address):
                mistakes.append(f"{variable}: that is no address; write one like postmaster@firm.example")
        if notify == "postmaster" and postmaster is None:
            mistakes.append("SPOOL_POSTMASTER: not set, but SPOOL_NOTIFY says that only the postmaster is told")
        if settings["SPOOL_RELAY"].rpartition(":")[2] == "spool":
            mistakes.append("SPOOL_RELAY: the spool can not hand on to itself; name another relay, like smtps")
        if mistakes:
            raise SettingsMistake(*mistakes)
        user = settings["BACKEND_SMTP_USER"]
        own = settings["SMTP_SENDER"] or (user if user and "@" in user else None)
        return cls(
            retry_seconds=retry,
            give_up_seconds=settings["SPOOL_GIVE_UP_SECONDS"],
            warn_seconds=settings["SPOOL_WARN_SECONDS"],
            max_octets=settings["SPOOL_MAX_OCTETS"],
            message_octets=settings["SMTP_MAX_OCTETS"],
            poison_tries=settings["SPOOL_POISON_TRIES"],
            connections=settings["BACKEND_SMTP_MAX_CONNECTIONS"],
            notify_sender=notify != "postmaster",
            notify_from=settings["SPOOL_NOTIFY_SENDER"] or own,
            postmaster=None if notify == "sender" else postmaster,
            # Many providers let an account write in its own name only.
            daemon=settings["SMTP_SENDER"] or postmaster or own,
        )
