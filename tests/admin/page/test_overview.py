"""The overview: the checklist, what runs, the last messages, and the graphs with their table."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from admin.page.support import browsing, recorded, words
from history.support import ANN, event, relayed
from legacy_email_proxy.admin.page.graphs import PERIODS, Point, drawn, points_of
from legacy_email_proxy.alerts.conditions import CONDITIONS
from legacy_email_proxy.contracts import Figure, Finding, Level
from legacy_email_proxy.history.facts import Event

ADVICE = {key: condition.advice for key, condition in CONDITIONS.items()}


async def test_all_is_well(tmp_path: Path) -> None:
    async with browsing(tmp_path, advice=ADVICE) as browser:
        await browser.get("overview")
        page = words((await browser.get("overview")).text)
    assert "All is well" in page
    assert "Sending: the provider in order works" in page
    assert "192.168.1.10:25" in page


async def test_what_is_wrong_stands_there_with_what_to_do(tmp_path: Path) -> None:
    trouble = {"condition": "backend", "subject": "smtp", "says": "no", "advice": "x", "since": time.time() - 60}
    other = {**trouble, "condition": "clock", "subject": "", "says": "the clock is wrong", "advice": "set the clock"}
    async with browsing(tmp_path, advice=ADVICE, troubles=[trouble, other]) as browser:
        browser.relay.found = [Finding(Level.BAD, "the login was refused")]
        await browser.get("overview")
        html = (await browser.get("overview")).text
    page = words(html)
    assert "Something is wrong" in page
    assert re.search(r"Sending: the provider wrong the login was refused \(\d s ago\), since \d{4}-", page)
    assert f"<code>legacy-email-proxy check</code>{ADVICE['backend'].rpartition('`')[2]}" in html
    # The trouble that is a line of the checklist already is not told twice; the other one is.
    assert page.count("the login was refused") == 1
    assert "the clock is wrong, since" in page
    assert "set the clock" in page


async def test_a_backend_that_does_not_answer_holds_the_page_up_for_a_moment_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    asked = asyncio.Event()
    async with browsing(tmp_path, advice=ADVICE) as browser:

        async def never() -> list[Finding]:
            asked.set()
            await asyncio.Event().wait()
            return []

        monkeypatch.setattr(browser.relay, "probe", never)
        page = words((await browser.get("overview")).text)
    assert asked.is_set()
    assert "Being looked at" in page
    assert "Load this page again in a moment" in page


async def test_the_last_messages(tmp_path: Path) -> None:
    now = time.time()
    await recorded(tmp_path, [relayed(now - number, f"person{number}@firm.example") for number in range(20)])
    async with browsing(tmp_path) as browser:
        page = words((await browser.get("overview")).text)
    assert "person0@firm.example" in page
    assert "person7@firm.example" in page
    assert "person8@firm.example" not in page


async def test_nothing_yet(tmp_path: Path) -> None:
    await recorded(tmp_path, [])
    async with browsing(tmp_path) as browser:
        assert "No message has come yet Open Devices" in words((await browser.get("overview")).text)


@pytest.mark.parametrize(("days", "why"), [("14", "Nothing was recorded yet"), ("0", "HISTORY_DAYS=0 has switched")])
async def test_without_a_history(tmp_path: Path, days: str, why: str) -> None:
    async with browsing(tmp_path, HISTORY_DAYS=days) as browser:
        for path in ("overview", "devices", "devices/192.168.1.40", "messages"):
            assert why in words((await browser.get(path)).text), path


async def test_a_history_that_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "history.db").write_bytes(b"no database" * 1000)
    async with browsing(tmp_path) as browser:
        assert "The file can not be read" in words((await browser.get("overview")).text)


async def test_the_graphs_and_their_table(tmp_path: Path) -> None:
    now = time.time()
    await recorded(
        tmp_path,
        [
            relayed(now),
            relayed(now - 3600 * 30),
            event("smtp recipient refused", now, recipient=ANN, cause="no"),
            Event(now, "figures", {"spool": (1, 7.0, 7.0), "smtp_seconds": (2, 1.0, 0.8)}),
        ],
    )
    async with browsing(tmp_path) as browser:
        day = (await browser.get("overview")).text
        fortnight = (await browser.get("overview?period=fortnight")).text
    assert "1 taken from devices" in day
    assert "2 taken from devices" in fortnight
    assert 'role="img" aria-label="Waiting in the spool, Last day: 7 at most.' in day
    assert re.search(r"</time></th>\s*<td class=\"number\">1</td>\s*<td class=\"number\">1</td>", day)
    assert re.search(r"<td class=\"number\">7</td>\s*<td class=\"number\">0.5</td>", day)


def test_figures_are_summed_up_for_each_bar() -> None:
    now = 1_000_000 * 3600.0 + 1800
    hours = [
        {"hour": 1_000_000 * 3600, "what": "relayed", "times": 2},
        {"hour": 1_000_000 * 3600, "what": "spooled", "times": 3},
        {"hour": 1_000_000 * 3600, "what": "delivered", "times": 99},
        {"hour": 999_999 * 3600, "what": "refusal", "times": 4},
        {"hour": 999_000 * 3600, "what": "relayed", "times": 5},
        {"hour": 1_000_024 * 3600, "what": "relayed", "times": 5},
    ]
    samples = [
        {"hour": 1_000_000 * 3600, "what": "spool", "times": 60, "total": 70.0, "highest": 9.0},
        {"hour": 1_000_000 * 3600, "what": "smtp_seconds", "times": 3, "total": 3.0, "highest": 2.0},
        {"hour": 1_000_000 * 3600, "what": "pop3_seconds", "times": 1, "total": 5.0, "highest": 5.0},
    ]
    points = points_of(PERIODS["day"], now, hours, samples)
    assert len(points) == 24
    last, before = points[-1], points[-2]
    assert (last.messages, last.refusals, last.spool, last.seconds) == (5, 0, 9.0, 2.0)
    assert (before.messages, before.refusals, before.spool, before.seconds) == (0, 4, None, None)
    assert len(points_of(PERIODS["fortnight"], now, hours, samples)) == 56


@pytest.mark.parametrize(
    ("highest", "top"), [(0, 1), (0.03, 0.05), (1, 1), (7, 10), (10, 10), (23, 25), (26, 50), (999, 1000)]
)
def test_a_graph_stays_within_its_place(highest: float, top: float) -> None:
    points = [Point(3600.0 * number, spool=highest) for number in range(24)]
    graph = drawn("spool", PERIODS["day"], points)
    assert graph.rules[-1][1] == pytest.approx(top)
    for bar in graph.bars:
        assert graph.left <= bar.x <= bar.x + bar.width <= graph.width
        assert 0 <= bar.y <= bar.y + bar.height <= graph.height


async def test_the_spool_is_a_line_of_the_checklist(tmp_path: Path) -> None:
    async with browsing(tmp_path, queue=True, advice=ADVICE) as browser:
        browser.relay.told = [
            Figure("spool_messages", 3, {"state": "queued"}),
            Figure("spool_room_octets", 0),
        ]
        page = words((await browser.get("overview")).text)
    assert "Spool wrong it is full, or its disk is: 3 queued" in page
    assert "find out why mail does not go out" in page


async def test_many_accounts(tmp_path: Path) -> None:
    async with browsing(tmp_path, advice=ADVICE) as browser:
        used = browser.current.composition
        accounts = tuple(replace(used.accounts[0], name=f"account{number}") for number in range(100))
        browser.current.replace(replace(used, accounts=accounts))
        await browser.get("overview")
        html = (await browser.get("overview")).text
    assert "101 more are in order" in html.partition("<details>")[2]
    assert "account99" in html
