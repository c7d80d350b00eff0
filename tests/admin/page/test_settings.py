"""The page about the settings: what is in effect, what is wrong, and the reload; never a secret."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import httpx2
import pytest

from admin.page.browser import CSRF, Browser, browsing, browsing_with, closed, composed
from interop.proxy import running
from legacy_email_proxy import log
from oauth2.support import disguises

SECRETS = {
    "BACKEND_IMAP_PASS": "imap pass-word é",
    "BACKEND_SMTP_PASS": "smtp <pass>&word",
    "OAUTH2_CLIENT_SECRET": "client+secret/",
    "ALERT_WEBHOOK_URL": "https://chat.example.test/hook-with-a-key",
    "SPOOL_URL": "sqlite:////nowhere/secret.db",
}


def no_secret(browser: Browser, *more: str) -> None:
    everything = "\n".join(browser.seen)
    for secret in (*SECRETS.values(), *more):
        assert [form for form in disguises(secret) if form in everything] == []


async def test_what_is_in_effect_and_where_it_comes_from(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("read from a file")
    file = tmp_path / "accounts.toml"
    file.write_text(
        '[accounts.north]\nBACKEND_SMTP_HOST = "north.test"\nBACKEND_SMTP_USER = "n"\n'
        'BACKEND_SMTP_PASS = "in the accounts file"\n'
        '[[rules]]\naccount = "north"\n'
    )
    given = {
        **SECRETS, "STATE_DIR": str(tmp_path), "BACKEND_IMAP_HOST": "imap.test", "ACCOUNTS_FILE": str(file),
        "BACKEND_IMAP_PASS": "", "BACKEND_IMAP_PASS_FILE": str(tmp_path / "secret"), "ALERT_COMMAND": "x <b> y",
        "BACKEND_IMAP_USER": "u",
        "BACKEND_SMTP_USER": "u",
    }  # fmt: skip
    async with browsing_with(**given) as browser:
        text = await browser.get("/settings")
        assert "BACKEND_IMAP_HOST" in text
        assert "imap.test environment" in text
        assert f"*** file {tmp_path}/secret" in text
        assert f"north.test {file}" in text
        assert "x &lt;b&gt; y" in browser.page
        assert "Show the other" in text
        assert "[Monitoring]" not in text
        no_secret(browser, "read from a file", "in the accounts file")


async def test_mistakes_are_told_as_check_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "accounts.toml"
    login = 'BACKEND_SMTP_USER = "\'u\'"\nBACKEND_SMTP_PASS = "p"\n'
    good = f'[accounts.a]\nBACKEND_SMTP_HOST = "a.test"\n{login}[[rules]]\naccount = "a"\n'
    file.write_text(good)
    given = {"ACCOUNTS_FILE": str(file), "MAILDROP_PLUGIN": "none", "STATE_DIR": str(tmp_path), **SECRETS}
    given |= {"BACKEND_SMTP_USER": "u", "BACKEND_SMTP_HOOST": "x"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    async with browsing_with(**given) as browser:
        await browser.get("/settings")
        text = await browser.post("/settings/check")
        assert "No mistakes were found" in text
        assert "BACKEND_SMTP_HOOST is not a setting → did you mean BACKEND_SMTP_HOST?" in text
        assert "a: BACKEND_SMTP_USER: its value begins and ends with a quote" in text
        file.write_text(good.replace("a.test", "a.test:465") + '[accounts.b]\nNO_SUCH = "<x>"\nBACKEND_SMTP_PORT = 0\n')
        text = await browser.post("/settings/check")
        assert "mistakes were found" in text
        assert f"{file}:8: NO_SUCH" in text
        assert "<x>" not in browser.page
        no_secret(browser)


async def test_a_reload(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Sequence[str]] = [(), ("BACKEND_SMTP_HOST: <not> set",)]

    async def reload() -> Sequence[str]:
        return answers.pop(0)

    composition = await composed(STATE_DIR=str(tmp_path), MAILDROP_PLUGIN="none", BACKEND_SMTP_HOST="x.test")
    async with browsing(composition, reload) as browser:
        await browser.get("/settings/reload", 405)
        await browser.get("/settings")
        assert "Reloaded. New sessions have the new settings." in await browser.post("/settings/reload")
        text = await browser.post("/settings/reload")
        assert "Not reloaded, because of 1 mistake BACKEND_SMTP_HOST: <not> set" in text
        await browser.post("/settings/reload", 403, csrf="")
        assert answers == []
    await closed(composition)
    changes = [log.facts_of(each) for each in caplog.records if each.getMessage() == "changed on the page"]
    assert [each["result"] for each in changes] == ["reloaded", "not reloaded"]


def test_the_service_itself_is_reloaded(tmp_path: Path) -> None:
    file = tmp_path / "accounts.toml"
    rule = '[[rules]]\naccount = "a"\n'
    file.write_text(f'[accounts.a]\nBACKEND_SMTP_HOST = "first.test"\n{rule}')
    given = {
        "ACCOUNTS_FILE": str(file), "MAILDROP_PLUGIN": "none", "STATE_DIR": str(tmp_path), "ADMIN_BIND_PORT": "0",
        "ADMIN_PASSWORD": "the pass-word",
    }  # fmt: skip
    with running(given) as proxy:
        address, port = proxy.place("admin")
        with httpx2.Client(base_url=f"http://{address}:{port}", follow_redirects=True, timeout=50) as client:

            def send(path: str, **fields: str) -> str:
                token = CSRF.findall(client.get("/settings").text)[0]
                return client.post(path, data={"csrf": token, **fields}).text

            assert "first.test" in send("/signin", user="eve", password="the pass-word", next="settings")
            file.write_text(file.read_text().replace("first", "second"))
            assert "second.test" in send("/settings/reload")
            file.write_text(rule)
            page = send("/settings/reload")
            assert "Not reloaded" in page
            assert "second.test" in page
            assert "the pass-word" not in page
        lines = proxy.wait_for("changed on the page", 2)
        assert [line.partition(" change=")[2] for line in lines] == [
            f"reload user=eve client={address} result=reloaded",
            f'reload user=eve client={address} result="not reloaded"',
        ]
