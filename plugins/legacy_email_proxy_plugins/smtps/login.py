"""Who we are: the octets of one SASL exchange (RFC 4954), and what its replies mean."""

from __future__ import annotations

import base64

from legacy_email_proxy.contracts import BearerToken, CredentialsRefused, Failure, Overloaded, Secret, Unusable

from ..sasl import BEARER_MECHANISMS, BearerLogin, explained
from .commands import Extensions
from .replies import Reply, redacted

__all__ = ("Exchange",)

_LOOK_AT = "BACKEND_SMTP_USER, BACKEND_SMTP_PASS"
_LOOK_AT_TOKEN = "BACKEND_SMTP_USER, BACKEND_SMTP_CREDENTIALS"  # noqa: S105 (names of settings)
_CREDENTIALS = frozenset({432, 530, 534, 535, 538})
_NOT_UNDERSTOOD = frozenset(range(500, 505))
_COMMAND_OCTETS = 510
"""RFC 4954 §4: an initial response that makes AUTH longer than a command line has to wait for the 334."""


class Exchange:
    """One mechanism, chosen once, and what to send in it: the AUTH command, then an answer to each 334.

    A second mechanism is never tried: three tries with a wrong password are three strikes against the account.
    """

    def __init__(self, mechanism: str, user: str, secret: Secret, server: tuple[str, int] = ("", 0)) -> None:
        self.mechanism = mechanism
        self._look_at = _LOOK_AT
        self._said = ""
        if isinstance(secret, BearerToken):
            self._look_at = _LOOK_AT_TOKEN
            bearer = BearerLogin(mechanism, user, secret, *server)
            answers: tuple[str, ...] = (_base64(bearer.response()), _base64(bearer.acknowledgement()))
            self.secrets: tuple[str, ...] = bearer.disguises()
            """What goes over the wire, and must not be shown when it comes back."""
        else:
            name = user.encode("utf-8", "surrogateescape")
            key = secret.reveal().encode("utf-8", "surrogateescape")
            plain, login = _base64(b"\0" + name + b"\0" + key), _base64(key)
            answers = (plain,) if mechanism == "PLAIN" else (_base64(name), login)
            self.secrets = (secret.reveal(), plain, login)
        # The initial response (RFC 4954 §4) saves a round trip. LOGIN has none.
        together = f"AUTH {mechanism} {answers[0]}"
        if mechanism != "LOGIN" and len(together) <= _COMMAND_OCTETS:
            self._lines: tuple[str, ...] = (together, *answers[1:])
        else:
            self._lines = (f"AUTH {mechanism}", *answers)

    @classmethod
    def choose(cls, extensions: Extensions, user: str, secret: Secret, server: tuple[str, int]) -> Exchange:
        """What fits the secret: PLAIN, else LOGIN; for a token XOAUTH2, else OAUTHBEARER.

        Raises :class:`Unusable` when the backend offers neither.
        """
        token = isinstance(secret, BearerToken)
        for mechanism in BEARER_MECHANISMS if token else ("PLAIN", "LOGIN"):
            if mechanism in extensions.mechanisms:
                return cls(mechanism, user, secret, server)
        offered = " ".join(sorted(extensions.mechanisms)) or "no login at all"
        if token:
            detail = f"the backend offers {offered}, and a token needs {' or '.join(BEARER_MECHANISMS)}"
            raise Unusable(detail, look_at="BACKEND_SMTP_CREDENTIALS")
        raise Unusable(f"the backend offers {offered}, and the proxy knows PLAIN and LOGIN", look_at=_LOOK_AT)

    def lines(self) -> tuple[bytes, ...]:
        """The lines to send, one after each other, as long as the backend says 334. Never to be logged."""
        return tuple(line.encode("ascii") + b"\r\n" for line in self._lines)

    def shown(self, reply: Reply) -> str:
        """The reply, for the log; the last one with what the backend said of a refused token before it."""
        if reply.code == 334 and (said := _explained(reply)):
            # As it came it is base64, in which no secret would be found.
            self._said = redacted(said, self.secrets)
            return f"334 {self._said}"
        shown = redacted(reply.whole, self.secrets)
        return f"{shown} ({self._said})" if self._said else shown

    def failure(self, reply: Reply) -> Failure:
        """What a 4yz or 5yz in the exchange means (RFC 4954 §6). It never is a verdict on the client's mail."""
        shown = self.shown(reply)
        if reply.code in _CREDENTIALS or (reply.code >= 500 and reply.code not in _NOT_UNDERSTOOD):
            return CredentialsRefused(f"the backend refused the login: {shown}", look_at=self._look_at)
        if reply.code >= 500:
            return Unusable(f"the backend does not understand the login: {shown}", look_at=self._look_at)
        return Overloaded(f"the backend can't check the login now: {shown}")


def _explained(reply: Reply) -> str:
    try:
        return explained(base64.b64decode(reply.lines[0].strip(), validate=True))
    except ValueError:
        return ""


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")
