"""Filters, our own lines, and what they leave alone, from the device's octets to the relay's."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_email_proxy import log
from legacy_email_proxy.contracts import Client, Envelope, Failure, Filter, Header, Refused, Unreachable
from legacy_email_proxy.relays.filtered import FilteredRelay
from legacy_email_proxy.smtp.headers import MAX_HEADER_OCTETS, HeaderOptions
from legacy_email_proxy.smtp.rewriting import FilterBroken, Rewriting
from smtp.conftest import StartLeg
from smtp.relays import MemoryRelay

CLIENT = Client("192.168.1.7", "s12", "scanner")
ENVELOPE = Envelope(CLIENT, "dev@x", "dev@x", ("b@y",))
ALL = HeaderOptions("proxy.example", received=True, add_missing=True)
RECEIVED = HeaderOptions("proxy.example", received=True)
BCC = HeaderOptions("proxy.example", remove_bcc=True)


class Scripted(Filter):
    """Does to the envelope and header what it is told."""

    def __init__(
        self,
        path: Callable[[str], object] = lambda path: path,
        header: Callable[[Header], None] = lambda header: None,
    ) -> None:
        self._path = path
        self._header = header
        self.seen: list[Envelope] = []

    async def reverse_path(self, envelope: Envelope) -> str:
        self.seen.append(envelope)
        return self._path(envelope.reverse_path)  # type: ignore[return-value]

    async def forward_path(self, envelope: Envelope, forward_path: str) -> str:
        self.seen.append(envelope)
        return self._path(forward_path)  # type: ignore[return-value]

    async def header(self, envelope: Envelope, header: Header) -> None:
        self.seen.append(envelope)
        self._header(header)


def fails(error: Exception) -> Callable[..., Any]:
    def fail(*_: object) -> None:
        raise error

    return fail


async def through(rewriting: Rewriting, *pieces: bytes, envelope: Envelope = ENVELOPE) -> list[bytes]:
    async def content() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    outgoing = rewriting.content(envelope, envelope.forward_paths, "ESMTP", content())
    return [piece async for piece in outgoing]


def tag(name: str) -> Callable[[Header], None]:
    return lambda header: header.add(name, "1")


CONTENT = st.lists(
    st.sampled_from([b"A: 1", b"Date: x", b" f", b"text", b".", b"\r\n", b"\r\n\r\n", b"\xff", b"Bcc: x"])
).map(b"".join)


@given(CONTENT, st.lists(st.integers(0, 80)), st.sampled_from([HeaderOptions(), RECEIVED, ALL]))
async def test_the_octets_behind_our_own_lines_are_the_devices(
    content: bytes, places: list[int], options: HeaderOptions
) -> None:
    ends = sorted(min(place, len(content)) for place in places)
    pieces = [content[a:b] for a, b in zip([0, *ends], [*ends, len(content)], strict=True)]
    passed = b"".join(await through(Rewriting(options), *pieces))
    assert passed.endswith(content)
    own = passed.removesuffix(content)
    assert re.fullmatch(rb"((Received|From|Date|Message-ID): [^\n]*\r\n(\t[^\n]*\r\n)*)*(\r\n)?", own)
    assert bool(own) or options in (HeaderOptions(),)


async def test_a_small_message_stays_in_one_piece() -> None:
    (piece,) = await through(Rewriting(ALL), b"Subject: x\r\n\r\nbody\r\n")
    assert piece.endswith(b"\r\nSubject: x\r\n\r\nbody\r\n")


async def test_the_body_begins_to_stream_when_the_header_has_ended() -> None:
    asked: list[bytes] = []

    async def content() -> AsyncIterator[bytes]:
        for piece in (b"Subject: x\r\n", b"\r\nbo", b"dy\r\n", b"more\r\n"):
            asked.append(piece)
            yield piece

    outgoing = Rewriting().content(ENVELOPE, (), "SMTP", content())
    assert await anext(outgoing) == b"Subject: x\r\n\r\nbo"
    assert len(asked) == 2
    assert await anext(outgoing) == b"dy\r\n"
    assert not outgoing.ended


HEADLESS = {
    b"Zone 1 is open\r\n": b"\r\nZone 1 is open\r\n",
    b" indented\r\n": b"\r\n indented\r\n",
    b"\r\ntext\r\n": b"\r\ntext\r\n",
    b"": b"\r\n",
}


@pytest.mark.parametrize("content", HEADLESS)
async def test_text_without_a_header_gets_one(content: bytes) -> None:
    passed = b"".join(await through(Rewriting(ALL), content))
    header, _, text = passed.partition(b"\r\n\r\n")
    assert [line.split(b":")[0] for line in header.split(b"\r\n") if not line.startswith(b"\t")] == [
        b"Received", b"From", b"Date", b"Message-ID",
    ]  # fmt: skip
    assert b"\r\n" + text == HEADLESS[content]
    # With nothing to put above it, it is left alone.
    assert b"".join(await through(Rewriting(), content)) == content


async def test_filters_work_in_order_and_see_what_the_others_left() -> None:
    first = Scripted(lambda path: f"1{path}", tag("X-1"))
    second = Scripted(lambda path: f"2{path}", tag("X-2"))
    rewriting = Rewriting(RECEIVED, {"first": first, "second": second})
    envelope = await rewriting.mail(CLIENT, "dev@x", {"SIZE": "1"})
    assert (envelope.given, envelope.reverse_path, envelope.parameters) == ("dev@x", "21dev@x", {"SIZE": "1"})
    assert [seen.reverse_path for seen in (*first.seen, *second.seen)] == ["dev@x", "1dev@x"]
    assert await rewriting.recipient(envelope, ["a@y"], "b@y") == "21b@y"
    assert second.seen[-1].forward_paths == ("a@y",)
    passed = b"".join(await through(rewriting, b"A: 1\r\n\r\nx", envelope=envelope))
    assert passed.endswith(b"\r\nA: 1\r\nX-1: 1\r\nX-2: 1\r\n\r\nx")
    assert passed.startswith(b"Received: ")
    assert second.seen[-1] == envelope


async def test_what_a_filter_adds_is_not_missing() -> None:
    rewriting = Rewriting(HeaderOptions(add_missing=True), {"one": Scripted(header=tag("Date"))})
    assert b"".join(await through(rewriting, b"From: x\r\nMessage-ID: x\r\n\r\n")) == (
        b"From: x\r\nMessage-ID: x\r\nDate: 1\r\n\r\n"
    )


async def test_bcc_goes_where_that_is_asked_for() -> None:
    content = b"A: 1\r\nBCC: x,\r\n y\r\nB: 2\r\nbcc : z\r\nX-Bcc: 1\r\n\r\nBcc: stays\r\n"
    assert b"".join(await through(Rewriting(BCC), content)) == b"A: 1\r\nB: 2\r\nX-Bcc: 1\r\n\r\nBcc: stays\r\n"
    assert b"".join(await through(Rewriting(), content)) == content


@pytest.mark.parametrize("rewriting", [Rewriting(BCC), Rewriting(filters={"one": Scripted()})], ids=["bcc", "filter"])
async def test_nothing_passes_unexamined(rewriting: Rewriting) -> None:
    with pytest.raises(Refused, match=r"552 5\.3\.4"):
        await through(rewriting, b"A: " + b"x" * MAX_HEADER_OCTETS, b"\r\nBcc: x\r\n\r\n")


@pytest.mark.parametrize("line", [b"A: 1\r\n", b"A: " + b"x" * (MAX_HEADER_OCTETS + 10) + b"\r\n"])
async def test_an_endless_header_passes_where_nobody_looks(line: bytes) -> None:
    content = line * (MAX_HEADER_OCTETS // len(line) + 2)
    passed = b"".join(await through(Rewriting(ALL), content, b"Date: x\r\n\r\n"))
    own = passed.removesuffix(content + b"Date: x\r\n\r\n")
    assert re.fullmatch(rb"Received: [^\n]*\n(\t[^\n]*\n)+", own)


@pytest.mark.fault("A34")
async def test_a_message_in_circles_is_refused() -> None:
    with pytest.raises(Refused, match=r"554 5\.4\.6"):
        await through(Rewriting(), b"Received: x\r\n" * 101 + b"\r\n")


BROKEN = {
    "bug": (KeyError("x"), FilterBroken, "filter one: KeyError: 'x'"),
    "trouble": (Unreachable("no LDAP", look_at="ACME_LDAP"), Failure, r"filter one: no LDAP \(see ACME_LDAP\)"),
    "verdict": (Refused(550, "5.7.1", "no"), Refused, r"filter one: 550 5\.7\.1 no"),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_the_log_names_the_filter(case: str) -> None:
    error, kind, text = BROKEN[case]
    rewriting = Rewriting(filters={"good": Scripted(), "one": Scripted(fails(error), fails(error))})
    for attempt in (
        lambda: rewriting.mail(CLIENT, "a@x", {}),
        lambda: rewriting.recipient(ENVELOPE, (), "a@x"),
        lambda: through(rewriting, b"A: 1\r\n\r\n"),
    ):
        with pytest.raises(kind, match=text) as caught:
            await attempt()
        assert type(caught.value) is kind


@pytest.mark.parametrize("path", ["a@x\r\nRSET", "a@x> SIZE=1", "<a@x>", "a b", None, 5, "a@x ", " a@x"])
async def test_a_filter_gives_one_path_and_no_more(path: object) -> None:
    rewriting = Rewriting(filters={"one": Scripted(lambda _: path)})
    for asked in (rewriting.mail(CLIENT, "a@x", {}), rewriting.recipient(ENVELOPE, (), "a@x")):
        with pytest.raises(FilterBroken, match="filter one: gave "):
            await asked


async def test_the_null_path_is_a_sender_and_no_recipient() -> None:
    rewriting = Rewriting(filters={"one": Scripted(lambda _: "")})
    assert (await rewriting.mail(CLIENT, "a@x", {})).reverse_path == ""
    with pytest.raises(FilterBroken):
        await rewriting.recipient(ENVELOPE, (), "a@x")


async def test_nothing_comes_behind_an_error() -> None:
    async def content() -> AsyncIterator[bytes]:
        yield b"A: 1\r\n\r\n"
        yield b"body"

    rewriting = Rewriting(filters={"one": Scripted(header=fails(Refused(550, "5.7.1", "no")))})
    outgoing = rewriting.content(ENVELOPE, (), "SMTP", content())
    for _ in range(3):
        with pytest.raises(Refused):
            await anext(outgoing)
    assert not outgoing.ended


# Through the session, the handler and a relay.

SAID = (
    b"EHLO scanner\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nRCPT TO:<c@y>\r\nDATA\r\n"
    b"Subject: 1\r\n\r\n..dot\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<b@y>\r\nDATA\r\nno header\r\n.\r\nQUIT\r\n"
)


def codes(replies: bytes) -> list[bytes]:
    return [line[:9] for line in replies.split(b"\r\n") if line[3:4] == b" "]


async def test_what_the_relay_gets(start_leg: StartLeg) -> None:
    rewriting = Rewriting(ALL, {"one": Scripted(lambda path: path and f"new-{path}", tag("X-Filtered"))})
    leg = await start_leg(rewriting=rewriting)
    await leg.exchange(SAID)
    first, second = leg.relay.delivered
    assert (first.reverse_path, first.forward_paths) == ("new-a@x", ["new-b@y", "new-c@y"])
    assert first.content.endswith(b"\r\nSubject: 1\r\nX-Filtered: 1\r\n\r\n.dot\r\n")
    assert re.sub(rb"\s+", b" ", first.content).startswith(
        b"Received: from scanner ([127.0.0.1]) by proxy.example (Legacy Email Proxy) with ESMTP id " +
        first.client.session.encode() + b"; "
    )  # fmt: skip
    assert b"From: new-a@x\r\n" in first.content
    assert (second.reverse_path, second.forward_paths) == ("", ["new-b@y"])
    assert second.content.endswith(b"\r\nX-Filtered: 1\r\n\r\nno header\r\n")


def at(method: str, error: Exception) -> Filter:
    one = Scripted()
    setattr(one, method, fails(error))  # it isn't even a coroutine function
    return one


@pytest.mark.parametrize(
    ("method", "error", "replies"),
    [
        ("reverse_path", Refused(550, "5.7.1", "no"), [b"550 5.7.1", b"503 5.5.1", b"503 5.5.1", b"503 5.5.1"]),
        ("reverse_path", KeyError(), [b"451 4.3.0", b"503 5.5.1", b"503 5.5.1", b"503 5.5.1"]),
        ("forward_path", Refused(450, "4.7.1", "no"), [b"250 2.1.0", b"450 4.7.1", b"450 4.7.1", b"451 4.5.1"]),
        ("forward_path", KeyError(), [b"250 2.1.0", b"451 4.3.0", b"451 4.3.0", b"451 4.5.1"]),
        ("header", Refused(554, "5.6.0", "no"), [b"250 2.1.0", b"250 2.1.5", b"250 2.1.5", b"354 End d", b"554 5.6.0"]),
        ("header", Unreachable("x"), [b"250 2.1.0", b"250 2.1.5", b"250 2.1.5", b"354 End d", b"451 4.3.0"]),
        ("header", KeyError(), [b"250 2.1.0", b"250 2.1.5", b"250 2.1.5", b"354 End d", b"451 4.3.0"]),
    ],
)
async def test_what_the_device_reads(
    start_leg: StartLeg, caplog: pytest.LogCaptureFixture, method: str, error: Exception, replies: Sequence[bytes]
) -> None:
    leg = await start_leg(rewriting=Rewriting(filters={"acme": at(method, error)}))
    # Behind a DATA that is refused nothing may come without waiting.
    content = b"A: 1\r\n\r\nRSET\r\n.\r\nQUIT\r\n" if method == "header" else b""
    said = SAID[: SAID.index(b"Subject")] + content
    with caplog.at_level(logging.INFO, "legacy_email_proxy.smtp"):
        bye = [b"221 2.0.0"] if content else []
        assert codes(await leg.exchange(said)) == [b"220 proxy", b"250 HELP", *replies, *bye]
    assert leg.relay.delivered == []
    causes = [record.facts["cause"] for record in caplog.records if "cause" in getattr(record, "facts", {})]  # type: ignore[attr-defined]
    assert causes
    assert all("filter acme: " in cause for cause in causes)


async def test_our_lines_do_not_count_against_the_limit(start_leg: StartLeg) -> None:
    leg = await start_leg(max_octets=65536, rewriting=Rewriting(ALL))
    said = b"EHLO x\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\n"
    whole = b"A: 1\r\n\r\n" + b"x" * (65536 - 10) + b"\r\n"
    assert codes(await leg.exchange(said + whole + b".\r\nQUIT\r\n"))[-2:] == [b"250 2.0.0", b"221 2.0.0"]
    assert codes(await leg.exchange(said + b"x" + whole + b".\r\nQUIT\r\n"))[-2:] == [b"552 5.3.4", b"221 2.0.0"]
    assert len(leg.relay.delivered) == 1


async def test_a_header_that_was_no_longer_waited_for_is_not_lost() -> None:
    class Slow(Scripted):
        async def header(self, envelope: Envelope, header: Header) -> None:
            if not self.seen:
                self.seen.append(envelope)
                await asyncio.Event().wait()
            header.add("X-Seen", "yes")

    async def pieces() -> AsyncIterator[bytes]:
        yield b"Subject: x\r\n\r\none\r\n"
        yield b"two\r\n"

    content = Rewriting(filters={"slow": Slow()}).content(ENVELOPE, [], "SMTP", pieces())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(content), 0.01)
    assert b"".join([piece async for piece in content]) == b"Subject: x\r\nX-Seen: yes\r\n\r\none\r\ntwo\r\n"


class Watcher(log.Observer):
    """Sees whole messages, as `trace --content` does."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def take(self, record: logging.LogRecord) -> None:
        if (text := record.getMessage()).startswith("content: "):
            self.lines.append(text[9:])


