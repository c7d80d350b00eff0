"""Logging in: how user and password are sent, and which ways to log in are tried in which order."""

from __future__ import annotations

from collections.abc import Callable, Collection

from legacy_email_proxy.contracts import (
    BearerToken,
    CredentialsRefused,
    Disconnected,
    Failure,
    Login,
    LoginRefused,
    Unusable,
)

from ..backend_settings import Encryption
from ..sasl import BEARER_MECHANISMS, SCRAM_MECHANISMS, Bearer, Mechanism, Scram, octets_of, offered_of, plain
from .response_codes import NotUnderstood, names_the_password
from .settings import Server

__all__ = ("LOGIN", "LoginWays", "is_sendable", "login_parts", "mechanism")

LOGIN = "LOGIN"
"""The way to log in by the command LOGIN. All other ways are the names of SASL mechanisms."""

_MOST_WAYS = 2
_MOST_REFUSED = 1000


def is_sendable(login: Login) -> bool:
    """Whether user and password have no octet that ends a command: the server would take the rest for a new command."""
    return not any(character in "\0\r\n" for character in login.user + login.password.reveal())


def login_parts(login: Login) -> list[bytes]:
    """The LOGIN command (RFC 9051 §6.2.3), split where we must wait until the server asks for a literal.

    imaplib does not do this for us: Python versions differ in what they quote (CVE-2025-15366), and a password that is
    quoted twice is another password. Text that is not printable ASCII is sent as a literal.
    """
    parts = [b"LOGIN "]
    for text, following in ((login.user, b" "), (login.password.reveal(), b"\r\n")):
        octets = octets_of(text)
        if all(0x20 <= octet < 0x7F for octet in octets):
            parts[-1] += b'"%b"' % octets.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        else:
            parts[-1] += b"{%d}\r\n" % len(octets)
            parts.append(octets)
        parts[-1] += following
    return parts


def mechanism(way: str, login: Login, server: Server) -> Mechanism:
    """The SASL mechanism of a ``way`` that :meth:`LoginWays.of` returned and that is not :data:`LOGIN`.

    Raises :class:`ValueError` if this mechanism can not send this user or password.
    """
    if isinstance(login.password, BearerToken):
        return Bearer(way, login.user, login.password, server.host, server.port)
    if way in SCRAM_MECHANISMS:
        return Scram(way, login.user, login.password.reveal())
    return plain(login.user, login.password.reveal())


class LoginWays:
    """Which ways to log in are tried at a server, and in which order. It learns from how they ended. For any thread.

    A server may offer AUTHENTICATE PLAIN but refuse it, and take LOGIN. So after a refusal that does not say what is
    wrong, a second way is tried. But each try with a wrong password counts, and providers lock an account after five to
    ten of them in ten minutes. So there is no second try

    * if the refusal says that the password or the account is wrong,
    * if the way that was refused has worked before,
    * if this password was refused in both ways before. From then on each login tries one way, and the next login the
      other one: the password may have been right, and the server out of order.
    """

    def __init__(self) -> None:
        self._worked = ""
        self._refused: dict[tuple[str, bytes], int] = {}

    def lead(
        self, login: Login, capabilities: Collection[str], encryption: Encryption, attempt: Callable[[str], None]
    ) -> None:
        """Log in by calling ``attempt`` with one way or two. Raises what it raises, or :class:`Unusable` if there is no
        way.
        """
        refused: Failure | None = None
        strikes = 0
        for way in self.of(login, capabilities, encryption):
            try:
                attempt(way)
            except (LoginRefused, CredentialsRefused) as failure:
                refused = failure
                strikes += 1
                if self._is_verdict(way, login, failure):
                    break
            except Disconnected as failure:
                # If the first way was refused, that counts: otherwise every login would try both ways again.
                refused = refused or failure
                if not isinstance(failure, NotUnderstood) or names_the_password(failure.detail):
                    break
            else:
                self._worked = way
                self._refused.pop(_key(login), None)
                return
        assert refused is not None  # noqa: S101 (there is a way, or there was a failure already)
        if strikes > 1 or (strikes and _key(login) in self._refused):
            self._remember(login)
        raise refused

    def of(self, login: Login, capabilities: Collection[str], encryption: Encryption) -> list[str]:
        """The ways to try, at most two, in order. Raises :class:`Unusable` if there is none."""
        offered = [name.removeprefix("AUTH=") for name in capabilities if name.startswith("AUTH=")]
        if isinstance(login.password, BearerToken):
            if token_mechanism := offered_of(BEARER_MECHANISMS, offered):
                return [token_mechanism]
            wants = f"a token needs {' or '.join(BEARER_MECHANISMS)}"
            raise Unusable(
                f"the server takes no token: it offers {_list(offered)}, and {wants}",
                look_at="BACKEND_IMAP_CREDENTIALS",
            )
        ways = [LOGIN] if "LOGINDISABLED" not in capabilities else []
        scram = offered_of(SCRAM_MECHANISMS, offered)
        if "PLAIN" in offered:
            ways = ["PLAIN", *ways, *([scram] if scram else [])][:_MOST_WAYS]
        elif scram:
            # SCRAM without PLAIN: the server does not want to see passwords, although it has not switched LOGIN off.
            ways.insert(0, scram)
        if not ways:
            raise _no_way(offered, encryption)
        first = ways.index(self._worked) if self._worked in ways else self._refused.get(_key(login), 0)
        return [ways[(first + step) % len(ways)] for step in range(len(ways))]

    def _is_verdict(self, way: str, login: Login, refused: Failure) -> bool:
        if way in SCRAM_MECHANISMS:
            # The server may have no SCRAM key for this user, and take the password by LOGIN.
            return _key(login) in self._refused
        return names_the_password(refused.detail) or way == self._worked or _key(login) in self._refused

    def _remember(self, login: Login) -> None:
        if len(self._refused) >= _MOST_REFUSED:
            self._refused.clear()
        key = _key(login)
        self._refused[key] = self._refused.get(key, 0) + 1


def _key(login: Login) -> tuple[str, bytes]:
    return login.user, login.password.fingerprint()


def _list(offered: Collection[str]) -> str:
    return ", ".join(sorted(offered)) or "none"


def _no_way(offered: Collection[str], encryption: Encryption) -> Unusable:
    known = ", ".join(("PLAIN", *SCRAM_MECHANISMS))
    detail = f"the server takes no password in a way that the proxy knows (LOGINDISABLED; it offers {_list(offered)}"
    if encryption is Encryption.NONE:
        detail += ", as some servers do before TLS)"
        return Unusable(detail, look_at="BACKEND_IMAP_USE_SSL, BACKEND_IMAP_USE_STARTTLS")
    detail += f"; the proxy knows {known})"
    token = offered_of(BEARER_MECHANISMS, offered)
    return Unusable(detail, look_at="BACKEND_IMAP_CREDENTIALS" if token else "BACKEND_IMAP_HOST, BACKEND_IMAP_PORT")
