"""The login: the lines of one SASL exchange (RFC 4954), and the meaning of the replies to them."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from legacy_email_proxy.contracts import BearerToken, CredentialsRefused, Failure, Overloaded, Secret, Unusable

from ..backend_settings import Encryption
from ..sasl import (
    BEARER_MECHANISMS,
    SCRAM_MECHANISMS,
    Bearer,
    Mechanism,
    Scram,
    decoded,
    explained,
    login,
    offered_of,
    plain,
)
from .protocol import Extensions, Reply, redacted
from .settings import Endpoint

__all__ = ("NOT_UNDERSTOOD", "Exchange", "mechanisms")

NOT_UNDERSTOOD = frozenset(range(500, 505))
"""In reply to AUTH: the backend does not know the mechanism, although it may offer it, and has judged no password."""

_LOOK_AT = "BACKEND_SMTP_USER, BACKEND_SMTP_PASS"
_LOOK_AT_TOKEN = "BACKEND_SMTP_USER, BACKEND_SMTP_CREDENTIALS"  # noqa: S105 (names of settings)
_CREDENTIALS = frozenset({432, 530, 534, 535, 538})
_FOR_PASSWORDS = ("PLAIN", "LOGIN", *SCRAM_MECHANISMS)
_COMMAND_OCTETS = 510
"""RFC 4954 §4: an initial response that makes AUTH longer than a command line has to wait for the 334."""


def mechanisms(endpoint: Endpoint, extensions: Extensions, secret: Secret) -> list[str]:
    """The mechanisms that fit the secret, best first: PLAIN, LOGIN, SCRAM; for a token XOAUTH2 or else OAUTHBEARER.

    The second is used only if the backend does not understand the first: a wrong password tried with all three would
    count as three wrong logins. Raises :class:`Unusable` if the backend offers none.
    """
    if isinstance(secret, BearerToken):
        token_mechanism = offered_of(BEARER_MECHANISMS, extensions.mechanisms)
        if token_mechanism is not None:
            return [token_mechanism]
        known: Sequence[str] = BEARER_MECHANISMS
        wants, look_at = f"a token needs {' or '.join(BEARER_MECHANISMS)}", "BACKEND_SMTP_CREDENTIALS"
    else:
        known = [name for name in _FOR_PASSWORDS if name in extensions.mechanisms]
        if known:
            return list(known)
        wants = f"the proxy knows {', '.join(_FOR_PASSWORDS)} for a password"
        look_at = "BACKEND_SMTP_PORT"
        if offered_of(BEARER_MECHANISMS, extensions.mechanisms):
            look_at = "BACKEND_SMTP_CREDENTIALS"
        elif endpoint.encryption is Encryption.NONE:
            look_at = "BACKEND_SMTP_USE_SSL, BACKEND_SMTP_USE_TLS"
    offered = " ".join(sorted(extensions.mechanisms)) or "no login at all"
    raise Unusable(f"the backend offers {offered}, and {wants}", look_at=look_at)


class Exchange:
    """One login with one mechanism: its command, the answer to each 334, and the text for each reply.

    ``earlier`` are secrets of earlier logins on the connection, which the backend might repeat as well.
    """

    def __init__(self, name: str, endpoint: Endpoint, secret: Secret, earlier: Sequence[str] = ()) -> None:
        self.name = name
        self._first: bytes | None = None
        """An answer that did not fit into the command."""
        self._earlier = tuple(earlier)
        self._look_at = _LOOK_AT_TOKEN if isinstance(secret, BearerToken) else _LOOK_AT
        user = endpoint.user or ""
        if isinstance(secret, BearerToken):
            self._mechanism: Mechanism = Bearer(name, user, secret, endpoint.host, endpoint.port)
        elif name in SCRAM_MECHANISMS:
            try:
                self._mechanism = Scram(name, user, secret.reveal())
            except ValueError as error:
                raise CredentialsRefused(f"not sent: {error}", look_at=_LOOK_AT) from None
        else:
            self._mechanism = (plain if name == "PLAIN" else login)(user, secret.reveal())

    @property
    def secrets(self) -> tuple[str, ...]:
        """The texts that must not be shown if the backend repeats them."""
        return tuple(dict.fromkeys((*self._earlier, *self._mechanism.secrets)))

    @property
    def fault(self) -> str:
        """How the backend broke the mechanism's protocol, also if this is known only at the end."""
        unproven = "" if self._mechanism.proven else "it does not show that it knows the password"
        return self._mechanism.fault or unproven

    @property
    def calculates(self) -> bool:
        """Whether :meth:`answer` calculates for long, and has to run in a thread."""
        return isinstance(self._mechanism, Scram)

    def command(self) -> bytes:
        """AUTH, with the first answer where this is allowed, which saves a round trip. It must never be logged."""
        command = b"AUTH %b" % self.name.encode("ascii")
        if self._mechanism.answers_first:
            first = self._mechanism.answer(b"")
            together = b"%b %b" % (command, base64.b64encode(first or b""))
            if len(together) <= _COMMAND_OCTETS:
                return together + b"\r\n"
            self._first = first
        return command + b"\r\n"

    def answer(self, reply: Reply) -> bytes | None:
        """The line that answers a 334; it must never be logged. ``None``: there is none, and the login has failed."""
        answer, self._first = self._first, None
        if answer is None:
            answer = self._mechanism.answer(_challenge(reply))
        return None if answer is None else base64.b64encode(answer) + b"\r\n"

    def shown(self, reply: Reply) -> str:
        """The reply, for the log; with the last one, the reason that the backend gave in a challenge before."""
        if reply.code == 334:
            # It comes as base64, in which a secret might not be found.
            said = explained(_challenge(reply))
            return f"334 {redacted(said or ' '.join(reply.lines), self.secrets)}"
        shown = redacted(reply.whole, self.secrets)
        return f"{shown} ({redacted(self._mechanism.said, self.secrets)})" if self._mechanism.said else shown

    def failure(self, reply: Reply) -> Failure:
        """The meaning of a 4yz or 5yz in the exchange (RFC 4954 §6). It is never a verdict on the client's mail."""
        shown = self.shown(reply)
        if reply.code in _CREDENTIALS or (reply.code >= 500 and reply.code not in NOT_UNDERSTOOD):
            return CredentialsRefused(f"the backend refused the login: {shown}", look_at=self._look_at)
        if reply.code >= 500:
            return Unusable(f"the backend does not understand the login: {shown}", look_at=self._look_at)
        return Overloaded(f"the backend can't check the login now: {shown}")


def _challenge(reply: Reply) -> bytes:
    return decoded(reply.lines[0].encode("utf-8"))