@pytest.fixture
def traced() -> Iterator[list[str]]:
    watcher = Watcher()
    log.observe(watcher, log.CONTENT)
    yield watcher.lines
    log.unobserve(watcher)


@pytest.mark.parametrize("options", [HeaderOptions(), HeaderOptions(shorten_lines=True)])
async def test_a_trace_shows_the_whole_content(traced: list[str], options: HeaderOptions) -> None:
    await through(Rewriting(options), b"Subject: x\r\n", b"\r\none\r\n", b"two\r\n", b"three")
    assert traced == ["Subject: x", "", "one", "two", "three"]


@pytest.mark.parametrize(("own", "again"), [("", []), ("Own", ["Subject: x", "Own: 1"])])
async def test_a_trace_shows_it_once_and_the_header_again_where_an_account_changes_it(
    traced: list[str], own: str, again: list[str]
) -> None:
    account = FilteredRelay(MemoryRelay(), {"own": Scripted(header=tag(own) if own else lambda header: None)})

    async def content() -> AsyncIterator[bytes]:
        for piece in await through(Rewriting(), b"Subject: x\r\n\r\none\r\n"):
            yield piece

    async with account.transaction(CLIENT, "a@b", {}) as transaction:
        await transaction.add_recipient("c@d", {})
        await transaction.send(content())
    assert traced == ["Subject: x", "", "one", *again]
