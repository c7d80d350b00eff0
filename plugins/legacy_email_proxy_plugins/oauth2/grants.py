"""Builds the request of each grant (RFC 6749, 7523, 7636, 8628), and checks the token that comes back."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from legacy_email_proxy.contracts import BearerToken, Disconnected, Secret

from .configuration import Configuration
from .errors import refusal
from .http import Answer, Endpoints

__all__ = ("DeviceCode", "Granted", "Grants", "Unfit")

_LIFETIME_SECONDS = 600.0
"""Assumed when the provider does not say how long a token lives."""
_LONGEST_CONSENT_SECONDS = 10 * 365 * 86400.0
_LONGEST_SECONDS = 86400.0 * 30
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")
_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_CLIENT_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"


@dataclass(frozen=True, slots=True)
class Granted:
    """What a token endpoint gave. ``refresh_token`` is ``None`` if it gave no new one: a used one stays valid then.

    ``consent_seconds`` is how long the consent lasts, 0 where the provider does not say. Google does.
    """

    access_token: BearerToken
    seconds: float
    scope: str
    refresh_token: Secret | None
    consent_seconds: float = 0.0


class Unfit(Disconnected):
    """The answer has no usable access token; a ``refresh_token`` in it still replaces the one that was used."""

    def __init__(self, detail: str, *, look_at: str = "", refresh_token: Secret | None = None) -> None:
        super().__init__(detail, look_at=look_at)
        self.refresh_token = refresh_token


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """The code to type, the address to type it at (RFC 8628 §3.2), and how often to ask the provider meanwhile."""

    device_code: Secret
    user_code: str
    verification_url: str
    seconds: float
    interval: float


class Grants:
    """Asks the provider. Async methods raise what :meth:`Endpoints.post` does, ``GrantRefused`` or ``Overloaded``."""

    def __init__(
        self, configuration: Configuration, endpoints: Endpoints, clock: Callable[[], float] = time.time
    ) -> None:
        self._configuration = configuration
        self._endpoints = endpoints
        self._clock = clock

    @property
    def clock_offset(self) -> float | None:
        """See :attr:`.http.Endpoints.clock_offset`."""
        return self._endpoints.clock_offset

    async def for_app(self) -> Granted:
        """A token for the application itself: ``client_credentials``, or ``jwt_bearer`` on behalf of a subject."""
        configuration = self._configuration
        if configuration.grant == "client_credentials":
            return await self._token({"grant_type": "client_credentials", "scope": configuration.scope}, {})
        assert configuration.key is not None  # noqa: S101 (Configuration says so)
        claims = {"scope": configuration.scope}
        assertion = configuration.key.signed(
            issuer=configuration.client_id,
            subject=configuration.subject or configuration.client_id,
            audience=configuration.token_url,
            now=self._clock(),
            **claims,
        )
        # Google reads the scope in the statement, other providers the one in the form (RFC 7521 §4.1).
        form = {"grant_type": _JWT_BEARER, "scope": configuration.scope}
        return await self._token(form, {"assertion": assertion}, identify=False)

    async def refreshed(self, refresh_token: Secret, scope: str = "") -> Granted:
        """A new access token, and perhaps a new refresh token in place of this one (RFC 6749 §6).

        ``scope`` asks for less than the owner consented to; if it is empty, the token gets all of that.
        """
        form = {"grant_type": "refresh_token", "scope": scope}
        return await self._token(form, {"refresh_token": refresh_token}, once=True)

    async def device_code(self) -> DeviceCode:
        """Begin the device flow."""
        configuration = self._configuration
        form = {"client_id": configuration.client_id, "scope": configuration.scope}
        answer, known = await self._post("OAUTH2_DEVICE_URL", configuration.device_url, form, {})
        body = answer.body
        url = body.get("verification_uri") or body.get("verification_url")
        texts = (body.get("device_code"), body.get("user_code"), url)
        if answer.status != 200 or not all(isinstance(text, str) and text.isprintable() for text in texts):
            raise refusal(answer, known, configuration)
        return DeviceCode(
            Secret(str(texts[0])),
            str(texts[1]),
            str(texts[2]),
            seconds=_number(body.get("expires_in"), 900.0, 3600.0),
            interval=_number(body.get("interval"), 5.0, 60.0),
        )

    async def for_device(self, code: DeviceCode) -> Granted:
        """Ask once for the token. ``GrantRefused`` with ``authorization_pending``: the person has not consented yet."""
        return await self._token({"grant_type": _DEVICE_CODE}, {"device_code": code.device_code}, once=True)

    def consent_url(self, *, redirect_url: str, state: str, challenge: str) -> str:
        """The address to open in the browser (RFC 6749 §4.1.1), with PKCE (RFC 7636 §4.3)."""
        configuration = self._configuration
        query = urlencode(
            {
                "response_type": "code", "client_id": configuration.client_id, "redirect_uri": redirect_url,
                "scope": configuration.scope, "state": state, "code_challenge": challenge,
                "code_challenge_method": "S256", **configuration.authorization_extra,
            },
            quote_via=quote,
        )  # fmt: skip
        parts = urlsplit(configuration.authorization_url)
        return urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, query))), fragment=""))

    async def for_code(self, code: Secret, *, redirect_url: str, verifier: Secret) -> Granted:
        """Exchange the authorization code (RFC 6749 §4.1.3, RFC 7636 §4.5)."""
        form = {"grant_type": "authorization_code", "redirect_uri": redirect_url}
        return await self._token(form, {"code": code, "code_verifier": verifier}, once=True)

    async def _token(
        self, form: Mapping[str, str], secrets: Mapping[str, Secret], *, identify: bool = True, once: bool = False
    ) -> Granted:
        url = self._configuration.token_url
        answer, known = await self._post("OAUTH2_TOKEN_URL", url, form, secrets, identify=identify, once=once)
        refresh = answer.body.get("refresh_token")
        if answer.status != 200 or not ("access_token" in answer.body or refresh):
            raise refusal(answer, known, self._configuration)
        return _granted(answer, self._configuration.scope)

    async def _post(
        self,
        variable: str,
        url: str,
        form: Mapping[str, str],
        secrets: Mapping[str, Secret],
        *,
        identify: bool = True,
        once: bool = False,
    ) -> tuple[Answer, list[Secret]]:
        """Send the form with the client's credentials (RFC 6749 §2.3, RFC 8628 §3.1). Also returns the secrets sent."""
        configuration = self._configuration
        form, secrets = dict(form), dict(secrets)
        basic = None
        if identify:
            form["client_id"] = configuration.client_id
            if configuration.key is not None:
                form["client_assertion_type"] = _CLIENT_ASSERTION
                secrets["client_assertion"] = configuration.key.signed(
                    issuer=configuration.client_id,
                    subject=configuration.client_id,
                    audience=configuration.token_url,
                    now=self._clock(),
                )
            elif configuration.client_secret is not None and configuration.client_auth == "basic":
                # RFC 6749 §2.3.1: ID and secret are form-encoded first.
                del form["client_id"]
                basic = (quote(configuration.client_id, safe=""), quote(configuration.client_secret.reveal(), safe=""))
            elif configuration.client_secret is not None:
                secrets["client_secret"] = configuration.client_secret
        sent = {name: text for name, text in form.items() if text}
        sent |= {name: secret.reveal() for name, secret in secrets.items()}
        answer = await self._endpoints.post(url, sent, basic, once=once, variable=variable)
        return answer, [*secrets.values(), *filter(None, (configuration.client_secret,))]


