"""An authorization server that we did not write: Authlib's, over HTTPS, with what a provider has in its database.

Authlib parses, authenticates clients, judges every grant and words the errors; here are one client, one user and the
tables. Refresh tokens rotate, and one that comes twice ends all that came of the same consent (RFC 9700 §4.14.2).
"""

from __future__ import annotations

import importlib.util
import json
import secrets
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from realservers.certificates import Certificate
from realservers.processes import unavailable

__all__ = ("AuthorizationServer", "Consent")

USER = "alice"
SCOPES = ("mail.read", "mail.send", "offline_access")
REFRESH_TOKEN = "refresh_token"
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
GRANTS = ("authorization_code", "client_credentials", REFRESH_TOKEN, DEVICE, JWT_BEARER)


@dataclass
class Client:
    """What an application is registered with. ``auth``: how it proves itself at both endpoints."""

    auth: str = "none"
    secret: str = ""
    key: Any = None
    client_id: str = "the-client"

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> str:
        return "http://localhost"

    def get_allowed_scope(self, scope: str | None) -> str:
        return " ".join(each for each in (scope or "").split() if each in SCOPES)

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return urlsplit(redirect_uri).hostname in ("localhost", "127.0.0.1", "::1")

    def check_client_secret(self, secret: str) -> bool:
        return secrets.compare_digest(self.secret, secret)

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == self.auth

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in GRANTS


@dataclass
class Consent:
    """A code, or a refresh token; ``family`` is the consent that it came of."""

    text: str
    scope: str
    family: str
    redirect_uri: str = ""
    code_challenge: str | None = None
    code_challenge_method: str | None = None
    user_code: str = ""
    used: bool = False

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_client_id(self) -> str:
        return "the-client"

    def get_user_code(self) -> str:
        return self.user_code

    def check_client(self, client: Client) -> bool:
        return client.client_id == "the-client"

    def is_expired(self) -> bool:
        return False


