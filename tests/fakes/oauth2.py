"""A fake authorization server over HTTPS: it judges every grant for real (secrets, signatures, PKCE), and can fail.

    async with FakeAuthorizationServer(tls=context) as server:
        server.script = {("token", 1): Status(500, "oops"), "token": Hang()}

A step is `token`, `device` or `introspect`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import jwt

from fakes.server import FakeServer, Step

__all__ = ("Drop", "FakeAuthorizationServer", "Hang", "Raw", "Status", "Token")

DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True)
class Status:
    """Answer with this; `body` is sent as it is, or as JSON."""

    status: int
    body: str | Mapping[str, Any] = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Raw:
    """Send these octets, and close."""

    octets: bytes


@dataclass(frozen=True)
class Hang:
    """Send these octets, and nothing more until the client is gone."""

    octets: bytes = b""


@dataclass(frozen=True)
class Drop:
    """Close without an answer. With `granted` what was asked for has happened all the same."""

    granted: bool = False


Action = Status | Raw | Hang | Drop


@dataclass
class Token:
    """An access token that was issued; `active` until it is revoked or its time is over."""

    text: str
    user: str
    scope: str
    expires: float
    revoked: bool = False

    @property
    def active(self) -> bool:
        return not self.revoked and time.time() < self.expires


class Refusal(Exception):
    """An error response of RFC 6749 §5.2."""

    def __init__(self, error: str, description: str = "", status: int = 400) -> None:
        super().__init__(error)
        self.answer = Status(status, {"error": error, "error_description": description})


class FakeAuthorizationServer(FakeServer[Action]):
    """It has one client and one user."""

    def __init__(
        self,
        *,
        tls: ssl.SSLContext,
        client_id: str = "the-client",
        client_secret: str | None = None,
        client_auth: str = "post",
        client_key: Any = None,
        service_key: Any = None,
        user: str = "alice",
        lifetime: float = 3600,
        rotate: bool = False,
        script: Mapping[Step, Action] | None = None,
    ) -> None:
        super().__init__(tls, script)
        self.client_id, self.client_secret, self.client_auth = client_id, client_secret, client_auth
        self.client_key, self.service_key = client_key, service_key
        self.user, self.lifetime, self.rotate = user, lifetime, rotate
        self.requests: list[tuple[str, dict[str, str], dict[str, str]]] = []
        self.tokens: list[Token] = []
        self.refresh_tokens: set[str] = set()
        self.spent: set[str] = set()
        self.assertions: list[dict[str, Any]] = []
        self.codes: dict[str, dict[str, str]] = {}
        self.devices: dict[str, str] = {}
        self.expires_in: Callable[[float], Any] = int
        self.arrived = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self.tls)

    def url(self, path: str) -> str:
        return f"https://localhost:{self.port}/{path}"

    @property
    def forms(self) -> list[dict[str, str]]:
        """What came to the token endpoint."""
        return [form for path, form, _ in self.requests if path == "token"]

    def issue_refresh_token(self) -> str:
        text = secrets.token_urlsafe(24)
        self.refresh_tokens.add(text)
        return text

    def approve(self, user_code: str) -> None:
        self.devices[user_code] = "approved"

    def deny(self, user_code: str) -> None:
        self.devices[user_code] = "denied"

    def browse(self, url: str, *, consent: bool = True) -> str:
        """What a browser does there: the user consents, and is sent to the address that this returns."""
        parts = urlsplit(url)
        assert parts.path == "/authorize"
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        assert query["response_type"] == "code"
        assert query["client_id"] == self.client_id
        assert query["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        self.codes[code] = query
        answer = {"code": code} if consent else {"error": "access_denied"}
        return f"{query['redirect_uri']}?{urlencode(answer | {'state': query['state']})}"

    # Serving.

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.start(self._serve(reader, writer), lambda: writer.transport.abort())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await self._exchange(reader, writer)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = (await reader.readexactly(int(headers.get("content-length", "0")))).decode()
        _, target, _ = first.split(" ")
        parts = urlsplit(target)
        step = parts.path.strip("/")
        form = {name: values[0] for name, values in parse_qs(parts.query + "&" + body).items()}
        self.requests.append((step, form, headers))
        action = self.act(step)
        self.arrived.set()
        await self.may_answer.wait()
        if action is None or (isinstance(action, Drop) and action.granted):
            answer = self._answer(step, form, headers)
            action = action or answer
        await self._act(action, reader, writer)

    async def _act(self, action: Action, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match action:
            case Raw(octets):
                writer.write(octets)
            case Hang(octets):
                writer.write(octets)
                with suppress(OSError):
                    while await reader.read(1024):
                        pass
            case Status(status, body, headers):
                octets = (body if isinstance(body, str) else json.dumps(body)).encode()
                lines = {"Content-Type": "application/json", "Content-Length": str(len(octets)), "Connection": "close"}
                head = "".join(f"{name}: {value}\r\n" for name, value in (lines | dict(headers)).items())
                writer.write(f"HTTP/1.1 {status} fake\r\n{head}\r\n".encode() + octets)
        if not isinstance(action, Drop):
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    def _answer(self, step: str, form: dict[str, str], headers: dict[str, str]) -> Status:
        try:
            return Status(200, getattr(self, f"_do_{step}")(form, headers))
        except Refusal as refusal:
            return refusal.answer

    def _do_introspect(self, form: dict[str, str], headers: dict[str, str]) -> dict[str, Any]:
        text = form.get("token") or headers.get("authorization", "").removeprefix("Bearer ")
        token = next((token for token in self.tokens if token.text == text), None)
        if token is None or not token.active:
            return {"active": False}
        return {"active": True, "username": token.user, "scope": token.scope, "client_id": self.client_id}

    def _do_device(self, form: dict[str, str], headers: dict[str, str]) -> dict[str, Any]:
        self._identify(form, headers)
        code, user_code = secrets.token_urlsafe(16), f"CODE-{len(self.devices)}"
        self.devices[user_code] = "waiting"
        self.codes[code] = {"user_code": user_code, "scope": form.get("scope", "")}
        verification = {"verification_uri": self.url("activate"), "expires_in": 60, "interval": 0.01}
        return {"device_code": code, "user_code": user_code, **verification}

    def _do_token(self, form: dict[str, str], headers: dict[str, str]) -> dict[str, Any]:
        grant = form.get("grant_type")
        if grant == JWT_BEARER:
            claims = self._claims(form["assertion"], self.service_key)
            return self._issue(claims["sub"], claims["scope"], refresh=False)
        self._identify(form, headers)
        match grant:
            case "client_credentials":
                return self._issue(self.user, form["scope"], refresh=False)
            case "refresh_token":
                return self._refresh(form["refresh_token"], form.get("scope", "mail"))
            case "authorization_code":
                asked = self.codes.pop(form["code"], None)
                digest = hashlib.sha256(form["code_verifier"].encode()).digest()
                challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
                if asked is None or asked["code_challenge"] != challenge:
                    raise Refusal("invalid_grant", "PKCE")
                if asked["redirect_uri"] != form["redirect_uri"]:
                    raise Refusal("invalid_grant", "redirect_uri")
                return self._issue(self.user, asked["scope"])
            case grant if grant == DEVICE:
                asked = self.codes[form["device_code"]]
                state = self.devices[asked["user_code"]]
                if state == "waiting":
                    raise Refusal("authorization_pending")
                if state == "denied":
                    raise Refusal("access_denied")
                return self._issue(self.user, asked["scope"])
        raise Refusal("unsupported_grant_type")

    def _refresh(self, text: str, scope: str) -> dict[str, Any]:
        if text in self.spent:
            # A token that comes twice was stolen: all that came of it is revoked (RFC 9700 §4.14).
            self.refresh_tokens.clear()
            raise Refusal("invalid_grant", "Token has been used twice")
        if text not in self.refresh_tokens:
            raise Refusal("invalid_grant", f"{text} has been expired or revoked.")
        if self.rotate:
            self.refresh_tokens.discard(text)
            self.spent.add(text)
        return self._issue(self.user, scope, refresh=self.rotate)

    def _identify(self, form: dict[str, str], headers: dict[str, str]) -> None:
        if self.client_auth == "basic" and self.client_secret:
            given = base64.b64decode(headers.get("authorization", "").removeprefix("Basic ")).decode()
            client_id, _, secret = (unquote(part) for part in given.partition(":"))
        elif self.client_key is not None:
            assert form["client_assertion_type"] == ASSERTION
            claims = self._claims(form["client_assertion"], self.client_key)
            client_id, secret = claims["sub"], self.client_secret or ""
            if claims["iss"] != client_id:
                raise Refusal("invalid_client", "iss")
        else:
            client_id, secret = form.get("client_id", ""), form.get("client_secret", "")
        if client_id != self.client_id or (self.client_secret and secret != self.client_secret):
            raise Refusal("invalid_client", f"AADSTS7000215: Invalid client secret {secret}", status=401)

    def _claims(self, assertion: str, key: Any) -> dict[str, Any]:
        algorithms = ["RS256", "PS256", "ES256"]
        try:
            claims: dict[str, Any] = jwt.decode(
                assertion, key, algorithms=algorithms, audience=self.url("token"), options={"require": ["exp", "iat"]}
            )
        except jwt.InvalidTokenError as error:
            raise Refusal("invalid_grant", str(error)) from None
        self.assertions.append(jwt.get_unverified_header(assertion) | claims)
        if claims.get("jti") in [one.get("jti") for one in self.assertions[:-1]]:
            raise Refusal("invalid_grant", "used twice")
        return claims

    def _issue(self, user: str, scope: str, *, refresh: bool = True) -> dict[str, Any]:
        text = f"access~{secrets.token_urlsafe(60)}"
        self.tokens.append(Token(text, user, scope, time.time() + self.lifetime))
        given: dict[str, Any] = {"access_token": text, "token_type": "Bearer", "scope": scope}
        if (expires_in := self.expires_in(self.lifetime)) is not None:
            given["expires_in"] = expires_in
        return given | ({"refresh_token": self.issue_refresh_token()} if refresh else {})
