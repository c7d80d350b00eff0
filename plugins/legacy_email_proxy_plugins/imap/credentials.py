"""User and password in the forms in which they go on the wire, and in all the forms that must not reach a log."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable

from legacy_email_proxy.contracts import BearerToken, Login, Unusable

from ..sasl import BEARER_MECHANISMS, BearerLogin, bearer_mechanism, explained

__all__ = ("TokenExchange", "disguises", "is_sendable", "login_parts", "plain_response", "redacted", "token_login")


def _octets(text: str) -> bytes:
    # Whatever a client sent that is no UTF-8 arrives as surrogates, and goes on as the octets that it was.
    return text.encode("utf-8", "surrogateescape")


def is_sendable(login: Login) -> bool:
    """Whether no octet in it would end the command early, and make a command of the rest."""
    return not any(character in "\0\r\n" for character in login.user + login.password.reveal())


def plain_response(login: Login) -> bytes:
    """The response of SASL PLAIN (RFC 4616 §2), before base64."""
    return _octets(f"\0{login.user}\0{login.password.reveal()}")


def login_parts(tag: bytes, login: Login) -> list[bytes]:
    """The LOGIN command (RFC 9051 §6.2.3), cut where the server must first ask for a literal.

    Not left to imaplib: Python versions differ in what they quote (CVE-2025-15366), and a second round of quotes would
    be another password. What is not printable ASCII goes as a literal.
    """
    parts = [b"%b LOGIN " % tag]
    for text, following in ((login.user, b" "), (login.password.reveal(), b"\r\n")):
        octets = _octets(text)
        if all(0x20 <= octet < 0x7F for octet in octets):
            parts[-1] += b'"%b"' % octets.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        else:
            parts[-1] += b"{%d}\r\n" % len(octets)
            parts.append(octets)
        parts[-1] += following
    return parts


class TokenExchange:
    """Answers the server's challenges. ``said`` is what it had against the token, decoded."""

    def __init__(self, bearer: BearerLogin) -> None:
        self.mechanism = bearer.mechanism
        self.disguises = bearer.disguises()
        self.said = ""
        self._answers = [bearer.acknowledgement(), bearer.response()]

    def answer(self, challenge: bytes) -> bytes | None:
        """The next answer; ``None`` cancels, for there is no third."""
        self.said = explained(challenge) or self.said
        return self._answers.pop() if self._answers else None


def token_login(login: Login, capabilities: Collection[str], host: str, port: int) -> TokenExchange | None:
    """How to log in with a token; ``None`` for a password. Raises :class:`Unusable` where no token is taken."""
    if not isinstance(login.password, BearerToken):
        return None
    offered = [name.removeprefix("AUTH=") for name in capabilities if name.startswith("AUTH=")]
    mechanism = bearer_mechanism(offered)
    if mechanism is None:
        named = ", ".join(sorted(offered)) or "none"
        detail = f"the server takes no token: it offers {named}, and a token needs {' or '.join(BEARER_MECHANISMS)}"
        raise Unusable(detail, look_at="BACKEND_IMAP_CREDENTIALS")
    return TokenExchange(BearerLogin(mechanism, login.user, login.password, host, port))


def disguises(login: Login) -> tuple[str, ...]:
    """The password, quoted, escaped and in base64, as a server might quote it back at us and a log would show it."""
    password = login.password.reveal()
    quoted = password.replace("\\", "\\\\").replace('"', '\\"')
    response = plain_response(login)
    encoded = (base64.b64encode(octets).decode() for octets in (response, response[1:], _octets(password)))
    escaped = (_octets(form).decode("ascii", "backslashreplace") for form in (quoted, password))
    return tuple(dict.fromkeys(form for form in (*escaped, quoted, password, *encoded) if form))


def redacted(text: str, secrets: Iterable[str]) -> str:
    """``text`` without them. To be done before a text is cut: a part of a password is still one."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
