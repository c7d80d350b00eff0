"""The pages about the spool: why mail waits, and what an operator does about it."""

from __future__ import annotations

import html
import re
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from admin.page.browser import CSRF, Browser, browsing_with
from legacy_email_proxy import log
from legacy_email_proxy.admin.page.spool import PER_PAGE
from legacy_email_proxy.contracts import Failure
from legacy_email_proxy_plugins.spool import SpoolRelay
from spool.support import CONTENT, listed, operate, send, until_tries

HOSTILE = '"<script>alert(1)</script>"@example.test'
TURNED = "gnp.\u202eexe@example.test"


@pytest.fixture(params=["sqlite", "postgres"])
def variables(request: pytest.FixtureRequest, tmp_path: Path) -> Mapping[str, str]:
    """A spool in front of a server at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    given = {
        "STATE_DIR": str(tmp_path), "MAILDROP_PLUGIN": "none", "RELAY_PLUGIN": "spool",
        "BACKEND_SMTP_HOST": "127.0.0.1", "BACKEND_SMTP_PORT": str(port),
    }  # fmt: skip
    if request.param == "postgres":
        given["SPOOL_URL"] = request.getfixturevalue("postgres").new_database()
    return given


@pytest.fixture
async def browser(variables: Mapping[str, str]) -> AsyncIterator[Browser]:
    async with browsing_with(**variables) as opened:
        yield opened


SQLITE = pytest.mark.parametrize("variables", ["sqlite"], indirect=True)


def spool_of(browser: Browser) -> SpoolRelay:
    return cast(SpoolRelay, browser.current.composition.accounts[0].queue)


async def states(browser: Browser) -> list[str]:
    """The states of all messages, in order."""
    return [item["state"] for item in await listed(spool_of(browser))]


async def test_why_it_waits_and_what_becomes_of_it(browser: Browser) -> None:
    spool = spool_of(browser)
    assert "Nothing waits" in await browser.get("/spool")
    await send(spool, "bob@example.test", TURNED, reverse_path=HOSTILE)
    await send(spool, "100%@example.test")
    await until_tries(spool, 1)
    text = await browser.get("/spool")
    assert "All 2 Waiting 2 Held 0" in text
    assert "refused" in text
    assert "1 try so far" in text
    assert HOSTILE in text
    assert "<script>alert" not in browser.page
    assert "\u202e" not in browser.page
    # Several at once, by their boxes.
    text = await browser.post("/spool/do", action="hold", number=["1", "2", "77"])
    assert "2 messages are held until you release them." in text
    assert "1 message was left as it is" in text
    assert await states(browser) == ["held", "held"]
    text = await browser.get("/spool?state=held&address=BOB")
    assert 'value="1"' in browser.page
    assert 'value="2"' not in browser.page
    assert "No such message" in await browser.get("/spool?state=dead")
    assert 'aria-label="Choose message 2"' in (await browser.get("/spool?address=100%25"), browser.page)[1]
    assert 'aria-label="Choose message 1"' not in browser.page
    # One message, with what its recipients were told.
    text = await browser.get("/spool/message/1")
    assert "It is not tried before you release it." in text
    assert "192.0.2.9" in text
    text = await browser.post("/spool/do", action="release", number="1", back="1")
    assert "1 message was released." in text
    assert browser.page.count("<h1>Message 1</h1>") == 1
    assert await states(browser) == ["queued", "held"]
    assert "1 message is tried now." in await browser.post("/spool/do", action="retry", number="2", back="2")
    assert await states(browser) == ["queued", "queued"]


@SQLITE
async def test_a_drop_is_asked_about_first(browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3):
        await send(spool_of(browser), f"r{number}@example.test")
    await browser.get("/spool")
    text = await browser.post("/spool/do", action="drop", number=["1", "3"])
    assert "Drop 2 messages?" in text
    assert "r0@example.test" in text
    assert "r2@example.test" in text
    assert len(await states(browser)) == 3
    text = await browser.post("/spool/do", action="drop", number=["1", "3"], confirmed="yes")
    assert "2 messages were dropped." in text
    assert [item["number"] for item in await listed(spool_of(browser))] == [2]
    (facts,) = [log.facts_of(each) for each in caplog.records if each.getMessage() == "changed on the page"]
    assert facts == {"change": "spool drop", "user": "local", "client": "127.0.0.1", "messages": [1, 3]}
    decided = [log.facts_of(each)["by"] for each in caplog.records if each.getMessage() == "done by the operator"]
    assert decided == ["user local, 127.0.0.1"] * 2


async def test_page_by_page(browser: Browser) -> None:
    for number in range(PER_PAGE + 5):
        await send(spool_of(browser), f"r{number}@example.test")
    await browser.get("/spool")
    assert len(re.findall('name="number"', browser.page)) == PER_PAGE
    assert f"All {PER_PAGE + 5}" in browser.text
    (following,) = re.findall(r'href="([^"]+)" rel="next"', browser.page)
    await browser.get(f"/spool{html.unescape(following)}")
    assert re.findall('name="number" value="([0-9]+)"', browser.page) == [str(PER_PAGE + each) for each in range(1, 6)]
    assert 'rel="next"' not in browser.page


async def test_the_export_is_the_content_and_is_told(browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
    await send(spool_of(browser))
    await browser.get("/spool/message/1")
    token = CSRF.findall(browser.page)[0]
    answer = await browser.client.post("/spool/export", data={"csrf": token, "number": "1"})
    assert answer.content == CONTENT
    assert answer.headers["content-disposition"] == 'attachment; filename="message-1.eml"'
    assert answer.headers["content-type"].startswith("message/rfc822")
    assert answer.headers["x-content-type-options"] == "nosniff"
    facts = [log.facts_of(each) for each in caplog.records if each.getMessage() == "changed on the page"]
    assert [(each["change"], each["messages"]) for each in facts] == [("spool export", [1])]
    await browser.post("/spool/export", 404, number="2", csrf=token)
    large = CONTENT + b"0123456789abcde\r\n" * 20_000
    await send(spool_of(browser), content=large)
    answer = await browser.client.post("/spool/export", data={"csrf": token, "number": "2"})
    assert answer.content == large
    # Nowhere else is any of it.
    assert not [page for page in browser.seen if "bye" in page or "Subject: scan" in page]


@SQLITE
async def test_what_is_no_form_of_ours_changes_nothing(browser: Browser) -> None:
    await send(spool_of(browser))
    await browser.get("/spool")
    token = CSRF.findall(browser.page)[0]
    await browser.post("/spool/do", 403, csrf="0" * 64, action="drop", number="1", confirmed="yes")
    for fields in ({"action": "dance", "number": "1"}, {"action": "drop", "number": "x"}, {"number": "1"}):
        await browser.post("/spool/do", 400, csrf=token, **fields)
    await browser.post("/spool/export", 400, csrf=token, number="one")
    text = await browser.post("/spool/do", csrf=token, action="hold")
    assert "Nothing was chosen." in text
    await browser.get("/spool/do", 405)
    for nowhere in ("/spool/message/7", "/spool/message/x", "/spool/message/99999999999999999999"):
        await browser.get(nowhere, 404)
    assert await states(browser) == ["queued"]


@SQLITE
async def test_a_message_that_can_not_be_read_is_shown_with_the_reason(browser: Browser) -> None:
    spool = spool_of(browser)
    await send(spool)
    await operate(spool, "hold", 1)
    store: Any = spool._spool.store
    await store._writer.run(lambda connection: connection.execute("UPDATE message SET client = 'x<b>'"))
    for path in ("/spool", "/spool/message/1"):
        text = await browser.get(path)
        assert "its record makes no sense" in text
        assert "Set aside" in text
    text = await browser.post("/spool/do", action="drop", number="1", confirmed="yes")
    assert "1 message was dropped." in text


@SQLITE
async def test_a_spool_that_does_not_answer(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    async def counted(_: SpoolRelay) -> Any:
        raise Failure("the database is gone")

    monkeypatch.setattr(SpoolRelay, "counted", counted)
    text = await browser.get("/spool", 503)
    assert "The spool does not answer the database is gone Devices are told to come back later." in text


async def test_without_a_spool(tmp_path: Path) -> None:
    given = {"STATE_DIR": str(tmp_path), "MAILDROP_PLUGIN": "none", "BACKEND_SMTP_HOST": "127.0.0.1"}
    async with browsing_with(**given) as browser:
        assert "RELAY_PLUGIN=spool" in await browser.get("/spool")
        await browser.get("/spool/message/1", 404)


async def test_accounts_with_spools_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "accounts.toml"
    file.write_text(
        "".join(
            f'[accounts.{name}]\nBACKEND_SMTP_HOST = "127.0.0.1"\nBACKEND_SMTP_PORT = 1\n{own}'
            for name, own in (("north", ""), ("south", ""), ("east", f'SPOOL_URL = "sqlite:///{tmp_path}/east.db"\n'))
        )
        + "".join(f'[[rules]]\nsender = "@{name}.test"\naccount = "{name}"\n' for name in ("north", "south", "east"))
    )
    given = {"MAILDROP_PLUGIN": "none", "RELAY_PLUGIN": "spool", "ACCOUNTS_FILE": str(file), "STATE_DIR": str(tmp_path)}
    async with browsing_with(**given) as browser:
        for account in browser.current.composition.accounts:
            await send(cast(SpoolRelay, account.queue), f"to-{account.name}@example.test")
        text = await browser.get("/spool")
        assert "to-north@example.test" in text
        assert "to-south@example.test" in text
        assert "to-east@example.test" not in text
        text = await browser.get("/spool?account=south")
        assert "to-north@example.test" not in text
        assert "to-south@example.test" in text
        text = await browser.get(f"/spool?spool={tmp_path}/east.db")
        assert "to-east@example.test" in text
        assert "to-south@example.test" not in text
