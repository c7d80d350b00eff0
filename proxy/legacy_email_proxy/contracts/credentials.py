"""The contract of credentials: what a backend plugin logs in with, asked for whenever it is about to log in.

Entry-point group ``legacy_email_proxy.credentials``. The entry point names a class that is called with one
:class:`~legacy_email_proxy.contracts.context.Context`, in a thread without an event loop, and must not do I/O in its
constructor. Credentials are a plugin and not a setting, because a token changes while the service runs, and a secret
may be kept in a vault.

A backend plugin gets it from :meth:`Context.credentials`. Both legs of an account share one instance, so that a token
is renewed only once. Two accounts never share one: :attr:`Context.account` says whose it is.

A secret is a type of its own, so that printing or logging one by accident shows nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, TypeVar

from .failures import CredentialsRefused, Finding

__all__ = (
    "Account",
    "Authorizable",
    "BearerToken",
    "Credentials",
    "Dialogue",
    "Password",
    "Secret",
    "StartingCredentials",
    "TokenStatus",
    "logged_in",
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Account:
    """Who logs in, and where: ``user`` is the login name there. ``graph`` is Microsoft Graph, for both legs."""

    leg: Literal["imap", "smtp", "graph"]
    user: str


class Secret:
    """A password or token. ``str``, ``repr`` and formatting give ``***``; only :meth:`reveal` gives the text."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself. Call it where the octets go on the wire, and nowhere else."""
        return self._text

    def fingerprint(self) -> bytes:
        """SHA-256 of the text: a key for pools and caches, which must not mix two secrets or hold the text itself."""
        return hashlib.sha256(self._text.encode("utf-8", "surrogateescape")).digest()

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self.fingerprint())

    def __bool__(self) -> bool:
        return bool(self._text)

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not pickled")


class Password(Secret):
    """For PLAIN, LOGIN and their like."""

    __slots__ = ()


class BearerToken(Secret):
    """An OAuth2 access token, for XOAUTH2 and OAUTHBEARER (RFC 7628)."""

    __slots__ = ()


class Credentials(Protocol):
    """Gives what to log in with. One instance serves all sessions of an account."""

    async def secret(self, account: Account) -> Password | BearerToken:
        """What to log in with now. It may be asked for at every login, so it answers from memory where it can.

        Must limit its own time. Raises :class:`NoCredentials` when somebody has to act before there is one, and
        :class:`Unreachable`, :class:`Overloaded` or another failure when waiting may help.
        """

    async def refused(self, account: Account, secret: Password | BearerToken) -> bool:
        """The backend refused ``secret``. Returns whether :meth:`secret` has another one, for one more login now.

        In most cases the answer must be no: a backend locks the account after many refused logins.
        """

    async def probe(self) -> Sequence[Finding]:
        """Try the source of the secrets; failures are findings, not exceptions."""

    async def aclose(self) -> None:
        """Finish what must not be lost, then close; called once, when nobody can log in with it any more.

        It may take minutes, because the reply to a token's renewal can not be asked for twice. All that is closed
        after it has to wait.
        """


class StartingCredentials(Credentials, Protocol):
    """Credentials that also work while nobody logs in. It is optional."""

    async def start(self) -> None:
        """Called once, in the event loop, before the first device is served; ``check`` does not call it.

        At a reload the credentials that these replace are still working then, and are closed later.
        """


class Dialogue(Protocol):
    """The person who gives consent, at a terminal or on the operator's page."""

    def show(self, url: str, code: str = "") -> None:
        """Show the address that the mailbox's owner has to open in a browser, and the code to enter there, if any."""

    def say(self, text: str) -> None:
        """Show something."""

    async def ask(self, question: str) -> str:
        """Show a question and wait for a line."""


@dataclass(frozen=True, slots=True)
class TokenStatus:
    """The state of an account's token, without any secret. ``None`` or an empty text: not known, or there is none."""

    grant: str
    scope: str = ""
    expires: datetime | None = None
    refreshed: datetime | None = None
    error: str = ""


class Authorizable(Credentials, Protocol):
    """Credentials that need somebody's consent once. Optional: the command ``authorize`` looks for these methods."""

    async def authorize(self, dialogue: Dialogue, *, listen: bool) -> None:
        """Guide the person through the consent and store the result, which a running service uses from then on.

        ``listen``: the browser runs on this machine, so its redirect can be received on a loopback port. Raises a
        :class:`Failure` when there is no consent.
        """

    async def status(self) -> TokenStatus:
        """The state of the token, from what is stored; sends no request."""


async def logged_in(
    credentials: Credentials, account: Account, attempt: Callable[[Password | BearerToken], Awaitable[T]]
) -> T:
    """Log in with ``attempt``, which raises :class:`CredentialsRefused`; once more if there is another secret then.

    A pause after a refusal (so that no account is locked) belongs around the call of this function.
    """
    secret = await credentials.secret(account)
    try:
        return await attempt(secret)
    except CredentialsRefused:
        if not await credentials.refused(account, secret):
            raise
    return await attempt(await credentials.secret(account))
