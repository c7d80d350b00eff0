"""Settings that only the SMTP backend has: our name in EHLO, BDAT, and how long each reply may take.

Each timeout is the deadline of one whole reply. A server that sends its reply one octet at a time can not extend it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

from legacy_email_proxy.contracts import Context

from ..backend_settings import SMTP, Backend, instead_of_password, read_backend
from ..tls_trouble import SILENT_SECONDS

__all__ = ("LEAST_OCTETS_PER_SECOND", "Chunking", "Endpoint", "Timeouts")

# A domain or an address literal (RFC 5321 §4.1.2); underscores too, because real machines have them in their names.
_EHLO_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}|\[[A-Za-z0-9.:-]{1,80}\]")


@dataclass(slots=True)
class Chunking:
    """Shared by all connections: whether to use BDAT if the server offers it (``wanted``), and whether the server has
    accepted a message by BDAT before (``proven``).
    """

    wanted: bool
    proven: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint(Backend):
    """The server. Without an ``ehlo_name``, EHLO has our own address."""

    ehlo_name: str | None
    chunking: Chunking

    @classmethod
    def from_context(cls, context: Context) -> Endpoint:
        """Read the settings. Raises :class:`SettingsMistake` with every mistake in them."""
        settings = context.settings
        user, password = settings["BACKEND_SMTP_USER"], settings["BACKEND_SMTP_PASS"]
        mistakes: list[str] = []
        if settings["BACKEND_SMTP_CREDENTIALS"] != "password":
            if not user:
                mistakes.append("BACKEND_SMTP_USER: not set; BACKEND_SMTP_CREDENTIALS needs to know who logs in")
        elif user and not password:
            words = instead_of_password(context, SMTP) or "; set both or neither"
            mistakes.append(f"BACKEND_SMTP_PASS: not set, though BACKEND_SMTP_USER is{words}")
        elif password and not user:
            mistakes.append("BACKEND_SMTP_USER: not set, though BACKEND_SMTP_PASS is; set both or neither")
        ehlo_name: str | None = settings["BACKEND_SMTP_EHLO_NAME"]
        if ehlo_name and not _EHLO_NAME.fullmatch(ehlo_name):
            mistakes.append(
                f"BACKEND_SMTP_EHLO_NAME: {ehlo_name!a} is no host name; write one like proxy.firm.example, letters "
                "outside ASCII as xn--…"
            )
        chunking = Chunking(settings["BACKEND_SMTP_CHUNKING"])
        return read_backend(context, SMTP, mistakes, partial(cls, ehlo_name=ehlo_name or None, chunking=chunking))

    def __str__(self) -> str:
        return f"{self.host} port {self.port}"


LEAST_OCTETS_PER_SECOND = 1000
"""If a backend takes content more slowly than this, after :attr:`Timeouts.block` seconds of waiting for it in all, the
transfer is ended. The rate is twice what Postfix under stress demands of a sender. It limits for how long a backend
that takes only an octet now and then can keep a connection in use."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds, per command and never for a whole transaction (RFC 5321 §4.5.3.2)."""

    connect: float = 30  # name and TCP, all addresses together
    tls: float = 60
    greeting: float = 300  # §4.5.3.2.1
    hello: float = 60  # EHLO and STARTTLS
    auth: float = 60
    mail: float = 300  # §4.5.3.2.2
    rcpt: float = 300  # §4.5.3.2.3
    data: float = 120  # §4.5.3.2.4
    block: float = 180  # §4.5.3.2.5, without any progress
    final_dot: float = 600  # §4.5.3.2.6
    rset: float = 20
    quit: float = 2
    slot: float = 30  # for a free connection, while all are lent
    probe: float = 60  # a whole probe, while the operator waits for it
    silent: float = SILENT_SECONDS  # in a probe, without a greeting
