"""The script for an administrator: the page shows the same one, and nothing in an address can end a text in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from legacy_email_proxy.contracts import SettingsMistake
from legacy_email_proxy.setup.microsoft365 import WAYS, commands
from pages import blocks
from setup.support import set_up

MAILBOXES = {"microsoft365-hve": "scans@firm.example"}


@pytest.mark.parametrize("way", WAYS)
def test_the_page_shows_it(way: str) -> None:
    shown = [block.text for block in blocks("powershell") if block.page.name == "microsoft365.md"]
    assert commands(way, MAILBOXES.get(way, "scanner@firm.example")) in shown


def test_the_command_prints_it(tmp_path: Path) -> None:
    done = set_up(tmp_path, "microsoft365", "--user", "a@b.example", "--device", "sends")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert '$mailbox = "a@b.example"' in lines
    assert "Set-CASMailbox $mailbox -SmtpClientAuthenticationDisabled $false" in lines
    assert "IMAP.AccessAsApp" not in done.stdout
    assert lines[-1].endswith("legacy-email-proxy setup --provider microsoft365 --device sends --user a@b.example")


@pytest.mark.parametrize(
    "address", ['a"; rm@b.example', "a$x@b.example", "a`@b.example", "a'@b.example", "a b@c.example"]
)
def test_an_address_is_no_command(address: str) -> None:
    with pytest.raises(SettingsMistake, match="no address that can stand in a script"):
        commands("microsoft365", address)


def test_what_is_missing(tmp_path: Path) -> None:
    assert "--user: not given" in set_up(tmp_path, "microsoft365").stderr
    assert "--provider: 'gmail' is none of" in set_up(tmp_path, "microsoft365", "--provider", "gmail").stderr
