"""The devices: what is told of each, what to set on it, and its dialogue while it happens."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest

from admin.page.support import browsing, recorded, words
from admin.test_http import Served, serving
from history.support import CLIENT, NOON, event, relayed
from legacy_email_proxy import log
from legacy_email_proxy.admin import connections
from legacy_email_proxy.admin.page import devices, recipes, watching
from legacy_email_proxy.admin.page.recipes import MAKERS, recipe
from legacy_email_proxy.contracts import bound
from legacy_email_proxy.settings import read
from waiting import until

_smtp = logging.getLogger("legacy_email_proxy.smtp")


async def test_the_list(tmp_path: Path) -> None:
    await recorded(
        tmp_path,
        [
            relayed(NOON),
            event("smtp session ended", NOON + 1, helo="KMBT3A2F10", verdict="quit"),
            event(
                "smtp command refused",
                NOON + 2,
                client="192.168.1.41",
                command="AUTH",
                reply="502 no",
                advice="log off",
            ),
        ],
    )
    async with browsing(tmp_path) as browser:
        page = words((await browser.get("devices")).text)
    first, _, second = page.partition("192.168.1.41")[2].partition("192.168.1.40")
    assert first.startswith(" never 2026-01-01 12:00:02 UTC a command was refused: 502 no log off 0 sent, 1 refusal")
    assert second.startswith(" KMBT3A2F10, probably Konica Minolta 2026-01-01 12:00:00 UTC – 1 sent")


async def test_pages_of_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "PAGE", 2)
    await recorded(tmp_path, [relayed(NOON + number, client=f"192.168.1.{number}") for number in range(5)])
    async with browsing(tmp_path) as browser:
        seen = []
        path = "devices"
        while path:
            html = (await browser.get(path)).text
            seen += [number for number in range(5) if f"devices/192.168.1.{number}" in html]
            path = (
                html.partition('rel="next"')[0].rpartition('href="./')[2].partition('"')[0] if "Older" in html else ""
            )
        assert seen == [3, 4, 1, 2, 0]
        assert "There are no more devices" in words((await browser.get("devices?page=4")).text)


async def test_an_address_leads_to_its_page(tmp_path: Path) -> None:
    async with browsing(tmp_path) as browser:
        for given, path in (("192.168.1.9", "192.168.1.9"), ("::ffff:10.0.0.1", "10.0.0.1"), ("FE80::1", "fe80::1")):
            assert (await browser.get(f"devices?address={given}")).headers["location"] == f"./devices/{path}"
        assert "is no address" in words((await browser.get("devices?address=scanner")).text)


async def test_one_device(tmp_path: Path) -> None:
    await recorded(tmp_path, [relayed(NOON, octets=5_000_000), relayed(NOON, client="192.168.1.41", octets=7)])
    async with browsing(tmp_path, SMTP_SENDER="scans@firm.example") as browser:
        page = words((await browser.get(f"devices/{CLIENT}")).text)
    assert "Last success 2026-01-01 12:00:00 UTC" in page
    assert "scan@firm.example → ann@firm.example · 5000 kB" in page
    assert "7 B" not in page
    assert "SMTP server 192.168.1.10 Port 25 Encryption (SSL/TLS) off Login (authentication) off" in page
    assert "the proxy sends as scans@firm.example" in page
    assert "POP3 server 192.168.1.10 Port 110" in page


async def test_a_device_that_has_never_come(tmp_path: Path) -> None:
    await recorded(tmp_path, [])
    async with browsing(tmp_path) as browser:
        page = words((await browser.get("devices/192.168.1.99?maker=HP")).text)
    assert "has not come within the time of the history" in page
    assert "Always use secure connection" in page


# What to set


@pytest.mark.parametrize("maker", [*MAKERS, "other"])
def test_each_maker_has_words(maker: str) -> None:
    made = recipe(CLIENT, maker, read({}), {"SMTP": (("10.0.0.1", 2525),)}, tls=False)
    general = recipe(CLIENT, "other", read({}), {}, tls=False).where
    assert (made.where == general) is (maker == "other")
    assert not made.reading


@pytest.mark.parametrize(
    ("environ", "login"),
    [
        ({}, "off"),
        ({"SMTP_AUTH": "any"}, "off; if it insists on one, any user name and password"),
        ({"SMTP_AUTH": "accounts"}, "user name and password of a user in ACCOUNTS_FILE"),
    ],
)
def test_what_login_a_device_needs(environ: dict[str, str], login: str) -> None:
    made = recipe(CLIENT, "other", read(environ), {"SMTP": (("10.0.0.1", 25),)}, tls=False)
    assert dict(made.sending)["Login (authentication)"].words == login


@pytest.mark.parametrize(
    ("listening", "tls", "words"),
    [
        ({}, False, "off"),
        ({}, True, "off, or STARTTLS"),
        ({"POP3S": (("10.0.0.1", 995),)}, True, "off, or STARTTLS; or SSL/TLS with port 995"),
    ],
)
def test_what_encryption_a_device_can_use(listening: recipes.Places, tls: bool, words: str) -> None:
    made = recipe(CLIENT, "other", read({}), {"POP3": (("10.0.0.1", 110),), **listening}, tls=tls)
    assert dict(made.reading)["Encryption (SSL/TLS)"].words == words


@pytest.mark.parametrize(
    ("bound_to", "device", "container", "shown"),
    [
        ("10.0.0.1", "10.0.0.9", False, "10.0.0.1"),
        ("0.0.0.0", "127.0.0.1", False, "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1", True, "the address of the machine that runs the container"),
        ("10.0.0.1", "fe80::1", True, "the address of the machine that runs the container"),
        ("0.0.0.0", "scanner", False, "the address of this machine in the device’s network"),
    ],
)
def test_which_address_the_device_gets(
    monkeypatch: pytest.MonkeyPatch, bound_to: str, device: str, container: bool, shown: str
) -> None:
    monkeypatch.setattr(recipes, "in_container", lambda: container)
    made = recipe(device, "other", read({}), {"SMTP": ((bound_to, 25),)}, tls=False)
    assert dict(made.sending)["SMTP server"].words == shown


# Live


async def opened(served: Served, what: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The stream, after its head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(f"GET /devices/{CLIENT}/trace/{what} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head
    assert b"x-accel-buffering: no" in head
    return reader, writer


async def line_with(reader: asyncio.StreamReader, word: bytes) -> bytes:
    async with asyncio.timeout(50):
        while word not in (line := await reader.readline()):
            assert line
    return line


def say(text: str) -> None:
    with bound(client=CLIENT, session="s1"):
        log.dialogue(_smtp, "C", text)


async def test_a_dialogue_as_events(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(tmp_path) as served:
        reader, writer = await opened(served, "events")
        await line_with(reader, b"event: begin")
        say("HELO <script>\r\nevent: end")
        with bound(client="192.168.1.99"):
            log.dialogue(_smtp, "C", "another device")
            log.octets(_smtp, log.HEADER, "content", b"Subject: secret")
        with bound(client=CLIENT):
            log.octets(_smtp, log.HEADER, "content", b"Subject: secret")
        say("QUIT")
        first = await line_with(reader, b'data: {"time')
        assert json.loads(first.removeprefix(b"data: "))["text"].split(maxsplit=2)[2].startswith("C: HELO <script>")
        # Nothing of the other device, and nothing of a message.
        assert b"QUIT" in await line_with(reader, b'data: {"time')
        (begun,) = [record for record in caplog.records if record.getMessage() == "trace begins"]
        assert log.facts_of(begun) == {"address": CLIENT, "content": "no", "by": "user local, 127.0.0.1"}
        # The reader leaves, and nobody watches any more.
        writer.close()
        await until(lambda: "trace ended" in caplog.text)


async def test_a_dialogue_as_text(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        reader, writer = await opened(served, "lines")
        await line_with(reader, b"watching 192.168.1.40")
        say("MAIL FROM:<a@b.example>")
        assert b"s1           device  C: MAIL FROM:<a@b.example>" in await line_with(reader, b"MAIL")
        writer.close()


async def test_the_dialogue_ends_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MOST_SECONDS", 0.05)
    async with serving(tmp_path) as served:
        reader, writer = await opened(served, "lines")
        await line_with(reader, b"It has ended")
        writer.close()


async def test_the_dialogue_ends_when_the_service_does(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tmp_path) as served:
        reader, writer = await opened(served, "lines")
        await line_with(reader, b"watching")
    assert await reader.read() == b"\r\n0\r\n\r\n"
    assert "Traceback" not in caplog.text
    writer.close()


async def test_something_moves_while_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "BEAT_SECONDS", 0.01)
    async with serving(tmp_path) as served:
        reader, writer = await opened(served, "events")
        await line_with(reader, b": \n")
        writer.close()


async def test_a_long_dialogue_is_not_cut_off_as_other_answers_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(watching, "BEAT_SECONDS", 0.05)
    async with serving(tmp_path) as served:
        reader, writer = await opened(served, "events")
        for _ in range(12):
            await line_with(reader, b": \n")
        writer.close()


async def test_so_many_may_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watching, "MOST_AT_ONCE", 1)
    caplog.set_level(logging.INFO)
    async with serving(tmp_path) as served:
        reader, writer = await opened(served, "events")
        await line_with(reader, b"event: begin")
        second, also = await asyncio.open_connection("127.0.0.1", served.port)
        also.write(f"GET /devices/{CLIENT}/trace/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert b" 503 " in await second.readline()
        await line_with(second, b"Too many watch a device already")
        also.close()
        writer.close()
        await until(lambda: "trace ended" in caplog.text)
        _, again = await opened(served, "events")
        again.close()


async def test_the_page_works_without_a_script(tmp_path: Path) -> None:
    async with browsing(tmp_path) as browser:
        html = (await browser.get(f"devices/{CLIENT}/trace")).text
    assert f'href="../../devices/{CLIENT}/trace/lines"' in html
    assert f'data-stream="../../devices/{CLIENT}/trace/events"' in html
