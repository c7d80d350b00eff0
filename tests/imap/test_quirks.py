"""What servers in the field do wrong, replayed by the tests with the quirk's mark."""

from __future__ import annotations

from typing import Any

import pytest

import matrix
from fakes.imap import Action, Connection, Drop, Mailbox, Message
from imap.support import CLIENT, login, pair, read, read_top
from legacy_email_proxy.contracts import Disconnected, MessageGone, MessageUnavailable, Overloaded
from legacy_email_proxy_plugins.imap.response_codes import Busy
from pages import text
from realservers.certificates import Certificates

ONE = b"Subject: one\r\n\r\nfirst\r\n"


@pytest.mark.quirk("imap-B1")
async def test_only_body_peek_is_asked_for(certificates: Certificates) -> None:
    """ICloud answers OK and nothing to FETCH RFC822; anything without PEEK would set Seen."""

    def icloud(_: Connection, command: str) -> Action:
        return None if "BODY.PEEK[" in command else b"TAG OK nothing\r\n"

    async with pair(certificates.good, ONE, script={"BODY": icloud}) as (maildrop, server):  # type: ignore[dict-item]
        async with maildrop.open(CLIENT, None) as session:
            assert await read(session, 0) == ONE
            assert await read_top(session, 0, 0) == ONE[: ONE.index(b"first")]
            assert await read_top(session, 0, 1) == ONE
    assert not any("RFC822)" in command or "BODY[" in command for command in server.commands)


SUBSTITUTE = b"""\
MIME-Version: 1.0\r
Content-Type: text/plain; charset="us-ascii"\r
From: Microsoft Exchange Server 2010\r
Subject: Retrieval using the IMAP4 protocol failed for the following\r
 message: 20004\r
Content-Transfer-Encoding: quoted-printable\r
\r
The server couldn't retrieve the following message:\r
\r
Subject: "Canceled: Meeting title"\r
"""
SENTENCE = b"Retrieval using the IMAP4 protocol failed for the following message: 752"

COURIER = b"""\
From: System Administrator <root@localhost>\r
Subject: message unavailable\r
\r
This message is no longer available on the server.\r
"""
HMAILSERVER = b"""\
From: Postmaster\r
Subject: Message undeliverable\r
Date: Mon, 30 Nov 2026 10:00:00 +0100\r
\r
The mail server could not deliver the message to you since the file C:\\Data\\{1}.eml does not exist on the server.\r
\r
The file may have been deleted by anti virus software running on the server.\r
\r
hMailServer\r
"""
RECEIVED = b"Received: from mail.example.test by mx.example.test; Mon, 30 Nov 2026 10:00:00 +0100\r\n"

# The octets, what RFC822.SIZE says (None: the truth), and whether it stands in for a message.
SUBSTITUTES = [
    (SUBSTITUTE, 4711, True),
    (SUBSTITUTE, 0, True),
    (b"subject: " + SENTENCE + b"\r\n\r\n", 1, True),
    (b"Subject: " + SENTENCE + b"\n\nx", 1, True),
    (SUBSTITUTE, None, False),
    (b"Subject: FW: " + SENTENCE + b"\r\n\r\nlook at this", 1, False),
    (b"Subject: " + SENTENCE + b" again\r\n\r\n", 1, False),
    (b"Subject: failure\r\n\r\nSubject: " + SENTENCE + b"\r\n", 1, False),
    (b"X-Subject: " + SENTENCE + b"\r\n\r\n", 1, False),
    (b"Subject: " + SENTENCE + b"\r\n\r\n" + b"x" * 9000, 1, False),
    (COURIER, 4711, True),
    (COURIER, 0, True),
    # It is listed with the substitute's size when the file was away already then.
    (COURIER, None, True),
    (COURIER.replace(b"\r\n", b"\n"), None, True),
    (COURIER + b"\r\nThis is what I see. Can you help me?\r\n", 1, False),
    (RECEIVED + COURIER, 1, False),
    (COURIER.replace(b"message unavailable", b"Re: message unavailable"), 1, False),
    (COURIER.replace(b"root@localhost", b"root@example.test"), 1, False),
    (b"From: me@example.test\r\nSubject: look\r\n\r\n" + COURIER, 1, False),
    (COURIER.replace(b"This message", b"Your printer"), 1, False),
    (HMAILSERVER, 4711, True),
    # Stored in the message's place for good, it is what there is now.
    (HMAILSERVER, None, False),
    (HMAILSERVER.replace(b"The mail server", b"We"), 4711, False),
    (HMAILSERVER.replace(b"From: Postmaster", b"From: Postmaster <postmaster@example.test>"), 4711, False),
]


