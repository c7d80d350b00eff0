"""Imports from email-oauth2-proxy. The files are written after its documentation, with what people have in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from legacy_email_proxy.accounts.file import read_accounts
from legacy_email_proxy.build import compose
from legacy_email_proxy.contracts import SettingsMistake
from legacy_email_proxy.setup.draft import Draft
from legacy_email_proxy.setup.email_oauth2_proxy import read_config
from setup.support import set_up, settings_of

SERVERS = """
[Server setup]
documentation = what a section is named after decides
	what it does
[IMAP-1993]
server_address = outlook.office365.com
server_port = 993
local_address = 127.0.0.1
[POP-1995]
server_address = outlook.office365.com
server_port = 995
[SMTP-1587]
server_address = smtp-mail.outlook.com
server_port = 587
server_starttls = True
local_address = localhost
[SMTP-2465]
server_address = smtp.gmail.com
server_port = 465
"""
MICROSOFT = """
[scanner@firm.example]
permission_url = https://login.microsoftonline.com/common/oauth2/v2.0/authorize
token_url = https://login.microsoftonline.com/common/oauth2/v2.0/token
oauth2_scope = https://outlook.office.com/IMAP.AccessAsUser.All offline_access
redirect_uri = http://localhost:8080
client_id = the-client
client_secret = a%secret
token_salt = c2FsdA==
access_token = gAAAAA
"""
GOOGLE = """
[office@gmail.example]
permission_url = https://accounts.google.com/o/oauth2/auth
token_url = https://oauth2.googleapis.com/token
oauth2_scope = https://mail.google.com/
redirect_uri = http://localhost
client_id = google-client
client_secret = google-secret
"""


def imported(tmp_path: Path, text: str) -> Draft:
    file = tmp_path / "emailproxy.config"
    file.write_text(text)
    return read_config(file)


def test_one_account(tmp_path: Path) -> None:
    draft = imported(tmp_path, SERVERS + MICROSOFT)
    assert draft.values == {
        "PROVIDER": "microsoft365", "OAUTH2_TENANT": "common", "OAUTH2_GRANT": "authorization_code",
        "OAUTH2_CLIENT_ID": "the-client", "OAUTH2_CLIENT_SECRET": "a%secret",
        "OAUTH2_REDIRECT_URL": "http://localhost:8080", "SMTP_AUTH": "any",
        "BACKEND_SMTP_USER": "scanner@firm.example", "BACKEND_SMTP_CREDENTIALS": "oauth2",
        "BACKEND_IMAP_USER": "scanner@firm.example", "BACKEND_IMAP_CREDENTIALS": "oauth2",
        "SMTP_BIND_PORT": "1587", "SMTP_BIND_ADDR": "127.0.0.1", "SMTPS_BIND_ADDR": "127.0.0.1",
        "POP3_BIND_PORT": "1995",
    }  # fmt: skip
    told = "\n".join(draft.left_out)
    assert "the stored tokens: they are encrypted with the passwords of the clients; consent again" in told
    assert "IMAP for clients" in told
    assert "the clients' passwords" in told
    composition = compose(draft.environment(STATE_DIR=str(tmp_path)))
    assert composition.relay
    assert composition.maildrop


def test_several_accounts(tmp_path: Path) -> None:
    draft = imported(tmp_path, SERVERS + MICROSOFT + GOOGLE)
    assert draft.accounts["office"]["PROVIDER"] == "gmail"
    assert draft.rules == [
        {"account": "scanner", "sender": "scanner@firm.example"},
        {"account": "office", "sender": "office@gmail.example"},
    ]
    assert any(line.startswith("reading for several accounts") for line in draft.left_out)


def test_the_command_writes_it_and_says_what_is_left(tmp_path: Path) -> None:
    (tmp_path / "emailproxy.config").write_text(SERVERS + MICROSOFT + GOOGLE)
    done = set_up(tmp_path, "--from", "email-oauth2-proxy", "emailproxy.config")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not tried: first run `legacy-email-proxy authorize scanner`" in done.stdout
    assert "Not taken over:\n  * " in done.stdout
    assert "a%secret" not in done.stdout
    found = settings_of(tmp_path / "mail-proxy.env")
    accounts = read_accounts(Path(found["ACCOUNTS_FILE"])) if "ACCOUNTS_FILE" in found else None
    file = accounts or read_accounts(tmp_path / "mail-proxy.toml")
    assert file.mistakes == ()
    assert set(file.accounts) == {"scanner", "office"}
    assert (tmp_path / "mail-proxy.scanner.client-secret").read_text() == "a%secret\n"


@pytest.mark.parametrize(
    ("change", "grant"),
    [
        ("oauth2_flow = device", "device_code"),
        ("oauth2_flow = client_credentials", "client_credentials"),
    ],
)
def test_flows(change: str, grant: str, tmp_path: Path) -> None:
    draft = imported(tmp_path, SERVERS + MICROSOFT.rstrip() + f"\n{change}\n")
    assert draft.values["OAUTH2_GRANT"] == grant


def test_a_service_account(tmp_path: Path) -> None:
    entry = GOOGLE.replace("google-client", "file\noauth2_flow = service_account").replace("google-secret", "/key.json")
    draft = imported(tmp_path, SERVERS + entry)
    assert draft.values["OAUTH2_GRANT"] == "jwt_bearer"
    assert draft.values["OAUTH2_SERVICE_ACCOUNT_FILE"] == "/key.json"
    pasted = GOOGLE.replace("google-client", "key\noauth2_flow = service_account").replace(
        "google-secret", '{\n "a": 1}'
    )
    assert imported(tmp_path, SERVERS + pasted).values["OAUTH2_SERVICE_ACCOUNT"] == '{\n"a": 1}'


def test_a_provider_that_is_not_known(tmp_path: Path) -> None:
    text = """
