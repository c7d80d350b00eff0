"""Every value of the history may come from the network, and stands on the page as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from admin.page.support import browsing, history
from history.support import CLIENT, NOON, event
from legacy_email_proxy.admin.page import entries
from legacy_email_proxy.admin.page.messages import _FIELDS
from legacy_email_proxy.contracts import Finding, Level

HOSTILE = "\"'><script>alert(1)</script>{{7*7}}{x}%s</textarea>"
ESCAPED = "&lt;script&gt;"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    known: dict[str, Any] = {
        "sender": f"{HOSTILE}@x.example",
        "recipients": [f"{HOSTILE}@y.example"],
        "account": HOSTILE,
    }
    said: dict[str, Any] = {"reply": HOSTILE, "cause": HOSTILE, "advice": f"`{HOSTILE}` {HOSTILE}", "backend": HOSTILE}
    history(
        tmp_path,
        [
            event("message relayed", NOON, octets=1, **known, **said),
            event("message spooled", NOON + 1, queue_id=HOSTILE, octets=1, **known, **said),
            event("message not delivered", NOON + 2, message=HOSTILE, recipients=known["recipients"], cause=HOSTILE),
            event("smtp command refused", NOON + 3, command=HOSTILE, **said),
            event("pop3 login failed", NOON + 4, user=HOSTILE, **said),
            event("pop3 session ended", NOON + 5, user=HOSTILE, verdict=HOSTILE),
            event("smtp session ended", NOON + 6, helo=HOSTILE, verdict="quit"),
            event("smtp connection refused", NOON + 7, client=HOSTILE, reason=HOSTILE),
        ],
    )
    return tmp_path


async def test_everything_is_escaped(folder: Path) -> None:
    trouble = {"condition": "token", "subject": HOSTILE, "says": HOSTILE, "advice": HOSTILE, "since": NOON}
    async with browsing(folder, troubles=[trouble]) as browser:
        browser.relay.found = [Finding(Level.BAD, HOSTILE)]
        paths = [
            "overview",
            "devices",
            f"devices/{CLIENT}",
            "messages",
            *(f"messages/{number}" for number in range(1, 7)),
        ]
        for path in paths:
            answer = await browser.get(path)
            assert answer.status_code == 200, path
            assert "<script>" not in answer.text, path
            assert ESCAPED in answer.text, path
            assert "49" not in answer.text.partition("{{7*7}}")[0][-10:], path


@pytest.mark.parametrize("name", [*_FIELDS, "before"])
async def test_what_is_searched_for_is_escaped(folder: Path, name: str) -> None:
    async with browsing(folder) as browser:
        answer = await browser.get(f"messages?{name}={quote(HOSTILE)}")
    assert answer.status_code == 200
    assert "<script>" not in answer.text


@pytest.mark.parametrize(
    "value", [HOSTILE, "%", "\0", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "9" * 40]
)
async def test_addresses_that_are_none(folder: Path, value: str) -> None:
    async with browsing(folder) as browser:
        for path in (f"devices/{quote(value, safe='')}", f"messages/{quote(value, safe='')}"):
            answer = await browser.get(path)
            assert answer.status_code == 404
            assert "<script>" not in answer.text
        for query in ("devices?address=", "devices?page=", "overview?period=", "signin?next=", "overview?done="):
            answer = await browser.get(query + quote(value))
            assert answer.status_code in (200, 303), query
            assert "<script>" not in answer.text


async def test_a_page_can_be_made_to_say_only_words_of_ours(tmp_path: Path) -> None:
    async with browsing(tmp_path) as browser:
        assert "signed out" in (await browser.get("overview?done=signed_out")).text
        assert "notice good" not in (await browser.get("overview?done=You+have+been+hacked")).text
        assert "notice good" not in (await browser.get("overview?done=")).text


def test_states_that_nobody_knows_have_their_own_words() -> None:
    entry = {"kind": "refusal", "leg": "smtp", "state": "{0.__class__}", "trouble": 1}
    assert entries.state_of(entry) == "{0.__class__}"
