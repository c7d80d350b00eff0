"""Logging in with a bearer token: the octets of XOAUTH2 and OAUTHBEARER (RFC 7628), the same on both legs."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection
from dataclasses import dataclass

from legacy_email_proxy.contracts import BearerToken

__all__ = ("BEARER_MECHANISMS", "BearerLogin", "bearer_mechanism", "explained")

BEARER_MECHANISMS = ("XOAUTH2", "OAUTHBEARER")
"""In the order in which they are chosen: the first is what the large providers document."""

_SHOWN = ("status", "error", "schemes", "scope", "error_description")
_SHOWN_CHARACTERS = 200


def bearer_mechanism(offered: Collection[str]) -> str | None:
    """The mechanism to use, or ``None`` where no token is taken."""
    return next((mechanism for mechanism in BEARER_MECHANISMS if mechanism in offered), None)


@dataclass(frozen=True, slots=True)
class BearerLogin:
    """One mechanism and what it says. Its octets are never to be logged."""

    mechanism: str
    user: str
    token: BearerToken
    host: str
    port: int

    def response(self) -> bytes:
        """The client's one response, before base64."""
        token = self.token.reveal()
        if self.mechanism == "XOAUTH2":
            text = f"user={self.user}\x01auth=Bearer {token}\x01\x01"
        else:
            # RFC 5801 §4: a comma or an equals sign would end the name.
            name = self.user.replace("=", "=3D").replace(",", "=2C")
            text = f"n,a={name},\x01host={self.host}\x01port={self.port}\x01auth=Bearer {token}\x01\x01"
        return text.encode("utf-8", "surrogateescape")

    def acknowledgement(self) -> bytes:
        """What answers the server's error message (RFC 7628 §3.2.3), before base64; only then the verdict comes."""
        return b"" if self.mechanism == "XOAUTH2" else b"\x01"

    def disguises(self) -> tuple[str, ...]:
        """The token in all forms in which a server might quote it back at us."""
        token = self.token.reveal()
        whole = base64.b64encode(self.response()).decode()
        return (whole, token, base64.b64encode(token.encode()).decode())


def explained(challenge: bytes) -> str:
    """The server's error message, decoded from base64, for the log; empty if it is none."""
    try:
        found = json.loads(challenge)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(found, dict):
        return ""
    words = " ".join(f"{name}={found[name]}" for name in _SHOWN if isinstance(found.get(name), (str, int)))
    return "".join(character if " " <= character <= "~" else "?" for character in words)[:_SHOWN_CHARACTERS]
