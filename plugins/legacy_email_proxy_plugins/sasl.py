"""The login by SASL (RFC 4422): what each mechanism answers to the server's challenges, the same on both legs.

SCRAM (RFC 5802) is for servers that do not accept the password itself; a library does its calculations.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterable

from legacy_email_proxy.contracts import BearerToken

__all__ = (
    "BEARER_MECHANISMS",
    "SCRAM_MECHANISMS",
    "Bearer",
    "Mechanism",
    "Scram",
    "decoded",
    "explained",
    "login",
    "octets_of",
    "offered_of",
    "plain",
)

BEARER_MECHANISMS = ("XOAUTH2", "OAUTHBEARER")
"""In the order in which they are chosen: the first is what the large providers document."""

SCRAM_MECHANISMS = ("SCRAM-SHA-256", "SCRAM-SHA-1")
"""In the order in which they are chosen. The ``-PLUS`` mechanisms are missing: they need data that binds the login to
its TLS connection, and with TLS 1.3 Python provides none of the kinds that servers know."""

_SHOWN = ("status", "error", "schemes", "scope", "error_description")
_MOST_ITERATIONS = 1_000_000
"""About half a second of work. No honest server asks for more."""


class Mechanism:
    """One login exchange. :meth:`answer` gives the answer to each challenge; the first challenge is empty.

    Answers must never be logged. ``secrets`` are the texts that a server might repeat in its replies.
    """

    def __init__(self, name: str, answers: Iterable[bytes], *secrets: str) -> None:
        self.name = name
        self.secrets: tuple[str, ...] = secrets
        self.said = ""
        """The reason for a refusal that the server gave in a challenge; it may still contain secrets."""
        self.fault = ""
        """How the server broke the mechanism's protocol, which is why the exchange was cancelled."""
        self.proven = True
        """Whether a success reply may be believed: with SCRAM the server has to prove that it knows the password."""
        self._answers = list(answers)

    @property
    def answers_first(self) -> bool:
        """Whether the first answer may go with the command (RFC 4954 §4); LOGIN has to wait for a challenge."""
        return self.name != "LOGIN"

    def answer(self, challenge: bytes) -> bytes | None:
        """The next answer, before base64; ``None`` if there is none, and the exchange has to be cancelled.

        Here the text of ``challenge`` does not matter: it may be empty, as it should be, or say "go ahead".
        """
        return self._answers.pop(0) if self._answers else None


def plain(user: str, password: str) -> Mechanism:
    """PLAIN (RFC 4616)."""
    response = octets_of(f"\0{user}\0{password}")
    return Mechanism("PLAIN", (response,), password, _base64(response))


def login(user: str, password: str) -> Mechanism:
    """LOGIN, which no RFC describes: the server asks for the user, then for the password."""
    return Mechanism("LOGIN", (octets_of(user), octets_of(password)), password, _base64(octets_of(password)))


class Bearer(Mechanism):
    """A login with a token: XOAUTH2 or OAUTHBEARER (RFC 7628)."""

    def __init__(self, name: str, user: str, token: BearerToken, host: str, port: int) -> None:
        text = token.reveal()
        if name == "XOAUTH2":
            response = octets_of(f"user={user}\x01auth=Bearer {text}\x01\x01")
            acknowledgement = b""
        else:
            # RFC 5801 §4: a comma or an equals sign would end the name.
            named = user.replace("=", "=3D").replace(",", "=2C")
            response = octets_of(f"n,a={named},\x01host={host}\x01port={port}\x01auth=Bearer {text}\x01\x01")
            acknowledgement = b"\x01"
        # The second answer follows the server's error message (RFC 7628 §3.2.3); only then does the server refuse.
        super().__init__(name, (response, acknowledgement), text, _base64(response))

    def answer(self, challenge: bytes) -> bytes | None:
        self.said = explained(challenge) or self.said
        return super().answer(challenge)


class Scram(Mechanism):
    """SCRAM: we prove that we know the password, and the server proves that it does.

    Raises :class:`ValueError` for a user or a password that can't be used with it. The second :meth:`answer` may take
    up to a second of work, as the server chooses, so it must not run in the event loop.
    """

    def __init__(self, name: str, user: str, password: str) -> None:
        # Imported only here: few servers need it, and it takes as long to load as the rest of a leg.
        from scramp import ScramClient, ScramException

        super().__init__(name, (), password)
        self._errors = (ScramException, ValueError)
        try:
            self._client = ScramClient([name], user, password)
        except self._errors as error:
            raise ValueError(f"user or password can't be used with {name}: {error}") from None
        self._steps = [self._last, self._proof, self._first]
        self.proven = False

    def answer(self, challenge: bytes) -> bytes | None:
        if not self._steps:
            return None
        try:
            return octets_of(self._steps.pop()(challenge.decode("utf-8", "replace")))
        except self._errors as error:
            self._steps.clear()
            if challenge.startswith(b"e="):
                # RFC 5802 §7: the server's reason. Its final reply comes after this is answered.
                self.said = challenge.decode("ascii", "replace")
                return b""
            self.fault = f"the server broke the protocol of {self.name}: {error}"
            return None

    def _first(self, _: str) -> str:
        return str(self._client.get_client_first())

    def _proof(self, challenge: str) -> str:
        self._client.set_server_first(challenge)
        if (iterations := int(self._client.iterations)) > _MOST_ITERATIONS:
            raise ValueError(f"{iterations} iterations are asked for")
        proof = str(self._client.get_client_final())
        # Secret too: with it and the rest of the dialogue, an attacker can test guessed passwords.
        self.secrets = (*self.secrets, proof, _base64(proof.encode("ascii")))
        return proof

    def _last(self, challenge: str) -> str:
        self._client.set_server_final(challenge)
        self.proven = True
        return ""


def offered_of(known: Collection[str], offered: Collection[str]) -> str | None:
    """The first of the mechanisms ``known`` that the server offers."""
    return next((name for name in known if name in offered), None)


def octets_of(text: str) -> bytes:
    """``text`` as octets; what a client sent that is not UTF-8 is held as surrogates and becomes its old octets."""
    return text.encode("utf-8", "surrogateescape")


def decoded(challenge: bytes) -> bytes:
    """The challenge decoded from base64; unchanged if it is not base64: some servers just say "go ahead"."""
    try:
        return base64.b64decode(challenge.strip(), validate=True)
    except ValueError:
        return challenge


def explained(challenge: bytes) -> str:
    """The server's error message about a token (RFC 7628 §3.2.2), for the log; empty if ``challenge`` is none."""
    try:
        found = json.loads(challenge)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(found, dict):
        return ""
    words = " ".join(f"{name}={found[name]}" for name in _SHOWN if isinstance(found.get(name), (str, int)))
    return "".join(character if " " <= character <= "~" else "?" for character in words)


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")
