"""What can go wrong, by kind, and what ``check`` says of a backend.

The kind of a failure decides what the device reads; its detail goes to the log only.

A plugin raises one of these; :mod:`legacy_email_proxy.replies` holds the one table that turns a kind into an SMTP
reply and a POP3 ``-ERR``. Trouble of our own (network, certificate, credentials, a bug) is always temporary, because
many devices throw a message away after a 5yz. Only the backend's own verdict on a sender, a recipient or a message
(:class:`Refused`) is permanent.

``about_us`` says whether any other message would have met the same failure. For such a failure alone the spool stops
delivering to that backend for a while.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = (
    "CredentialsRefused",
    "Disconnected",
    "Failure",
    "Finding",
    "Level",
    "LoginRefused",
    "LoginsLimited",
    "MaildropBusy",
    "MessageGone",
    "MessageUnavailable",
    "NoCredentials",
    "Overloaded",
    "Refused",
    "SettingsMistake",
    "StorageFull",
    "Unreachable",
    "Unusable",
    "Unverified",
)

_ABOUT_US = frozenset({421, 530, 534, 535, 538})


class Failure(Exception):
    """Something failed, temporarily as far as anybody knows.

    ``detail`` says what happened, for the log. ``look_at`` names the setting that the operator should look at.
    ``advice`` says what to do, for ``check``, where the kind alone does not say it. ``about_us`` is given where it
    differs from what the kind says.
    """

    _about_us = False

    def __init__(self, detail: str, *, look_at: str = "", advice: str = "", about_us: bool | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.look_at = look_at
        self.advice = advice
        if about_us is not None:
            self._about_us = about_us

    @property
    def about_us(self) -> bool:
        """Whether any other message would meet the same failure, because it is about the backend, the connection or
        our login there. Then all mail may wait; after any other failure only this message does.
        """
        return self._about_us

    def __str__(self) -> str:
        return f"{self.detail} (see {self.look_at})" if self.look_at else self.detail


class Unreachable(Failure):
    """No connection to the backend: refused, no route, no such name, or no answer in time."""

    _about_us = True


class Disconnected(Failure):
    """The backend hung up, fell silent or broke the protocol in the middle of a dialogue."""


class Unverified(Failure):
    """TLS could not be set up or the certificate did not verify. Nothing was sent before this."""

    _about_us = True


class CredentialsRefused(Failure):
    """The backend refused the proxy's own credentials."""

    _about_us = True


class NoCredentials(CredentialsRefused):
    """There is no password or token until somebody acts. The backend was not asked, so it needs no pause."""


class Unusable(Failure):
    """The backend can not be used as it is set up; waiting won't help: PREAUTH, LOGINDISABLED, no common mechanism."""

    _about_us = True


class Overloaded(Failure):
    """All connections to the backend are in use, or the backend asked us to come back later."""

    _about_us = True


class StorageFull(Failure):
    """There is no room to store the message."""


class LoginRefused(Failure):
    """The *client's own* USER and PASS were refused."""


class LoginsLimited(Failure):
    """Too many logins failed lately, so the client's own was not tried. Its password may be right."""


class MaildropBusy(Failure):
    """Another session holds the maildrop."""


class MessageGone(Failure):
    """The message was removed by somebody else since the session began."""


class MessageUnavailable(Failure):
    """The backend does not hand out this one message; the rest of the maildrop is unaffected."""


class Refused(Failure):
    """The backend's verdict on a reverse-path, a forward-path or a message, to be told to the device.

    ``code`` is a 4yz or 5yz reply code, ``enhanced`` an RFC 3463 code of the same class (or ``""``), ``text`` the
    backend's words: several lines and any characters are allowed here, the core makes one printable line of it.
    """

    def __init__(self, code: int, enhanced: str, text: str, *, detail: str = "") -> None:
        if not 400 <= code <= 599:
            raise ValueError(f"a refusal has a 4yz or 5yz code, not {code}")
        super().__init__(detail or f"{code} {enhanced} {text}".replace("  ", " "))
        self.code = code
        self.enhanced = enhanced
        self.text = text

    @property
    def about_us(self) -> bool:
        """Whether the code judges the proxy (its credentials, its connection), whichever command it replies to.

        If such a 5yz were passed on, a device would drop a message that is right.
        """
        return self.code in _ABOUT_US

    @property
    def permanent(self) -> bool:
        """Whether trying again is of no use."""
        return self.code >= 500 and not self.about_us


class SettingsMistake(Exception):
    """Settings that can not work. Each of ``lines`` reads ``VARIABLE: what is wrong and what to do``.

    A plugin raises it from its constructor; the start then stops with all mistakes of all plugins, exit status 2.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


class Level(Enum):
    """How bad a finding is."""

    GOOD = "ok"
    WARNING = "warning"
    BAD = "FAILED"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact about a backend, in plain words: a line of ``check``.

    ``advice`` says what to do about it, where there is something to do.
    """

    level: Level
    text: str
    advice: str = ""