@dataclass
class AuthorizationServer:
    """One client, one user. ``held`` keeps answers back: what was asked for has happened by then."""

    client: Client
    port: int = 0
    lifetime: int = 3600
    codes: dict[str, Consent] = field(default_factory=dict)
    devices: dict[str, Consent] = field(default_factory=dict)
    answers: dict[str, bool] = field(default_factory=dict)
    """User code → whether the user consents."""
    refresh_tokens: dict[str, Consent] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    access_tokens: dict[str, str] = field(default_factory=dict)
    """Token → its scope."""
    assertions: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Path and grant type of all that came."""
    may_answer: threading.Event = field(default_factory=threading.Event)

    @classmethod
    @contextmanager
    def start(cls, certificate: Certificate, client: Client, **given: Any) -> Iterator[AuthorizationServer]:
        if importlib.util.find_spec("authlib") is None:
            unavailable("Authlib is not installed: its authorization server judges our grants")
        server = cls(client, **given)
        server.may_answer.set()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate.certificate_file, certificate.key_file)
        with _HTTPServer(("127.0.0.1", 0), server, tls) as http:
            server.port = http.server_port
            http.judge = _judge(server)
            thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
            thread.start()
            try:
                yield server
            finally:
                server.may_answer.set()
                http.shutdown()
                thread.join(20)

    def url(self, path: str) -> str:
        return f"https://localhost:{self.port}/{path}"

    def times(self, grant: str) -> int:
        return [each for _, each in self.asked].count(grant)

    def issue(self, scope: str) -> str:
        """The refresh token of a consent that was given elsewhere."""
        found = Consent(secrets.token_urlsafe(24), scope, secrets.token_hex(4))
        self.refresh_tokens[found.text] = found
        return found.text

    @property
    def usable(self) -> set[str]:
        """The refresh tokens that would be taken now."""
        every = self.refresh_tokens.values()
        return {each.text for each in every if not each.used and each.family not in self.revoked}

    def spend(self, text: str) -> Consent | None:
        """The row of a refresh token; none for one that was used already, or any of its family."""
        found = self.refresh_tokens.get(text)
        if found is not None and found.used:
            self.revoked.add(found.family)
        return found if found is not None and found.family not in self.revoked else None


def _judge(db: AuthorizationServer) -> Any:
    """Authlib's server on these tables: method, path, headers and form → status, body and headers."""
    from authlib.oauth2 import rfc6749, rfc6750, rfc7523, rfc7636, rfc8628
    from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
    from joserfc.jwk import import_key

    methods = ["none", "client_secret_basic", "client_secret_post", "client_assertion_jwt"]

    class Request(rfc6749.OAuth2Request):  # type: ignore[misc]
        def __init__(self, method: str, url: str, headers: dict[str, str], form: dict[str, str]) -> None:
            super().__init__(method, url, headers=headers)
            self.payload = BasicOAuth2Payload(form)
            self._args = form if method == "GET" else {}
            self._form = form if method == "POST" else {}

        @property
        def args(self) -> dict[str, str]:
            return self._args

        @property
        def form(self) -> dict[str, str]:
            return self._form

    class Server(rfc6749.AuthorizationServer):  # type: ignore[misc]
        def query_client(self, client_id: str) -> Client | None:
            return db.client if client_id == db.client.client_id else None

        def save_token(self, token: dict[str, Any], request: Any) -> None:
            db.access_tokens[token["access_token"]] = token["scope"]
            if (text := token.get(REFRESH_TOKEN)) is not None:
                before = request.refresh_token or request.authorization_code or request.credential
                db.refresh_tokens[text] = Consent(text, before.scope, before.family)

        def send_signal(self, name: str, *args: Any, **given: Any) -> None:
            pass

        def create_oauth2_request(self, request: Request) -> Request:
            return request

        def handle_response(self, status: int, body: Any, headers: Any) -> tuple[int, str, dict[str, str]]:
            return status, body if isinstance(body, str) else json.dumps(body), dict(headers)

    class Code(rfc6749.grants.AuthorizationCodeGrant):  # type: ignore[misc]
        TOKEN_ENDPOINT_AUTH_METHODS = methods

        def save_authorization_code(self, code: str, request: Any) -> None:
            data = request.payload.data
            challenge, method = data.get("code_challenge"), data.get("code_challenge_method")
            family, redirect = secrets.token_hex(4), data["redirect_uri"]
            db.codes[code] = Consent(code, data["scope"], family, redirect, challenge, method)

        def query_authorization_code(self, code: str, client: Client) -> Consent | None:
            return db.codes.get(code)

        def delete_authorization_code(self, code: Consent) -> None:
            del db.codes[code.text]

        def authenticate_user(self, code: Consent) -> str:
            return USER

    class Refresh(rfc6749.grants.RefreshTokenGrant):  # type: ignore[misc]
        TOKEN_ENDPOINT_AUTH_METHODS = methods
        INCLUDE_NEW_REFRESH_TOKEN = True

        def authenticate_refresh_token(self, text: str) -> Consent | None:
            return db.spend(text)

        def authenticate_user(self, token: Consent) -> str:
            return USER

        def revoke_old_credential(self, token: Consent) -> None:
            token.used = True

    class Credentials(rfc6749.grants.ClientCredentialsGrant):  # type: ignore[misc]
        TOKEN_ENDPOINT_AUTH_METHODS = methods[1:]

    class Device(rfc8628.DeviceCodeGrant):  # type: ignore[misc]
        TOKEN_ENDPOINT_AUTH_METHODS = methods

        def query_device_credential(self, device_code: str) -> Consent | None:
            return db.devices.get(device_code)

        def query_user_grant(self, user_code: str) -> tuple[str, bool] | None:
            return (USER, db.answers[user_code]) if user_code in db.answers else None

        def should_slow_down(self, credential: Consent) -> bool:
            return False

    class DeviceEndpoint(rfc8628.DeviceAuthorizationEndpoint):  # type: ignore[misc]
        CLIENT_AUTH_METHODS = methods
        INTERVAL = 0.01

        def get_verification_uri(self) -> str:
            return db.url("activate")

        def save_device_credential(self, client_id: str, scope: str, data: dict[str, Any]) -> None:
            text = data["device_code"]
            db.devices[text] = Consent(text, scope, secrets.token_hex(4), user_code=data["user_code"])

    def key_of(client: Client) -> Any:
        return import_key(client.key)

    class ServiceAccount(rfc7523.JWTBearerGrant):  # type: ignore[misc]
        def resolve_issuer_client(self, issuer: str) -> Client | None:
            return self.server.query_client(issuer)  # type: ignore[no-any-return]

        def resolve_client_public_key(self, client: Client) -> Any:
            return key_of(client)

        def authenticate_user(self, subject: str) -> str | None:
            return USER if subject == USER else None

        def has_granted_permission(self, client: Client, user: str) -> bool:
            return True

        def get_audiences(self) -> list[str]:
            return [db.url("token")]

    class Assertion(rfc7523.JWTBearerClientAssertion):  # type: ignore[misc]
        def get_audiences(self) -> list[str]:
            return [db.url("token")]

        def validate_jti(self, claims: dict[str, Any], jti: str) -> bool:
            known = jti in db.assertions
            db.assertions.add(jti)
            return not known

        def resolve_client_public_key(self, client: Client) -> Any:
            return key_of(client)

    server = Server(scopes_supported=SCOPES)
    generator = rfc6750.BearerTokenGenerator(
        lambda **_: f"access~{secrets.token_urlsafe(40)}", lambda **_: secrets.token_urlsafe(24), lambda *_: db.lifetime
    )
    server.register_token_generator("default", generator)
    server.register_client_auth_method(Assertion.CLIENT_AUTH_METHOD, Assertion())
    server.register_grant(Code, [rfc7636.CodeChallenge(required=True)])
    for grant in (Refresh, Credentials, Device, ServiceAccount):
        server.register_grant(grant)
    server.register_endpoint(DeviceEndpoint)

    def judge(method: str, path: str, headers: dict[str, str], form: dict[str, str]) -> Any:
        request = Request(method, db.url(path), headers, form)
        if (method, path) == ("POST", "token"):
            return server.create_token_response(request)
        if (method, path) == ("POST", "device"):
            return server.create_endpoint_response(DeviceEndpoint.ENDPOINT_NAME, request)
        if (method, path) == ("GET", "authorize"):
            grant = server.get_consent_grant(request, end_user=USER)
            # OpenID Connect Core §11: without asking the person there is no access while she is away.
            if "offline_access" in form.get("scope", "").split():
                assert form.get("prompt") == "consent"
            return server.create_authorization_response(request, grant_user=USER, grant=grant)
        return 404, json.dumps({"error": "invalid_request", "error_description": f"no such route: {path}"}), {}

    return judge


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    judge: Any

    def __init__(self, address: tuple[str, int], db: AuthorizationServer, tls: ssl.SSLContext) -> None:
        super().__init__(address, _Handler)
        self.db = db
        self.tls = tls
        self.lock = threading.Lock()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread: whoever shakes no hands holds nobody up."""
        try:
            with self.tls.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)
        except OSError:
            pass  # the client went away


class _Handler(BaseHTTPRequestHandler):
    server: _HTTPServer

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        form, path = dict(parse_qsl(body or parts.query)), parts.path.strip("/")
        with self.server.lock:
            status, text, headers = self.server.judge(self.command, path, dict(self.headers), form)
            self.server.db.asked.append((path, form.get("grant_type", "")))
        self.server.db.may_answer.wait(20)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(text.encode())), "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = _answer  # the names that http.server calls

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (named so by http.server)
        """Nothing on the tests' standard error."""
