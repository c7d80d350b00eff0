"""Turns a token endpoint's answer without a token into a failure with advice, and keeps secrets out of its text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from legacy_email_proxy.contracts import Disconnected, Failure, NoCredentials, Overloaded, Secret

from ..findings import AUTHORIZE, GENERAL, Meaning, meaning_of
from ..redaction import without_secrets
from .configuration import Configuration
from .http import Answer
from .providers import CONSENT_GRANTS

__all__ = ("GrantRefused", "refusal", "words")

_SHOWN_CHARACTERS = 300
_WAIT = frozenset({"temporarily_unavailable", "server_error"})
_NOWHERE = frozenset({404, 405, 410})
"""The endpoint's address is wrong; some servers say so in the form of an OAuth error."""
_LOOK_AT = "OAUTH2_GRANT and the other OAUTH2 settings"
_GIVEN = "get a new refresh token from where this one came, and set OAUTH2_REFRESH_TOKEN to it"
_APP = "check the application's rights, and OAUTH2_CLIENT_ID, OAUTH2_SUBJECT and OAUTH2_SCOPE"
_STATEMENT = "the provider did not accept what was signed with the key"
_CLOCK_AND_KEY = (
    "set this machine's clock (NTP); does the key belong to what is registered at the provider, and does that expect"
    " another OAUTH2_ASSERTION_ALGORITHM?"
)
_NO_TOKEN = Meaning("", "the provider gives this application no token", _APP)
_SIGNED = Meaning("", _STATEMENT, f"check OAUTH2_CLIENT_ID and OAUTH2_CLIENT_KEY; {_CLOCK_AND_KEY}")
_SIGNED_FOR_SUBJECT = Meaning(
    "", _STATEMENT, f"check OAUTH2_SUBJECT and OAUTH2_SERVICE_ACCOUNT or OAUTH2_CLIENT_KEY; {_CLOCK_AND_KEY}"
)


class GrantRefused(NoCredentials):
    """The provider gives no token until the operator or owner acts. ``code`` is its ``error`` (RFC 6749 §5.2)."""

    def __init__(self, detail: str, *, look_at: str = _LOOK_AT, code: str = "") -> None:
        super().__init__(detail, look_at=look_at)
        self.code = code


def refusal(answer: Answer, secrets: Iterable[Secret], configuration: Configuration) -> Failure:
    """The failure for an answer without a token. ``secrets`` were sent, and the answer may repeat them."""
    code = str(answer.body.get("error", ""))
    said = words(answer, secrets)
    if answer.status == 429 or answer.status >= 500 or code in _WAIT:
        return Overloaded(f"{answer.host} gives no token now: {said}")
    if not code or answer.status in _NOWHERE:
        return Disconnected(f"{answer.host} does not answer like a token endpoint: {said}", look_at=answer.variable)
    meaning = _meaning(code, said, configuration)
    means = f"; {meaning.words} -> {meaning.advice}" if meaning else ""
    return GrantRefused(f"{answer.host} gives no token: {said}{means}", code=code)


def _meaning(code: str, said: str, configuration: Configuration) -> Meaning | None:
    """What the error means for this configuration; the table in ``findings`` does not know the grant."""
    found = meaning_of(said)
    if found in GENERAL:
        if configuration.grant == "jwt_bearer" and code in ("invalid_client", "invalid_grant"):
            return _SIGNED_FOR_SUBJECT
        if configuration.key is not None and code == "invalid_client":
            return _SIGNED
        if configuration.is_app and code == "invalid_grant":
            return _SIGNED if configuration.key is not None else _NO_TOKEN
    if found is None or AUTHORIZE not in found.advice or configuration.grant in CONSENT_GRANTS:
        return found
    instead = _GIVEN if configuration.grant == "refresh_token" else _APP
    return replace(found, advice=found.advice.replace(AUTHORIZE, instead))


def words(answer: Answer, secrets: Iterable[Secret]) -> str:
    """What the answer says, as one short line for a log; secrets are removed before the line is cut."""
    parts = [f"status {answer.status}", *(str(answer.body.get(name, "")) for name in ("error", "error_description"))]
    said = without_secrets(" ".join(filter(None, parts)), [secret.reveal() for secret in secrets])
    text = " ".join(said.split())
    return "".join(character if " " <= character <= "~" else "?" for character in text)[:_SHOWN_CHARACTERS]
