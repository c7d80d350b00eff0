"""The settings: what each provider fills in, and every mistake as a line that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from legacy_email_proxy.contracts import SettingsMistake
from legacy_email_proxy.settings import TABLE, read
from legacy_email_proxy_plugins.oauth2.configuration import Configuration, configured
from oauth2.test_grants import RSA_KEY, certificate_of, pem

GOOGLE, MICROSOFT = "https://oauth2.googleapis.com/token", "https://login.microsoftonline.com/"
APP = {"OAUTH2_GRANT": "client_credentials", "OAUTH2_CLIENT_ID": "c", "OAUTH2_CLIENT_SECRET": "s"}


def configuration(**given: str) -> Configuration:
    settings = read(given, TABLE)
    assert not settings.mistakes
    return configured(settings)


FILLED_IN: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "an application at Microsoft 365": (
        APP | {"OAUTH2_PROVIDER": "microsoft365", "OAUTH2_TENANT": "firm.example"},
        {
            "token_url": f"{MICROSOFT}firm.example/oauth2/v2.0/token",
            "scope": "https://outlook.office365.com/.default",
        },
    ),
    "a device at Microsoft 365": (
        {"OAUTH2_PROVIDER": "microsoft365", "OAUTH2_GRANT": "device_code", "OAUTH2_CLIENT_ID": "c"},
        {
            "device_url": f"{MICROSOFT}organizations/oauth2/v2.0/devicecode",
            "scope": "https://outlook.office.com/IMAP.AccessAsUser.All https://outlook.office.com/SMTP.Send"
            " offline_access",
        },
    ),
    "a personal account": (
        {"OAUTH2_PROVIDER": "outlook", "OAUTH2_GRANT": "device_code", "OAUTH2_CLIENT_ID": "c"},
        {"token_url": f"{MICROSOFT}consumers/oauth2/v2.0/token"},
    ),
    "Gmail": (
        {"OAUTH2_PROVIDER": "google", "OAUTH2_GRANT": "authorization_code", "OAUTH2_CLIENT_ID": "c"},
        {"token_url": GOOGLE, "scope": "https://mail.google.com/", "redirect_url": "http://localhost"},
    ),
    "Yahoo": (
        {"OAUTH2_PROVIDER": "yahoo", "OAUTH2_GRANT": "refresh_token", "OAUTH2_CLIENT_ID": "c"},
        {"token_url": "https://api.login.yahoo.com/oauth2/get_token", "scope": "mail-w"},
    ),
    "what is given by hand wins": (
        APP | {"OAUTH2_PROVIDER": "microsoft365", "OAUTH2_TOKEN_URL": "https://x.example/t", "OAUTH2_SCOPE": " a  b "},
        {"token_url": "https://x.example/t", "scope": "a b"},
    ),
    "a tenant is one part of an address": (
        APP | {"OAUTH2_PROVIDER": "microsoft365", "OAUTH2_TENANT": "a/../b?c"},
        {"token_url": f"{MICROSOFT}a%2F..%2Fb%3Fc/oauth2/v2.0/token"},
    ),
}


@pytest.mark.parametrize("case", FILLED_IN)
def test_what_is_filled_in(case: str) -> None:
    given, expected = FILLED_IN[case]
    found = configuration(**given)
    assert {name: getattr(found, name) for name in expected} == expected


def test_microsoft_wants_another_signature() -> None:
    given = {"OAUTH2_GRANT": "client_credentials", "OAUTH2_CLIENT_ID": "c", "OAUTH2_CLIENT_KEY": pem(RSA_KEY)}
    found = configuration(**given, OAUTH2_PROVIDER="microsoft365", OAUTH2_TENANT="t")
    assert found.key is not None
    assert found.key.algorithm == "PS256"


URL = {"OAUTH2_TOKEN_URL": "https://x.example/t"}
MISTAKES: dict[str, tuple[dict[str, str], list[str]]] = {
    "nothing": ({}, ["OAUTH2_GRANT: not set"]),
    "hardly anything": (
        {"OAUTH2_GRANT": "client_credentials"},
        ["OAUTH2_CLIENT_ID: not set", "OAUTH2_CLIENT_SECRET: not set", "OAUTH2_TOKEN_URL: not set; give it, or"],
    ),
    "no tenant": (APP | {"OAUTH2_PROVIDER": "microsoft365"}, ["OAUTH2_TENANT: not set"]),
    "Google has no such grant": (
        APP | {"OAUTH2_PROVIDER": "google"},
        ["OAUTH2_GRANT: client_credentials does not open mail at google: Google knows jwt_bearer"],
    ),
    "Google's device flow": (
        {"OAUTH2_PROVIDER": "google", "OAUTH2_GRANT": "device_code", "OAUTH2_CLIENT_ID": "c"},
        ["OAUTH2_GRANT: device_code does not open mail", "OAUTH2_DEVICE_URL: not set"],
    ),
    "a personal account is no application": (
        APP | {"OAUTH2_PROVIDER": "outlook"},
        ["OAUTH2_GRANT: client_credentials does not open mail at outlook: a personal account needs its owner's"],
    ),
    "http": (APP | {"OAUTH2_TOKEN_URL": "http://x.example/t"}, ["OAUTH2_TOKEN_URL: must be an address that begins"]),
    "no address": (APP | {"OAUTH2_TOKEN_URL": "https://[x"}, ["OAUTH2_TOKEN_URL: must be an address"]),
    "a user in it": (APP | {"OAUTH2_TOKEN_URL": "https://u:p@x.example/"}, ["OAUTH2_TOKEN_URL: must be an address"]),
    "no port": (APP | {"OAUTH2_TOKEN_URL": "https://x.example:y/"}, ["OAUTH2_TOKEN_URL: must be an address"]),
    "no key": (APP | URL | {"OAUTH2_CLIENT_KEY": "x"}, ["OAUTH2_CLIENT_KEY: this is no private key in PEM"]),
    "no certificate": (
        APP | URL | {"OAUTH2_CLIENT_KEY": pem(RSA_KEY), "OAUTH2_CLIENT_CERT": "x"},
        ["OAUTH2_CLIENT_KEY: OAUTH2_CLIENT_CERT holds no certificate in PEM"],
    ),
    "no service account": (
        {"OAUTH2_PROVIDER": "google", "OAUTH2_GRANT": "jwt_bearer"},
        ["OAUTH2_SERVICE_ACCOUNT: not set; give the key file", "OAUTH2_CLIENT_ID: not set"],
    ),
    "a broken service account": (
        {"OAUTH2_PROVIDER": "google", "OAUTH2_GRANT": "jwt_bearer", "OAUTH2_SERVICE_ACCOUNT": '{"a": 1}'},
        ["OAUTH2_SERVICE_ACCOUNT: this is not the JSON key of a service account"],
    ),
    "whose mailbox": (
        {
            "OAUTH2_PROVIDER": "google", "OAUTH2_GRANT": "jwt_bearer", "OAUTH2_CLIENT_ID": "c",
            "OAUTH2_CLIENT_KEY": pem(RSA_KEY), "BACKEND_IMAP_USER": "a", "BACKEND_SMTP_USER": "b",
        },
        ["OAUTH2_SUBJECT: not set, and BACKEND_IMAP_USER and BACKEND_SMTP_USER di"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(case: str) -> None:
    given, lines = MISTAKES[case]
    with pytest.raises(SettingsMistake) as raised:
        configuration(**given)
    for line in lines:
        assert any(found.startswith(line) for found in raised.value.lines), raised.value.lines
    assert len(raised.value.lines) <= len(lines)


def test_a_key_of_another_certificate() -> None:
    other = certificate_of(rsa.generate_private_key(65537, 2048)).public_bytes(Encoding.PEM).decode()
    with pytest.raises(SettingsMistake, match="the key does not belong to the certificate"):
        configuration(**APP, **URL, OAUTH2_CLIENT_KEY=pem(RSA_KEY), OAUTH2_CLIENT_CERT=other)


def test_a_key_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(pem(RSA_KEY))
    assert configuration(**APP, **URL, OAUTH2_CLIENT_KEY_FILE=str(tmp_path / "key")).key is not None