@pytest.mark.quirk("imap-B2")
@pytest.mark.parametrize(("octets", "size", "substitute"), SUBSTITUTES)
async def test_substitutes(certificates: Certificates, octets: bytes, size: int | None, substitute: bool) -> None:
    box = Mailbox({1: Message(octets, size=size), 2: Message(ONE)})
    async with pair(certificates.good, mailbox=box) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            for lines in (None, 0, 3):
                if substitute:
                    with pytest.raises(MessageUnavailable):
                        await (read(session, 0) if lines is None else read_top(session, 0, lines))
                else:
                    whole = await (read(session, 0) if lines is None else read_top(session, 0, lines))
                    assert octets.startswith(whole)
            assert await read(session, 1) == ONE, "the session goes on"
        assert len(server.connections) == 1, "and over the same connection"


@pytest.mark.parametrize("lines", [0, 3])
async def test_a_substitute_for_a_moment(certificates: Certificates, lines: int) -> None:
    """The header comes when the file is away, and the message when it is there again."""
    instead, name = (COURIER, b"BODY[]<0>") if lines else (COURIER[: COURIER.index(b"This")], b"BODY[HEADER]")
    row = b"* 1 FETCH (UID 1 %b {%d}\r\n%b)\r\nTAG OK done\r\n" % (name, len(instead), instead)
    async with pair(certificates.good, ONE, script={("BODY", 1): row}) as (maildrop, _):
        async with maildrop.open(CLIENT, None) as session:
            assert await read_top(session, 0, lines) == ONE


@pytest.mark.quirk("imap-B3", "imap-B4")
@pytest.mark.fault("C15")
@pytest.mark.parametrize("off", [-29, -1, 1, 29, 100_000])
async def test_sizes_that_are_off(certificates: Certificates, off: int) -> None:
    message = ONE * 50
    box = Mailbox({1: Message(message, size=max(0, len(message) + off))})
    async with pair(certificates.good, mailbox=box) as (maildrop, _):
        async with maildrop.open(CLIENT, None) as session:
            assert session.entries[0].octets == len(message) + off, "LIST shows what the server says"
            assert await read(session, 0) == message, "RETR is complete"
            assert await read_top(session, 0, 10_000) == message


@pytest.mark.quirk("imap-B6")
async def test_a_message_that_gets_another_uid(certificates: Certificates) -> None:
    """Exchange gives a message that was changed by another protocol a new UID."""
    box = Mailbox({1: Message(ONE), 2: Message(b"two")})
    async with pair(certificates.good, mailbox=box) as (maildrop, _):
        async with maildrop.open(CLIENT, None) as session:
            before = [entry.unique_id for entry in session.entries]
            box.messages[9] = box.messages.pop(1)
            with pytest.raises(MessageGone):
                await read(session, 0)
            assert await read(session, 1) == b"two"
            await session.commit([before[0]])
        async with maildrop.open(CLIENT, None) as session:
            assert [entry.unique_id[:8] for entry in session.entries] == ["00000002", "00000009"]
            assert await read(session, 1) == ONE


