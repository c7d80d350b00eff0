"""Imports from m365proxy. The files are written after its documentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from legacy_email_proxy.build import compose
from legacy_email_proxy.contracts import SettingsMistake
from legacy_email_proxy.setup.draft import Draft
from legacy_email_proxy.setup.m365proxy import read_config
from setup.support import set_up, settings_of

ONE: dict[str, Any] = {
    "user": "scanner@firm.example",
    "client_id": "the-client",
    "tenant_id": "the-tenant",
    "allowed_domains": ["firm.example"],
    "mailboxes": [{"username": "scanner@firm.example", "password": "$2b$12$hash"}],
    "bind": "127.0.0.1",
    "smtp_port": 10025,
    "pop3_port": 10110,
    "logging": {"log_level": "DEBUG", "log_file": "m365.log"},
    "token_path": "tokens.enc",
}


def imported(tmp_path: Path, **changes: Any) -> Draft:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(ONE | changes))
    return read_config(file)


def test_one_mailbox(tmp_path: Path) -> None:
    draft = imported(tmp_path)
    assert draft.values == {
        "PROVIDER": "microsoft365-graph", "OAUTH2_GRANT": "device_code", "OAUTH2_CLIENT_ID": "the-client",
        "OAUTH2_TENANT": "the-tenant", "GRAPH_MAILBOX": "scanner@firm.example",
        "SMTP_ALLOWED_SENDERS": "scanner@firm.example", "SMTP_ALLOWED_RECIPIENTS": "@firm.example",
        "SMTP_AUTH": "any", "SMTP_BIND_PORT": "10025", "POP3_BIND_PORT": "10110", "SMTP_BIND_ADDR": "127.0.0.1",
        "POP3_BIND_ADDR": "127.0.0.1", "LOG_LEVEL": "debug",
    }  # fmt: skip
    assert [line.partition(":")[0] for line in draft.left_out] == [
        "token_path", "the passwords of the mailboxes", "logging.log_file m365.log",
    ]  # fmt: skip
    assert compose(draft.environment(STATE_DIR=str(tmp_path))).maildrop


def test_another_mailbox_than_the_user(tmp_path: Path) -> None:
    draft = imported(tmp_path, user="licensed@firm.example", pop3_port=None, allowed_domains=["*"], bind="0.0.0.0")
    assert "https://graph.microsoft.com/Mail.Send.Shared" in draft.values["OAUTH2_SCOPE"].split()
    assert draft.values["MAILDROP_PLUGIN"] == "none"
    assert not {"SMTP_ALLOWED_RECIPIENTS", "SMTP_BIND_ADDR"} & set(draft.values)


def test_several_mailboxes_and_the_command(tmp_path: Path) -> None:
    boxes = [{"username": f"{name}@firm.example", "password": "x"} for name in ("a", "b")]
    draft = imported(tmp_path, mailboxes=boxes)
    assert draft.accounts == {name: {"GRAPH_MAILBOX": f"{name}@firm.example"} for name in ("a", "b")}
    assert any(line.startswith("reading for several mailboxes") for line in draft.left_out)
    done = set_up(tmp_path, "--from", "m365proxy", "config.json", "--output", "x.env")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "first run `legacy-email-proxy authorize a`" in done.stdout
    found = settings_of(tmp_path / "x.env")
    composition = compose({**found, "ACCOUNTS_FILE": str(tmp_path / "x.toml"), "STATE_DIR": str(tmp_path / "state")})
    assert [account.name for account in composition.accounts] == ["a", "b"]


def test_tls_and_what_is_left_out(tmp_path: Path) -> None:
    tls = {"tls_cert": "/cert.pem", "tls_key": "/key.pem"}
    proxy = {"url": "http://proxy.example:3128"}
    draft = imported(tmp_path, tls=tls, smtps_port=465, smtp_port=None, https_proxy=proxy, attachment_limit_mb=9)
    assert (draft.values["SMTPS_BIND_PORT"], draft.values["TLS_KEY_FILE"]) == ("465", "/key.pem")
    told = "\n".join(draft.left_out)
    for words in ("SMTP without TLS is open, too", "https_proxy: set the environment", "attachment_limit_mb: 9"):
        assert words in told


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b"{", "is no JSON"),
        (b"\xff", "is no JSON"),
        (b"[1]", "has no user, client_id and tenant_id"),
        (b'{"user": "a@b", "client_id": 1, "tenant_id": "t"}', "has no user, client_id and tenant_id"),
        (b"[" * 100_000, "is no JSON"),
    ],
)
def test_what_can_not_be_used(octets: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(octets)
    with pytest.raises(SettingsMistake, match=words):
        read_config(file)
