"""Import: the configuration of email-oauth2-proxy (``emailproxy.config``, an INI file).

There a client speaks IMAP, POP or SMTP to a local port and logs in as an account; which account uses which server is
not written down. Here it is told by the provider that an account's token endpoint belongs to.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..contracts import SettingsMistake
from ..settings import PROFILES
from .draft import Draft, account_name

__all__ = ("read_config",)

_SERVER = re.compile(r"(IMAP|POP|SMTP)-([0-9]{1,5})")
_PLACEHOLDER = "***"
_PROVIDERS = {
    "login.microsoftonline.com": "microsoft365", "oauth2.googleapis.com": "gmail", "accounts.google.com": "gmail",
    "www.googleapis.com": "gmail", "api.login.yahoo.com": "yahoo",
}  # fmt: skip
"""Host of the token endpoint → the provider whose addresses and scopes are known here."""
_PERSONAL = re.compile(r"@(outlook|hotmail|live|msn)\.[a-z.]+\Z", re.IGNORECASE)
_GRANTS = {"": "authorization_code", "device": "device_code", "client_credentials": "client_credentials",
           "service_account": "jwt_bearer"}  # fmt: skip
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_TOKENS = ("access_token", "refresh_token", "token_salt", "token_iterations", "access_token_expiry", "last_activity")
_TAKEN = (
    *("permission_url", "token_url", "oauth2_scope", "oauth2_flow", "client_id", "client_secret", "redirect_uri"),
    *("client_secret_encrypted", "jwt_certificate_path", "jwt_key_path", "use_pkce", "documentation", *_TOKENS),
)
_NO_COUNTERPART = {
    "use_login_password_as_client_credentials_secret": "the client secret has to be given: OAUTH2_CLIENT_SECRET_FILE",
    "allow_catch_all_accounts": "each account needs an entry of its own here",
}


@dataclass(frozen=True, slots=True)
class _Server:
    """One local port, and the server behind it."""

    kind: str
    port: str
    values: Mapping[str, str]

    @property
    def host(self) -> str:
        return self.values.get("server_address", "")


def read_config(path: Path) -> Draft:
    """The accounts of this file. Raises :class:`SettingsMistake` if it can not be read, or none can be used."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig"), str(path))
    except OSError as error:
        raise SettingsMistake(f"--from: can not read {str(path)!r}: {error.strerror}") from None
    except (configparser.Error, UnicodeDecodeError) as error:
        raise SettingsMistake(f"--from: {str(path)!r} is no file of email-oauth2-proxy: {_one_line(error)}") from None
    return _Reading(parser).draft(path)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class _Reading:
    """One reading of a file; ``left_out`` has what could not be taken over so far."""

    def __init__(self, parser: configparser.ConfigParser) -> None:
        self._sections = {name: dict(parser.items(name)) for name in parser.sections()}
        self._general = self._sections.get("emailproxy", {})
        self._servers = [
            _Server(found[1], found[2], values)
            for name, values in self._sections.items()
            if (found := _SERVER.fullmatch(name))
        ]
        self.left_out: list[str] = []

    def draft(self, path: Path) -> Draft:
        found: dict[str, dict[str, str]] = {}
        for address in self._sections:
            if address.startswith("@"):
                self.left_out.append(f"[{address}], an entry for all accounts of a domain: name each account")
            elif "@" in address and (values := self._account(address)):
                found[address] = values
        if not found:
            raise SettingsMistake(f"--from: {str(path)!r} has no account that can be used", *self.left_out)
        several = len(found) > 1
        draft = Draft(self._listeners(next(iter(found.values())), several=several), left_out=self.left_out)
        for address, values in found.items():
            if not several:
                draft.values |= {name: text for name, text in values.items() if name not in draft.values}
                continue
            name = account_name(address, draft.accounts)
            draft.accounts[name] = values | {"MAILDROP_PLUGIN": "none"}
            draft.rules.append({"account": name, "sender": address})
        self._sum_up(several=several)
        return draft

    def _account(self, address: str) -> dict[str, str]:
        """The account's variables; none if it can not be used."""
        values = self._with_catch_all(address)
        client, flow = values.get("client_id", ""), values.get("oauth2_flow", "")
        if _PLACEHOLDER in client or not client or not values.get("token_url"):
            self.left_out.append(f"[{address}]: it has no client_id and token_url, as in the sample file")
            return {}
        if flow not in _GRANTS or (not flow and not values.get("permission_url")):
            words = f"[{address}]: oauth2_flow={flow or '(none)'} gives the provider a password, which few still take"
            self.left_out.append(f"{words}: use device_code or client_credentials")
            return {}
        tokens = urlsplit(values["token_url"])
        tenant = tokens.path.split("/")[1] if tokens.path.count("/") > 1 else ""
        provider = _PROVIDERS.get(tokens.hostname or "", "")
        if provider == "microsoft365" and (tenant == "consumers" or _PERSONAL.search(address)):
            provider = "outlook"
        found = self._backends(address, provider)
        if not found:
            return {}
        found |= {"OAUTH2_GRANT": _GRANTS[flow]} | self._application(address, values, flow)
        if provider:
            found["PROVIDER"] = provider
            if provider.startswith("microsoft") and tenant:
                found["OAUTH2_TENANT"] = tenant
        else:
            address_of_consent = "OAUTH2_DEVICE_URL" if flow == "device" else "OAUTH2_AUTHORIZATION_URL"
            found |= {"OAUTH2_TOKEN_URL": values["token_url"], address_of_consent: values.get("permission_url", "")}
            found["OAUTH2_SCOPE"] = values.get("oauth2_scope", "")
        if (redirect := values.get("redirect_uri", "http://localhost")) != "http://localhost" and not flow:
            found["OAUTH2_REDIRECT_URL"] = redirect
        others = sorted(name for name in values if name not in _TAKEN)
        self.left_out += [f"[{address}]: {name} = {values[name]}" for name in others]
        return {name: text for name, text in found.items() if text}

    def _with_catch_all(self, address: str) -> dict[str, str]:
        """The values of this account, and below them those of its domain and of all, where that is switched on."""
        own = self._sections[address]
        if self._general.get("allow_catch_all_accounts", "").lower() not in ("true", "yes", "on", "1"):
            return own
        domain = self._sections.get(f"@{address.rpartition('@')[2]}", {})
        return {**self._sections.get("@", {}), **domain, **own}

    def _backends(self, address: str, provider: str) -> dict[str, str]:
        """Which legs the account has, and at which servers."""
        servers = self._servers_of(provider)
        sending = [each for each in servers if each.kind == "SMTP"]
        reading = [each for each in servers if each.kind != "SMTP"]
        found: dict[str, str] = {}
        if not servers:
            self.left_out.append(f"[{address}]: no server section fits its provider")
        for kind, those, closed in (("SMTP", sending, "RELAY_PLUGIN"), ("IMAP", reading, "MAILDROP_PLUGIN")):
            if not those:
                found[closed] = "none"
                continue
            found |= {f"BACKEND_{kind}_USER": address, f"BACKEND_{kind}_CREDENTIALS": "oauth2"}
            if provider:
                continue
            server = next((each for each in those if each.kind == kind), None)
            if server is None:
                self.left_out.append(f"[{address}]: it reads by POP, and this proxy needs the provider's IMAP server")
                found = {name: text for name, text in found.items() if not name.startswith("BACKEND_IMAP")}
                found[closed] = "none"
                continue
            found |= {f"BACKEND_{kind}_HOST": server.host, f"BACKEND_{kind}_PORT": server.values.get("server_port", "")}
            if kind == "SMTP" and _flag(server, "server_starttls", "starttls"):
                found["BACKEND_SMTP_USE_TLS"] = "true"
        return found if any(name.endswith("_USER") for name in found) else {}

    def _servers_of(self, provider: str) -> list[_Server]:
        if not provider:
            known = {_domain(host) for name in set(_PROVIDERS.values()) | {"outlook"} for host in _hosts(name)}
            return [each for each in self._servers if _domain(each.host) not in known]
        names = ("microsoft365", "outlook") if provider in ("microsoft365", "outlook") else (provider,)
        domains = {_domain(host) for name in names for host in _hosts(name)}
        return [each for each in self._servers if _domain(each.host) in domains]

    def _application(self, address: str, values: Mapping[str, str], flow: str) -> dict[str, str]:
        secret = values.get("client_secret", "")
        if flow == "service_account":
            variable = "OAUTH2_SERVICE_ACCOUNT_FILE" if values["client_id"] == "file" else "OAUTH2_SERVICE_ACCOUNT"
            return {variable: secret}
        found = {"OAUTH2_CLIENT_ID": values["client_id"]}
        if secret and _PLACEHOLDER not in secret:
            found["OAUTH2_CLIENT_SECRET"] = secret
        elif values.get("client_secret_encrypted"):
            words = "client_secret_encrypted: it is encrypted with the client's password"
            self.left_out.append(f"[{address}]: {words}; give the secret again, OAUTH2_CLIENT_SECRET_FILE")
        if not secret and values.get("jwt_key_path"):
            found["OAUTH2_CLIENT_KEY_FILE"] = values["jwt_key_path"]
            found["OAUTH2_CLIENT_CERT_FILE"] = values.get("jwt_certificate_path", "")
        return found

    def _listeners(self, account: Mapping[str, str], *, several: bool) -> dict[str, str]:
        """The ports to which its clients connect: those of the first account's servers."""
        found = {"SMTP_AUTH": "any"}
        servers = self._servers_of(account.get("PROVIDER", ""))
        for leg, kinds in (("SMTP", ("SMTP",)), ("POP3", ("POP",))):
            those = [each for each in servers if each.kind in kinds]
            if not those or (several and leg == "POP3"):
                continue
            server, *others = those
            secured = bool(server.values.get("local_certificate_path"))
            implicit = secured and not _flag(server, "local_starttls")
            found[f"{leg}S_BIND_PORT" if implicit else f"{leg}_BIND_PORT"] = server.port
            if server.values.get("local_address", "::") in _LOOPBACK:
                found[f"{leg}_BIND_ADDR"] = found[f"{leg}S_BIND_ADDR"] = "127.0.0.1"
            if secured:
                found["TLS_CERT_FILE"] = server.values["local_certificate_path"]
                found["TLS_KEY_FILE"] = server.values.get("local_key_path", "")
            if implicit:
                self.left_out.append(
                    f"{leg} without TLS is open, too, on its usual port; set {leg}_BIND_PORT to change it"
                )
            self.left_out += [f"[{each.kind}-{each.port}]: there is one port for {leg}" for each in others]
        if several:
            found["MAILDROP_PLUGIN"] = "none"
        return {name: text for name, text in found.items() if text}

    def _sum_up(self, *, several: bool) -> None:
        if any(each.kind == "IMAP" for each in self._servers):
            self.left_out.append("IMAP for clients: here they read by POP3")
        if several and any(each.kind != "SMTP" for each in self._servers):
            self.left_out.append(
                "reading for several accounts: it needs users with passwords, see proxy/docs/accounts.md"
                " (POP3_LOGIN=accounts)"
            )
        if any(values.get(name) for values in self._sections.values() for name in _TOKENS):
            self.left_out.append(
                "the stored tokens: they are encrypted with the passwords of the clients; consent again"
                " (legacy-email-proxy authorize)"
            )
        self.left_out.append(
            "the clients' passwords: any is taken (SMTP_AUTH=any); who may connect goes by address (ALLOWED_NETWORKS)"
        )
        for name, words in _NO_COUNTERPART.items():
            if self._general.get(name, "").lower() in ("true", "yes", "on", "1"):
                self.left_out.append(f"{name}: {words}")


def _hosts(provider: str) -> list[str]:
    return [text for name, text in PROFILES[provider].items() if name.endswith("_HOST")]


def _domain(host: str) -> str:
    return ".".join(host.lower().split(".")[-2:])


def _flag(server: _Server, *names: str) -> bool:
    return any(server.values.get(name, "").lower() in ("true", "yes", "on", "1") for name in names)