[IMAP-2993]
server_address = imap.provider.example
server_port = 993
[SMTP-2587]
server_address = smtp.provider.example
server_port = 587
starttls = yes
local_certificate_path = /cert.pem
local_key_path = /key.pem
[a@provider.example]
permission_url = https://login.provider.example/authorize
token_url = https://login.provider.example/token
oauth2_scope = mail offline_access
client_id = x
jwt_certificate_path = /client.pem
jwt_key_path = /client.key
use_pkce = True
surprise = 1
"""
    draft = imported(tmp_path, text)
    expected = {
        "BACKEND_SMTP_HOST": "smtp.provider.example", "BACKEND_SMTP_USE_TLS": "true", "BACKEND_SMTP_PORT": "587",
        "BACKEND_IMAP_HOST": "imap.provider.example", "OAUTH2_TOKEN_URL": "https://login.provider.example/token",
        "OAUTH2_SCOPE": "mail offline_access", "SMTPS_BIND_PORT": "2587", "TLS_CERT_FILE": "/cert.pem",
        "OAUTH2_CLIENT_KEY_FILE": "/client.key",
    }  # fmt: skip
    assert expected.items() <= draft.values.items()
    assert "[a@provider.example]: surprise = 1" in draft.left_out
    assert any(line.startswith("SMTP without TLS is open, too") for line in draft.left_out)


def test_catch_all_accounts_give_what_an_account_lacks(tmp_path: Path) -> None:
    text = SERVERS + MICROSOFT.replace("client_id = the-client", "").replace("client_secret = a%secret", "")
    text += "[@firm.example]\nclient_id = shared\nclient_secret_encrypted = gAAAA\n"
    text += "[emailproxy]\nallow_catch_all_accounts = True\n"
    draft = imported(tmp_path, text)
    assert draft.values["OAUTH2_CLIENT_ID"] == "shared"
    told = "\n".join(draft.left_out)
    for words in ("[@firm.example], an entry for all", "client_secret_encrypted", "allow_catch_all_accounts: each"):
        assert words in told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SERVERS, "has no account that can be used"),
        (SERVERS + MICROSOFT.replace("the-client", "*** your client id here ***"), "it has no client_id and token_url"),
        (SERVERS + MICROSOFT + "oauth2_flow = password\n", "gives the provider a password"),
        (MICROSOFT, "no server section fits its provider"),
        ("no section", "is no file of email-oauth2-proxy: File contains no section headers"),
        (MICROSOFT + MICROSOFT, "already exists"),
    ],
)
def test_what_can_not_be_used(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsMistake) as mistake:
        imported(tmp_path, text)
    assert words in " ".join(mistake.value.lines)
    assert all("\n" not in line for line in mistake.value.lines)
