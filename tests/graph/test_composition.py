"""The settings of a Graph account make a service, whichever way the plugins are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from interop.proxy import run
from legacy_email_proxy.build import compose, credentials
from legacy_email_proxy.contracts import SettingsMistake
from legacy_email_proxy.settings import read
from legacy_email_proxy.settings.doubts import doubts
from legacy_email_proxy_plugins.graph import GraphMaildrop
from legacy_email_proxy_plugins.oauth2 import OAuth2Credentials

APP = {
    "PROVIDER": "microsoft365-graph", "GRAPH_MAILBOX": "scanner@firm.example", "OAUTH2_GRANT": "client_credentials",
    "OAUTH2_TENANT": "t", "OAUTH2_CLIENT_ID": "c", "OAUTH2_CLIENT_SECRET": "s",
}  # fmt: skip
CONSENT = APP | {"OAUTH2_GRANT": "device_code", "OAUTH2_CLIENT_SECRET": ""}


@pytest.mark.parametrize("given", [APP, CONSENT], ids=["application", "consent"])
def test_both_legs_share_one_token(given: dict[str, str], tmp_path: Path) -> None:
    composition = compose(given | {"STATE_DIR": str(tmp_path)})
    assert isinstance(composition.maildrop, GraphMaildrop)
    (only,) = composition.credentials
    assert isinstance(only, OAuth2Credentials)
    assert composition.maildrop.options.credentials is only
    assert not [doubt for doubt in doubts(read(given | {"STATE_DIR": str(tmp_path)})) if "OAUTH2" in doubt.variable]


def test_behind_the_spool_and_beside_smtp(tmp_path: Path) -> None:
    given = APP | {"STATE_DIR": str(tmp_path), "RELAY_PLUGIN": "spool", "SPOOL_RELAY": "graph"}
    given |= {"GRAPH_LARGE": "smtp", "BACKEND_SMTP_USER": "scanner@firm.example", "BACKEND_SMTP_CREDENTIALS": "oauth2"}
    composition = compose(given)
    assert len(composition.credentials) == 1
    assert composition.settings["BACKEND_SMTP_HOST"] == "smtp.office365.com"


def test_a_relay_alone(tmp_path: Path) -> None:
    given = APP | {"STATE_DIR": str(tmp_path), "MAILDROP_PLUGIN": "none", "BACKEND_SMTP_MESSAGES_PER_MINUTE": ""}
    composition = compose(given)
    assert composition.maildrop is None
    assert composition.relay is not None
    assert composition.relay.capabilities().max_octets == 150_000_000


def test_in_an_accounts_file(tmp_path: Path) -> None:
    lines = "".join(f'{name} = "{value}"\n' for name, value in APP.items())
    file = tmp_path / "accounts.toml"
    file.write_text(f'[accounts.a]\n{lines}[[rules]]\naccount = "a"\n')
    composition = compose({"ACCOUNTS_FILE": str(file), "STATE_DIR": str(tmp_path)})
    (account,) = composition.accounts
    assert isinstance(account.maildrop, GraphMaildrop)


def test_mistakes_of_both_legs_are_told_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsMistake) as raised:
        compose({"PROVIDER": "microsoft365-graph", "STATE_DIR": str(tmp_path), "OAUTH2_GRANT": "client_credentials"})
    assert [line.partition(":")[0] for line in raised.value.lines] == [
        "GRAPH_MAILBOX", "OAUTH2_CLIENT_ID", "OAUTH2_CLIENT_SECRET", "OAUTH2_TENANT",
    ]  # fmt: skip


def test_a_consent_can_be_given(tmp_path: Path) -> None:
    assert list(credentials(CONSENT | {"STATE_DIR": str(tmp_path)})[""]) == ["oauth2"]
    shown = run("authorize", "--status", **CONSENT, STATE_DIR=str(tmp_path))
    assert "nobody has consented yet" in shown.stdout + shown.stderr