@pytest.mark.quirk("imap-B8")
async def test_sequence_numbers_mean_nothing(certificates: Certificates) -> None:
    """Exchange 2010 confuses them after new mail, and names some above EXISTS."""
    rows = b"".join(b"* %d FETCH (UID %d RFC822.SIZE 7)\r\n" % pair for pair in ((99, 1), (99, 2), (1, 3)))
    async with pair(
        certificates.good, b"one", b"two", b"three", script={("LISTING", 1): rows + b"TAG OK x\r\n"}
    ) as (maildrop, server):  # fmt: skip
        async with maildrop.open(CLIENT, None) as session:
            assert [await read(session, position) for position in range(3)] == [b"one", b"two", b"three"]
            server.script["BODY"] = b"* 77 FETCH (UID 2 BODY[] {3}\r\ntwo)\r\n* 500 EXISTS\r\nTAG OK x\r\n"
            assert await read(session, 1) == b"two"
            await session.commit([session.entries[1].unique_id])
    numbered = ("FETCH", "STORE", "COPY", "MOVE", "EXPUNGE")
    assert not any(command.startswith(numbered) for command in server.commands), "all of them by UID"


@pytest.mark.quirk("imap-B10")
async def test_authenticated_but_not_connected(certificates: Certificates) -> None:
    """Exchange says so of throttling and missing mailboxes, but also after it took a wrong password."""
    async with pair(
        certificates.good, ONE, script={"SELECT": "BAD User is authenticated but not connected."}, POP3_LOGIN="backend"
    ) as (maildrop, server):  # fmt: skip
        with pytest.raises(Busy):
            async with maildrop.open(CLIENT, login()):
                pass
        for _ in range(5):
            with pytest.raises(Overloaded, match="left alone"):
                async with maildrop.open(CLIENT, login()):
                    pass
        assert server.times("PLAIN") == 1, "it is not asked on, as one who guesses would"


@pytest.mark.quirk("imap-B16")
async def test_a_bandwidth_limit_is_waited_out(certificates: Certificates) -> None:
    """Gmail counts octets per day, and blocks the account; bodies are read for RETR alone."""
    limit = "NO [OVERQUOTA] Account exceeded command or bandwidth limits. (Failure)"
    async with pair(certificates.good, ONE, ONE, ONE, script={("BODY", 1): limit}) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert sum(entry.octets for entry in session.entries) == 3 * len(ONE)
            assert server.times("BODY") == 0
            with pytest.raises(Busy):
                await read(session, 1)
            assert await read(session, 1) == ONE
    assert not any("BODY" in command and " 1 " in command for command in server.commands)


@pytest.mark.quirk("imap-B16")
@pytest.mark.fault("C17")
async def test_a_session_that_expired(certificates: Certificates) -> None:
    bye = Drop(b"* BYE Session expired, please login again.\r\n")
    async with pair(certificates.good, ONE, b"two", script={("BODY", 2): bye}) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert await read(session, 0) == ONE
            assert await read(session, 1) == b"two", "over a new connection, whose UIDVALIDITY was looked at"
        assert [command for command in server.connections[1].commands if "SELECT" in command] == ['SELECT "INBOX"']


@pytest.mark.quirk("imap-B20", "imap-B22")
async def test_fewer_messages_than_exist(certificates: Certificates) -> None:
    """Gmail and Yahoo cut off what they show; the count says nothing of what can be had."""
    select = b"* 10000 EXISTS\r\n* OK [UIDVALIDITY 1000000007] x\r\n* OK [UIDNEXT 3] x\r\nTAG OK [READ-WRITE] x\r\n"
    async with pair(certificates.good, ONE, b"two", script={"SELECT": select}) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert len(session.entries) == 2
            assert await read(session, 1) == b"two"
            await session.commit([session.entries[0].unique_id])
    assert "UID EXPUNGE 1" in server.commands


