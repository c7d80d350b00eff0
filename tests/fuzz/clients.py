"""What clients send: whole SMTP and POP3 sessions, content, logins."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from contextlib import suppress
from ipaddress import ip_network

from fuzz.target import Target, cut
from legacy_email_proxy import sasl
from legacy_email_proxy.access import Admission
from legacy_email_proxy.contracts import Login, LoginRefused
from legacy_email_proxy.pop3.requests import Verdict
from legacy_email_proxy.pop3.wire import MAX_LINE_OCTETS
from legacy_email_proxy.replies import printable
from legacy_email_proxy.smtp.connection import Connection, SessionOptions
from legacy_email_proxy.smtp.content import ChunkDecoder, DataDecoder, LFDataDecoder
from legacy_email_proxy.smtp.handler import RelayHandler
from legacy_email_proxy.smtp.reading import Patience
from legacy_email_proxy.smtp.session import SMTPSession
from pop3.maildrops import MemoryMaildrop, Play
from smtp.relays import MemoryRelay
from smtp.wire import Wire, decoded

__all__ = ("TARGETS",)

MAX_OCTETS = 2000
_LOOPBACK = (ip_network("127.0.0.0/8"),)


async def _verify(login: Login, address: str) -> None:
    if login.user == "x":
        raise LoginRefused("not x")


async def _spoken(pieces: list[bytes]) -> tuple[bytes, str, list[tuple[object, ...]]]:
    """What the session says, how it ends, and which messages the relay got."""
    relay, verdicts, largest = MemoryRelay(), [""], max(map(len, pieces), default=0)
    admission = Admission(_LOOPBACK, 10, 10)
    options = SessionOptions(
        "proxy.test", MAX_OCTETS, Patience(60, 60), admission, verifier=_verify, login_delay_seconds=0
    )

    def began(connection: Connection) -> None:
        connection._log_end = verdicts.append  # type: ignore[method-assign, assignment]

    protocol = SMTPSession(RelayHandler(relay, MAX_OCTETS), options, on_begin=began).protocol
    wire = Wire(protocol)
    task = protocol._handler_coroutine
    assert task is not None

    async def until_it_waits() -> None:
        while not task.done() and ((waiter := protocol.incoming._waiter) is None or waiter.done()):  # noqa: ASYNC110
            await asyncio.sleep(0)

    await until_it_waits()
    for piece in pieces:
        if not task.done():
            protocol.data_received(piece)
            await until_it_waits()
            assert len(protocol.incoming) <= sasl.MAX_RESPONSE_OCTETS + largest
    protocol.eof_received()
    await task
    wire.close()
    assert relay.entered == relay.left
    got: list[tuple[object, ...]] = [
        (each.reverse_path, each.parameters, each.forward_paths, each.recipient_parameters, each.content)
        for each in relay.delivered
    ]
    return wire.said, verdicts[-1], got


_REPLIES = re.compile(rb"(?:[2-5]\d\d[ -][\x20-\x7e]*\r\n)*")
_REFUSALS = re.compile(rb"552 5\.3\.4 [^\r]*|554 5\.9\.9 [^\r]*")
"""Which of them a message gets that is too large, and that the relay stops reading, depends on what came first."""


def smtp_session(octets: bytes, cuts: Collection[int]) -> None:
    whole = asyncio.run(_spoken([octets] if octets else []))
    parts = asyncio.run(_spoken(cut(octets, cuts)))
    for said, verdict, _ in (whole, parts):
        assert _REPLIES.fullmatch(said), said
        assert not verdict.startswith("failed"), verdict
    if whole[1].startswith("sent content behind a refused DATA"):
        # That it did not wait for the reply can only be seen in what has arrived together.
        assert parts[0].startswith(whole[0])
    else:
        assert (_REFUSALS.sub(b"refused", parts[0]), *parts[1:]) == (_REFUSALS.sub(b"refused", whole[0]), *whole[1:])


def smtp_content(octets: bytes, cuts: Collection[int]) -> None:
    pieces = cut(octets, cuts)
    for kind in (DataDecoder, LFDataDecoder):
        found = [decoded(kind(), given) for given in ([octets], pieces)]
        assert found[0] == found[1]
        assert not re.search(rb"(?<!\r)\n|\r(?!\n)", found[0][0])
    chunked = ChunkDecoder()
    whole = ChunkDecoder().feed(octets, last=True)
    assert b"".join(chunked.feed(piece, last=False) for piece in pieces) + chunked.feed(b"", last=True) == whole


_MAILBOX = {"a": b"S: 1\r\n\r\n.one\r\n", "b": b"S: 2\n\nbare\nlf", "c": b"", "d": b"S: 4\r\n\r\n" + b"x" * 3000}


def pop3_session(octets: bytes, cuts: Collection[int]) -> None:
    def played(pieces: list[bytes]) -> tuple[bytes, object, list[tuple[str, ...]]]:
        play = Play(MemoryMaildrop(dict(_MAILBOX), fail_open=[LoginRefused("no")]))
        play.on_wait = lambda session: _is_bounded(session._reader.held())
        play.greet()
        for piece in pieces:
            play.feed(piece)
        play.feed(b"")
        if play.verdict is not Verdict.QUIT:
            assert not play.maildrop.commits
        return bytes(play.out), play.closed, play.maildrop.commits

    whole = played([octets] if octets else [])
    assert played(cut(octets, cuts)) == whole
    assert whole[0].endswith(b"\r\n")


def _is_bounded(held: int) -> None:
    assert held < MAX_LINE_OCTETS


def logins(octets: bytes, cuts: Collection[int]) -> None:
    for mechanism in sasl.Mechanism:
        for judged in (False, True):
            exchange = sasl.begin(mechanism, judged=judged)
            with suppress(sasl.Malformed):
                for at, line in enumerate(octets.split(b"\n")):
                    assert sasl.challenge(exchange).isascii()
                    login = exchange.respond(sasl.decode(line) if at else sasl.initial(line))
                    if login is not None:
                        assert not set(login.user + login.password.reveal()) & set("\0\r\n")
                        break
    assert printable(octets.decode("utf-8", "surrogateescape")).isascii()


_ENVELOPE = b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"
_CONTENT_WORDS = (
    b"\r",
    b"\n",
    b".",
    b"\r\n",
    b"\r\r\n",
    b"\r\n.",
    b"\r\n.\r\n",
    b"\n.\n",
    b"\r" * 15,
    b"a",
    b"\0",
    b"\xff",
)
TARGETS = {
    "smtp_session": Target(
        smtp_session,
        (
            *(_ENVELOPE, _ENVELOPE + b"DATA\r\n", b"EHLO x\r\n", b"HELO x\r\n", b"MAIL FROM:<a@b>", b"RCPT TO:<c@d>"),
            *(
                b"DATA\r\n",
                b"BDAT 3\r\n",
                b"BDAT 0 LAST\r\n",
                b"BDAT 5 LAST\r\n",
                b"BDAT 3000\r\n",
                b"BDAT x\r\n",
                b"QUIT\r\n",
            ),
            *(
                b"RSET\r\n",
                b"NOOP\r\n",
                b"HELP\r\n",
                b"VRFY x\r\n",
                b"AUTH PLAIN AGEAYg==\r\n",
                b"AUTH LOGIN\r\n",
                b"eA==\r\n",
            ),
            *(b"MAIL FROM:<>\r\n", b"RCPT TO:<refuse-550@x>\r\n", b"RCPT TO:<down@x>\r\n", b"MAIL FROM:<bug@x>\r\n"),
            *(
                b" SIZE=9",
                b" BODY=8BITMIME",
                b" SMTPUTF8",
                b" NOTIFY=NEVER",
                b" ORCPT=rfc822;a",
                b"X-Verdict: down@\r\n",
            ),
            *(
                b"X-Stop-Reading: yes\r\n",
                b"x" * 2050,
                b"GET / HTTP/1.1\r\n",
                b"\x16",
                b"STARTTLS\r\n",
                b"AUTH x\r\n",
                b"*\r\n",
            ),
            *(b"RCPT TO:<a@b>\r\n" * 40, b"\xc3\xa4@x>\r\n", *_CONTENT_WORDS),
        ),
    ),
    "smtp_content": Target(smtp_content, _CONTENT_WORDS),
    "pop3_session": Target(
        pop3_session,
        (
            *(
                b"USER u\r\nPASS p\r\n",
                b"USER u\r\n",
                b"PASS p\r\n",
                b"AUTH PLAIN AGEAYg==\r\n",
                b"AUTH LOGIN\r\n",
                b"eA==\r\n",
            ),
            *(
                b"STAT\r\n",
                b"LIST\r\n",
                b"LIST 1\r\n",
                b"UIDL\r\n",
                b"UIDL 9\r\n",
                b"RETR 1\r\n",
                b"RETR 4\n",
                b"TOP 2 1\r\n",
            ),
            *(
                b"TOP 4 0\r\n",
                b"DELE 1\r\n",
                b"DELE 3\r\n",
                b"RSET\r\n",
                b"NOOP\r\n",
                b"LAST\r\n",
                b"CAPA\r\n",
                b"QUIT\r\n",
            ),
            *(
                b"XTND XLST S\r\n",
                b"XTND ",
                b"APOP u x\r\n",
                b"*\r\n",
                b"x" * 1030,
                b"\r\n",
                b"\n",
                b"\r",
                b" ",
                b"\x16",
                b"\0",
            ),
            *(b"GET / HTTP/1.1\r\n", b"STLS\r\n", b"99999999999999999999", b"-1", b"UTF8\r\n"),
        ),
    ),
    "logins": Target(
        logins, (b"AGEAYg==", b"eA==", b"eA", b"=", b"*", b"\n", b"AAA=", b"DQo=", b"/w==", b"\0", b"\xff")
    ),
}