def _granted(answer: Answer, scope: str) -> Granted:
    """The token, checked, because it is sent to the mail server as it is. Raises :class:`Unfit` if it is unusable."""
    body = answer.body
    token, kind, refresh = body.get("access_token"), body.get("token_type", "Bearer"), body.get("refresh_token")
    if refresh is not None and not (isinstance(refresh, str) and _TOKEN.fullmatch(refresh)):
        raise Disconnected(f"{answer.host} gives something that is no refresh token")
    if not (isinstance(token, str) and _TOKEN.fullmatch(token)) or str(kind).lower() != "bearer":
        detail = f"{answer.host} gives something that is no bearer token"
        raise Unfit(detail, refresh_token=Secret(refresh) if refresh else None)
    given = body.get("scope")
    return Granted(
        BearerToken(token),
        _number(body.get("expires_in"), _LIFETIME_SECONDS, _LONGEST_SECONDS),
        given if isinstance(given, str) and given.isprintable() and len(given) <= 2000 else scope,
        Secret(refresh) if refresh else None,
        _number(body.get("refresh_token_expires_in"), 0.0, _LONGEST_CONSENT_SECONDS),
    )


def _number(value: Any, default: float, longest: float) -> float:
    """``value`` as a number; some providers send numbers as text."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return default
    return min(number, longest) if number > 0 else default
