"""What an answer of a token endpoint that is no token means, and how it is said without a secret in it."""

from __future__ import annotations

from collections.abc import Iterable

from legacy_email_proxy.contracts import Disconnected, Failure, NoCredentials, Overloaded, Secret

from ..provider_errors import meaning_of
from ..redaction import without_secrets
from .http import Answer

__all__ = ("GrantRefused", "refusal", "words")

_SHOWN_CHARACTERS = 300
_WAIT = frozenset({"temporarily_unavailable", "server_error"})
_LOOK_AT = "OAUTH2_GRANT and the other OAUTH2 settings"


class GrantRefused(NoCredentials):
    """The provider gives no token until somebody acts. ``code`` is its ``error`` (RFC 6749 §5.2)."""

    def __init__(self, detail: str, *, look_at: str = _LOOK_AT, code: str = "") -> None:
        super().__init__(detail, look_at=look_at)
        self.code = code


def refusal(answer: Answer, secrets: Iterable[Secret]) -> Failure:
    """The failure for an answer without a token. ``secrets`` are those that were sent, and may come back in it."""
    code = str(answer.body.get("error", ""))
    said = words(answer, secrets)
    if answer.status == 429 or answer.status >= 500 or code in _WAIT:
        return Overloaded(f"{answer.host} gives no token now: {said}")
    if not code:
        return Disconnected(f"{answer.host} does not answer like a token endpoint: {said}")
    meaning = meaning_of(said)
    means = f"; {meaning.words} -> {meaning.advice}" if meaning else ""
    return GrantRefused(f"{answer.host} gives no token: {said}{means}", code=code)


def words(answer: Answer, secrets: Iterable[Secret]) -> str:
    """What it said, for a log: one line, short, the secrets taken out before it is cut."""
    parts = [f"status {answer.status}", *(str(answer.body.get(name, "")) for name in ("error", "error_description"))]
    said = without_secrets(" ".join(filter(None, parts)), [secret.reveal() for secret in secrets])
    text = " ".join(said.split())
    return "".join(character if " " <= character <= "~" else "?" for character in text)[:_SHOWN_CHARACTERS]
