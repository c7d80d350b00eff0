"""The search of the history, and one entry with its whole story."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from admin.page.support import Browser, browsing, history, recorded, words
from history.support import ANN, BOB, CLIENT, NOON, event, relayed, spooled
from legacy_email_proxy.admin.page import messages

OTHER = "192.168.1.41"
DAY = 86400


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    history(
        tmp_path,
        [
            relayed(NOON, ANN),
            relayed(NOON + DAY, BOB, client=OTHER, sender=""),
            event("message refused", NOON + 2 * DAY, sender="x@other.example", recipients=[ANN], cause="no"),
            event("smtp command refused", NOON + 3 * DAY, command="AUTH", reply="502 no", advice="log off"),
            event("pop3 session ended", NOON + 4 * DAY, user="erp", verdict="quit", retrieved=1),
        ],
    )
    return tmp_path


async def found(browser: Browser, query: str) -> list[int]:
    html = (await browser.get(f"messages{query}")).text
    return [int(number) for number in re.findall(r'href="\./messages/(\d+)"', html)]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", [5, 4, 3, 2, 1]),
        (f"?device={OTHER}", [2]),
        (f"?device=::ffff:{OTHER}", [2]),
        ("?device=+192.168.1.41+", [2]),
        ("?recipient=ann@firm.example", [3, 1]),
        ("?recipient=@firm", [3, 2, 1]),
        ("?sender=%3C%3E", [2]),
        ("?sender=other", [3]),
        ("?verdict=trouble", [4, 3]),
        ("?verdict=messages", [3, 2, 1]),
        ("?verdict=relayed", [2, 1]),
        ("?verdict=refusals", [4]),
        ("?verdict=read", [5]),
        ("?verdict=nonsense", [5, 4, 3, 2, 1]),
        ("?from=2026-01-03", [5, 4, 3]),
        ("?until=2026-01-02", [2, 1]),
        ("?from=2026-01-02&until=2026-01-02", [2]),
        # Eleven hours ahead of UTC it is the next day at noon in UTC already; thirteen hours behind, the day before.
        ("?from=2026-01-02&until=2026-01-02&zone=840", [1]),
        ("?from=2026-01-02&until=2026-01-02&zone=-780", [3]),
        ("?from=2026-01-02&until=2026-01-02&zone=x", [2]),
        ("?from=nonsense", [5, 4, 3, 2, 1]),
        ("?before=3", [2, 1]),
    ],
)
async def test_search(folder: Path, query: str, ids: list[int]) -> None:
    async with browsing(folder) as browser:
        assert await found(browser, query) == ids


async def test_nothing_fits(folder: Path) -> None:
    async with browsing(folder) as browser:
        answer = await browser.get("messages?recipient=nobody@x.example")
    assert "Nothing fits Leave a field empty" in words(answer.text)
    assert 'value="nobody@x.example"' in answer.text


async def test_nothing_yet(tmp_path: Path) -> None:
    await recorded(tmp_path, [])
    async with browsing(tmp_path) as browser:
        assert "Nothing was recorded yet Open Devices" in words((await browser.get("messages?zone=60")).text)


async def test_pages(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "PAGE", 2)
    async with browsing(folder) as browser:
        seen, query = [], "?verdict=&recipient=firm"
        while True:
            html = (await browser.get(f"messages{query}")).text
            seen.append(re.findall(r'href="\./messages/(\d+)"', html))
            older = re.search(r'href="\./messages(\?[^"]*)" rel="next"', html)
            if older is None:
                break
            query = older[1].replace("&amp;", "&")
            assert "recipient=firm" in query
    assert seen == [["3", "2"], ["1"]]


async def test_the_story_of_a_message_in_the_spool(tmp_path: Path) -> None:
    await recorded(
        tmp_path,
        [
            event("smtp recipient refused", NOON - 1, recipient="x@y.example", reply="550 no", cause="550 no"),
            event("smtp recipient refused", NOON - 1, recipient="x@y.example", cause="another session", session="s2"),
            spooled(ANN, BOB, reply="250 2.0.0 Ok: queued"),
            event("recipients not taken for now", NOON + 60, message="12", recipients=[BOB], cause="451 busy"),
            event("message delivered", NOON + 61, message="12", recipients=[ANN], backend="250 as 98E6"),
        ],
    )
    async with browsing(tmp_path) as browser:
        page = words((await browser.get("messages/3")).text)
    assert "Message of scan@firm.example delayed" in page
    story = page.partition("What happened")[2].partition("Recipients")[0]
    assert re.findall(r"550 no|Taken from the device|delayed: bob\S+|delivered: ann\S+|another session", story) == [
        "550 no",
        "Taken from the device",
        "delayed: bob@firm.example",
        "delivered: ann@firm.example",
    ]
    assert "ann@firm.example delivered 250 as 98E6 2026-01-01 12:01:01 UTC" in page
    assert "bob@firm.example delayed 451 busy 2026-01-01 12:01:00 UTC" in page
    assert "Number in the spool 12" in page


async def test_what_the_spool_knows_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await recorded(tmp_path, [spooled(ANN)])
    asked: list[tuple[str, Sequence[int]]] = []

    async def administer(action: str, numbers: Sequence[int], by: str = "") -> AsyncGenerator[Mapping[str, Any], None]:
        asked.append((action, numbers))
        recipient = {"address": ANN, "fate": "waiting", "tried": NOON + 90, "reply": "451 4.7.1 greylisted"}
        yield {"number": 12, "sender": "scan@firm.example", "tries": 3, "due": NOON + 600, "recipients": [recipient]}

    async with browsing(tmp_path, queue=True) as browser:
        browser.relay.administer = administer  # type: ignore[attr-defined]
        page = words((await browser.get("messages/1")).text)
        assert asked == [("show", [12])]
        assert "Tries 3 Next try 2026-01-01 12:10:00 UTC" in page
        assert "ann@firm.example in the spool 451 4.7.1 greylisted 2026-01-01 12:01:30 UTC" in page

        async def fails(*_: object) -> AsyncGenerator[Mapping[str, Any], None]:
            raise OSError("the disk hangs")
            yield {}

        browser.relay.administer = fails  # type: ignore[attr-defined]
        assert "Number in the spool 12" in words((await browser.get("messages/1")).text)


async def test_entries_that_are_no_message(folder: Path) -> None:
    async with browsing(folder) as browser:
        refusal = words((await browser.get("messages/4")).text)
        session = words((await browser.get("messages/5")).text)
    assert "What to do: log off" in refusal
    assert "Command AUTH The device read 502 no" in refusal
    assert "read mail" in session
    assert "User erp" in session


@pytest.mark.parametrize("number", ["99", "0", str(2**63), str(2**70)])
async def test_there_is_no_such_entry(folder: Path, number: str) -> None:
    async with browsing(folder) as browser:
        assert (await browser.get(f"messages/{number}")).status_code == 404


async def test_a_message_leads_to_its_device(folder: Path) -> None:
    async with browsing(folder) as browser:
        assert f'href="../devices/{CLIENT}"' in (await browser.get("messages/1")).text