@pytest.mark.quirk("imap-B23")
async def test_unsafe_login(certificates: Certificates) -> None:
    """NetEase refuses SELECT to who has not said ID."""

    def netease(connection: Connection, _: str) -> Action:
        said = any(command.startswith('ID ("name" "') for command in connection.commands)
        return None if said else "NO SELECT Unsafe Login. Please contact kefu@188.com for help"

    async with pair(certificates.good, ONE, script={"SELECT": netease}) as (maildrop, server):  # type: ignore[dict-item]
        async with maildrop.open(CLIENT, None) as session:
            assert await read(session, 0) == ONE
        names = [command.split(" ")[0] for command in server.commands]
        assert names.index("AUTHENTICATE") < names.index("ID") < names.index("SELECT")


@pytest.mark.quirk("imap-B24")
async def test_select_and_never_examine(certificates: Certificates) -> None:
    """Courier's UIDVALIDITY is fixed by SELECT alone."""
    givens: list[dict[str, Any]] = [{}, {"POP3_READ_ONLY": True}, {"BACKEND_IMAP_DELETE": "keep"}]
    for given in givens:
        async with pair(certificates.good, ONE, script={"EXAMINE": "BAD no"}, **given) as (maildrop, server):
            async with maildrop.open(CLIENT, None) as session:
                assert await read(session, 0) == ONE
            await maildrop.probe()
        assert not any(command.startswith(("EXAMINE", "STATUS")) for command in server.commands)


@pytest.mark.quirk("imap-B26")
async def test_uids_that_begin_again(certificates: Certificates) -> None:
    """GNU imap4d starts at 1 when the folder was empty."""
    box = Mailbox.of(ONE, b"two")
    async with pair(certificates.good, mailbox=box) as (maildrop, _):
        async with maildrop.open(CLIENT, None) as session:
            before = {entry.unique_id for entry in session.entries}
            box.messages = {1: Message(b"another")}
            box.uidvalidity += 1
            with pytest.raises(Disconnected, match="UIDVALIDITY"):
                await session.commit(sorted(before))
        async with maildrop.open(CLIENT, None) as session:
            assert not before & {entry.unique_id for entry in session.entries}
            assert await read(session, 0) == b"another"
    assert list(box.messages) == [1]


@pytest.mark.quirk("imap-B32", "imap-B33")
async def test_no_search_at_all(certificates: Certificates) -> None:
    """Proton Bridge and Microsoft 365 refuse some, and the answer to one is a line of any length."""
    box = Mailbox.of(ONE, b"two")
    box.permanent_flags = r"\Deleted \*"
    refusing: dict[Any, Action] = {"SEARCH": "NO unsupported search query"}
    async with pair(
        certificates.good, mailbox=box, script=refusing, capabilities=("AUTH=PLAIN",), POP3_NEWEST_DAYS=36500,
        POP3_NEWEST_MESSAGES=5, BACKEND_IMAP_DELETE="flag",
    ) as (maildrop, server):  # fmt: skip
        async with maildrop.open(CLIENT, None) as session:
            await session.commit([session.entries[0].unique_id])
        async with maildrop.open(CLIENT, None) as session:
            assert len(session.entries) == 1
    assert server.times("SEARCH") == 0


# What has no test has a reason, which proxy/docs/pop3-imap.md tells as well; more than five are too many.


NOT_HANDLED = {
    "imap-B7": "Exchange gives all messages new UIDs when a mailbox is moved",
    "imap-B21": "Gmail's X-GM-MSGID",
    "imap-B25": "Zimbra",
    "imap-B36": "Fastmail",
}
"""The words are the page's."""


def test_every_quirk_has_its_test() -> None:
    claims = [claim for claim in matrix.claims("quirk") if claim.row.startswith("imap-")]
    handled = {f"imap-B{number}" for number in range(1, 37)} - NOT_HANDLED.keys()
    assert matrix.mistakes(claims, handled) == []
    assert len(NOT_HANDLED) <= 5
    page = " ".join(text("pop3-imap.md").split())
    assert [words for words in NOT_HANDLED.values() if words not in page] == []
