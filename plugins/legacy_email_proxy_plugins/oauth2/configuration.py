"""The ``OAUTH2_…`` settings, completed with the provider's defaults; all mistakes are reported together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from legacy_email_proxy.contracts import Secret, SettingsMistake

from .providers import APP_GRANTS, PROVIDERS, Provider

if TYPE_CHECKING:
    from .assertions import SigningKey

__all__ = ("Configuration", "configured")


@dataclass(frozen=True, slots=True)
class Configuration:
    """One application at one provider. An address that the grant does not need may be empty."""

    provider: str
    grant: str
    client_id: str
    client_secret: Secret | None
    client_auth: str
    key: SigningKey | None
    scope: str
    token_url: str
    device_url: str
    authorization_url: str
    authorization_extra: Mapping[str, str]
    redirect_url: str
    subject: str
    refresh_token: Secret | None

    @property
    def is_app(self) -> bool:
        """Whether the grant works without a refresh token."""
        return self.grant in APP_GRANTS


def configured(settings: Mapping[str, Any]) -> Configuration:
    """Read the settings. Raises :class:`SettingsMistake` with every mistake in them."""
    return _Reading(settings).configuration()


class _Reading:
    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._mistakes: list[str] = []
        self._name: str = settings["OAUTH2_PROVIDER"]
        self._provider: Provider = PROVIDERS[self._name]
        self._grant: str = settings["OAUTH2_GRANT"] or ""

    def configuration(self) -> Configuration:
        grant, provider, settings = self._grant, self._provider, self._settings
        if not grant:
            self._wrong("OAUTH2_GRANT", "not set; how shall the proxy get a token? See proxy/docs/other-oauth2.md")
        elif grant in provider.unfit:
            self._wrong("OAUTH2_GRANT", f"{grant} does not open mail at {self._name}: {provider.unfit[grant]}")
        service_account = self._service_account()
        key = self._key(service_account)
        client_id = service_account.get("client_email") or settings["OAUTH2_CLIENT_ID"] or ""
        if grant and not client_id:
            self._wrong("OAUTH2_CLIENT_ID", "not set; it is the ID of the application that you registered")
        secret: Secret | None = settings["OAUTH2_CLIENT_SECRET"]
        if grant == "client_credentials" and not (secret or key):
            self._wrong(
                "OAUTH2_CLIENT_SECRET", "not set; give it, or OAUTH2_CLIENT_KEY_FILE and OAUTH2_CLIENT_CERT_FILE"
            )
        refresh_token: Secret | None = settings["OAUTH2_REFRESH_TOKEN"]
        scope = settings["OAUTH2_SCOPE"] or (provider.app_scope if grant in APP_GRANTS else provider.scope)
        scope = " ".join(scope.split())
        extra = provider.authorization_extra
        if "offline_access" in scope.split() and "prompt" not in extra:
            # A server that follows OpenID Connect (Core §11) ignores offline_access without it: no refresh token.
            extra = {**extra, "prompt": "consent"}
        if grant == "jwt_bearer" and not scope:
            self._wrong("OAUTH2_SCOPE", "not set; jwt_bearer names its scopes")
        tenant = self._tenant()
        found = Configuration(
            provider=self._name,
            grant=grant,
            client_id=client_id,
            client_secret=secret,
            client_auth=settings["OAUTH2_CLIENT_AUTH"],
            key=key,
            scope=scope,
            token_url=self._url("OAUTH2_TOKEN_URL", provider.token_url, tenant, needed=bool(grant)),
            device_url=self._url("OAUTH2_DEVICE_URL", provider.device_url, tenant, needed=grant == "device_code"),
            authorization_url=self._url(
                "OAUTH2_AUTHORIZATION_URL", provider.authorization_url, tenant, needed=grant == "authorization_code"
            ),
            authorization_extra=extra,
            redirect_url=self._redirect_url(),
            subject=self._subject(),
            refresh_token=None if grant in APP_GRANTS else refresh_token,
        )
        if self._mistakes:
            raise SettingsMistake(*self._mistakes)
        return found

    def _wrong(self, variable: str, words: str) -> None:
        self._mistakes.append(f"{variable}: {words}")

    def _service_account(self) -> Mapping[str, str]:
        given: Secret | None = self._settings["OAUTH2_SERVICE_ACCOUNT"]
        if self._grant != "jwt_bearer" or given is None:
            return {}
        try:
            found = json.loads(given.reveal())
            return {name: str(found[name]) for name in ("client_email", "private_key", "private_key_id")}
        except (ValueError, TypeError, KeyError):
            self._wrong("OAUTH2_SERVICE_ACCOUNT", "this is not the JSON key of a service account, as Google gives it")
            return {"client_email": "?"}

    def _key(self, service_account: Mapping[str, str]) -> SigningKey | None:
        pem: Secret | None = self._settings["OAUTH2_CLIENT_KEY"]
        variable = "OAUTH2_CLIENT_KEY"
        if "private_key" in service_account:
            pem, variable = Secret(service_account["private_key"]), "OAUTH2_SERVICE_ACCOUNT"
        if pem is None:
            if self._grant == "jwt_bearer" and not service_account:
                self._wrong("OAUTH2_SERVICE_ACCOUNT", "not set; give the key file with OAUTH2_SERVICE_ACCOUNT_FILE")
            return None
        # Few applications have a key, and what signs with it takes ten MiB.
        from .assertions import SigningKey

        certificate: Secret | None = self._settings["OAUTH2_CLIENT_CERT"]
        try:
            return SigningKey.from_pem(
                pem,
                None if certificate is None else certificate.reveal(),
                key_id=service_account.get("private_key_id", ""),
                rsa_algorithm=self._provider.assertion_algorithm,
                algorithm=self._settings["OAUTH2_ASSERTION_ALGORITHM"],
            )
        except ValueError as error:
            self._wrong(variable, str(error))
            return None

    def _tenant(self) -> str:
        provider, given = self._provider, self._settings["OAUTH2_TENANT"]
        if given or not provider.tenant:
            return quote(given or "", safe="")
        if self._grant in APP_GRANTS and not provider.tenant_of_apps and not self._settings["OAUTH2_TOKEN_URL"]:
            self._wrong("OAUTH2_TENANT", "not set; an application of its own needs the directory (tenant) ID")
        return provider.tenant

    def _url(self, variable: str, known: str, tenant: str, *, needed: bool) -> str:
        url: str = self._settings[variable] or known.format(tenant=tenant)
        if not url:
            if needed:
                self._wrong(variable, "not set; give it, or choose an OAUTH2_PROVIDER that is known")
            return ""
        try:
            parts = urlsplit(url)
            usable = parts.scheme == "https" and bool(parts.hostname) and not parts.username and _in_one_piece(url)
            _ = parts.port
        except ValueError:
            usable = False
        if not usable:
            self._wrong(variable, "must be an address that begins with https:// and has no blanks in it")
        return url

    def _redirect_url(self) -> str:
        url: str = self._settings["OAUTH2_REDIRECT_URL"]
        try:
            _ = urlsplit(url).port
        except ValueError:
            self._wrong("OAUTH2_REDIRECT_URL", "must be an address, like http://localhost:8080")
        else:
            if not _in_one_piece(url):
                self._wrong("OAUTH2_REDIRECT_URL", "must be an address that has no blanks in it")
        return url

    def _subject(self) -> str:
        if self._grant != "jwt_bearer":
            return ""
        given: str | None = self._settings["OAUTH2_SUBJECT"]
        users = {self._settings[name] for name in ("BACKEND_IMAP_USER", "BACKEND_SMTP_USER")} - {None}
        if given is None and len(users) > 1:
            self._wrong("OAUTH2_SUBJECT", "not set, and BACKEND_IMAP_USER and BACKEND_SMTP_USER differ")
        return given or next(iter(users), "")


def _in_one_piece(url: str) -> bool:
    return url.isprintable() and " " not in url
