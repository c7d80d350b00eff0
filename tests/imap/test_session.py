"""The ordinary day of a maildrop, and what a session promises about identity and deletion."""

from __future__ import annotations

import logging

import anyio
import pytest

from fakes.imap import Cut, Drop, Hang, Mailbox, Message
from imap.support import CLIENT, LOGGER, PASSWORD, SHORT, USER, pair, read, read_top
from legacy_email_proxy.contracts import Disconnected, Failure, MessageGone
from legacy_email_proxy_plugins.imap.response_codes import Busy
from realservers.certificates import Certificates

ONE = b"Subject: one\r\n\r\n.dot\r\n\x00\xff\r\nno line end"
TWO = b"Subject: two\r\n\r\n" + b"".join(b"line %d\r\n" % number for number in range(20_000))


async def test_listing_reading_and_deleting(certificates: Certificates) -> None:
    async with pair(certificates.good, ONE, TWO, b"") as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert [(entry.unique_id, entry.octets) for entry in session.entries] == [
                ("000000013b9aca07", len(ONE)),
                ("000000023b9aca07", len(TWO)),
                ("000000033b9aca07", 0),
            ]
            assert [await read(session, position) for position in range(3)] == [ONE, TWO, b""]
            await session.commit([session.entries[0].unique_id, session.entries[2].unique_id])
        assert list(server.accounts[USER, PASSWORD].messages) == [2]
        assert len(server.connections) == 1, "one after the other, they share a connection"
    names = [command.removeprefix("UID ").split(" ")[0] for command in server.commands]
    assert "EXAMINE" not in names
    assert "SEARCH" not in names
    assert "UID EXPUNGE 1,3" in server.commands
    assert names[-1] == "LOGOUT"
    assert names.index("ID") < names.index("SELECT"), "NetEase refuses SELECT otherwise"
    assert all(server.accounts[USER, PASSWORD].messages[2].flags == set() for _ in "x"), "no \\Seen"


@pytest.mark.quirk("imap-B18")
@pytest.mark.fault("C19")
async def test_without_commit_nothing_is_deleted(certificates: Certificates) -> None:
    async with pair(certificates.good, ONE, TWO) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            await read(session, 0)
        assert len(server.accounts[USER, PASSWORD].messages) == 2
    assert not any("STORE" in command or "EXPUNGE" in command for command in server.commands)


@pytest.mark.fault("C6")
async def test_an_empty_folder(certificates: Certificates) -> None:
    async with pair(certificates.good) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert list(session.entries) == []
    assert not any("FETCH" in command for command in server.commands), (
        "a range over nothing is an error to some servers"
    )


ROWS = [
    (b"* 1 FETCH (RFC822.SIZE 10 UID 4)\r\n", {4: 10}),
    (b"* 1 FETCH (UID 4 RFC822.SIZE 10 FLAGS (\\Seen))\r\n", {4: 10}),
    (b"* 1 FETCH (FLAGS () RFC822.SIZE 10 UID 4)\r\n", {4: 10}),
    (b"* 1 FETCH (UID 4)\r\n", {4: 0}),
    (b"* 1 FETCH (UID 4 RFC822.SIZE 99999999999999999999999)\r\n", {4: 0}),
    (b"* 1 FETCH (UID 4 RFC822.SIZE 10)\n", {4: 10}),
    (b"* 1 FETCH (UID 4 RFC822.SIZE NIL)\r\n", {4: 0}),
    (b"* 1 fetch (uid 4 rfc822.size 10)\r\n", {4: 10}),
    (b"* 1 FETCH (FLAGS (\\Seen))\r\n* 1 FETCH (UID 4 RFC822.SIZE 10)\r\n* 1 FETCH (UID 4 FLAGS ())\r\n", {4: 10}),
    (b"* 2 FETCH (UID 9 RFC822.SIZE 1)\r\n* 1 FETCH (UID 4 RFC822.SIZE 10)\r\n", {4: 10, 9: 1}),
    (b"* 1 FETCH (UID 4 RFC822.SIZE 10)\r\n* 1 FETCH (UID 4 RFC822.SIZE 10)\r\n* 5 EXISTS\r\n* 1 EXPUNGE\r\n", {4: 10}),
    (b"* 1 FETCH (UID 4294967295 RFC822.SIZE 5000000000)\r\n", {4294967295: 5_000_000_000}),
    (b"", {}),
]


@pytest.mark.quirk("imap-B5")
@pytest.mark.parametrize(("rows", "expected"), ROWS)
async def test_listings_of_all_kinds(certificates: Certificates, rows: bytes, expected: dict[int, int]) -> None:
    async with pair(certificates.good, ONE, script={"LISTING": rows + b"TAG OK done\r\n"}) as (maildrop, _):
        async with maildrop.open(CLIENT, None) as session:
            found = {int(entry.unique_id[:8], 16): entry.octets for entry in session.entries}
    assert found == expected
    assert list(found) == sorted(found)


@pytest.mark.fault("C25")
@pytest.mark.parametrize(
    "rows",
    [
        b"* 1 FETCH (UID 0 RFC822.SIZE 10)\r\n",
        b"* 1 FETCH (UID 4294967296 RFC822.SIZE 10)\r\n",
        b"* 1 FETCH (UID x RFC822.SIZE 10)\r\n",
        b"* 1 FETCH ((((((\r\n",
        b"* 1 FETCH " + b"(" * 60_000 + b"\r\n",
        b"* 1 FETCH (UID 4\nRFC822.SIZE 10)\r\n",
        b"nonsense\r\n",
        b"* 1 FETCH (UID 4 RFC822.SIZE {99999999}\r\n",
        b"* " + b"x" * 70_000 + b"\r\n",
        b"* 1 EXISTS\r\n" * 100_000,
    ],
)
async def test_broken_listings(certificates: Certificates, rows: bytes) -> None:
    async with pair(certificates.good, ONE, script={"LISTING": rows + b"TAG OK done\r\n"}) as (maildrop, _):
        with pytest.raises(Disconnected):
            async with maildrop.open(CLIENT, None):
                pass


@pytest.mark.fault("C6")
async def test_ten_thousand_messages(certificates: Certificates) -> None:
    mailbox = Mailbox({uid: Message(b"", size=uid) for uid in range(1, 10_001)})
    async with pair(certificates.good, mailbox=mailbox) as (maildrop, _):
        with anyio.fail_after(50):
            async with maildrop.open(CLIENT, None) as session:
                assert len(session.entries) == 10_000
                assert session.entries[9_999] == ("00002710" + "3b9aca07", 10_000)
                assert sum(entry.octets for entry in session.entries) == 50_005_000


@pytest.mark.parametrize("lines", [0, 1, 2, 20, 5000, 10_000, 30_000])
async def test_top(certificates: Certificates, lines: int) -> None:
    async with pair(certificates.good, ONE, TWO, b"", b"\r\nbody\r\n", b"no blank line") as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            for position, message in enumerate((ONE, TWO, b"", b"\r\nbody\r\n", b"no blank line")):
                top = await read_top(session, position, lines)
                assert message.startswith(top)
                header, blank, body = message.partition(b"\r\n\r\n")
                wanted = header + blank + b"".join(body.splitlines(keepends=True)[:lines])
                assert top.startswith(wanted) or message == b"\r\nbody\r\n"
            bodies = [
                command for command in server.commands if "BODY" in command and command.startswith("UID FETCH 2 ")
            ]
    if lines in (1, 2, 20, 5000):
        assert len(bodies) == 1, "no more of a large message is read than is needed"


async def test_a_message_that_is_not_in_the_listing(certificates: Certificates) -> None:
    async with pair(certificates.good, ONE) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            for unique_id in ("000000023b9aca07", "0000000100000001", "", "x", "1", "-0000001" + "3b9aca07"):
                with pytest.raises(MessageGone):
                    await anext(session.retrieve(unique_id))
                with pytest.raises(MessageGone):
                    await session.commit([unique_id])
    assert not any("STORE" in command for command in server.commands)


@pytest.mark.fault("C7", "C8")
async def test_uidvalidity_that_changes_in_the_session(certificates: Certificates) -> None:
    async with pair(certificates.good, ONE) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            server.accounts[USER, PASSWORD].uidvalidity += 1
            with pytest.raises(Disconnected, match="UIDVALIDITY"):
                await session.commit([session.entries[0].unique_id])
            server.disconnect_all()
            with pytest.raises(Disconnected, match="UIDVALIDITY"):
                await read(session, 0)
            with pytest.raises(Disconnected, match="UIDVALIDITY"):
                await read_top(session, 0, 5)
            async with maildrop.open(CLIENT, None) as another:
                assert another.entries[0].unique_id == "000000013b9aca08"
                assert await read(another, 0) == ONE
    assert not any("STORE" in command or "EXPUNGE" in command for command in server.commands)
    assert list(server.accounts[USER, PASSWORD].messages) == [1]


@pytest.mark.fault("C20")
async def test_a_foreign_deleted_message_is_kept(certificates: Certificates) -> None:
    mailbox = Mailbox({uid: Message(ONE) for uid in (3, 4, 5, 9)})
    mailbox.messages[4].flags.add(r"\Deleted")
    async with pair(certificates.good, mailbox=mailbox) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            await session.commit([session.entries[position].unique_id for position in (0, 2, 3)])
    assert list(mailbox.messages) == [4]
    assert "UID EXPUNGE 3,5,9" in server.commands


async def test_without_uidplus_messages_are_marked_only(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with pair(certificates.good, ONE, TWO, capabilities=("AUTH=PLAIN",)) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            await session.commit([session.entries[1].unique_id])
    assert [message.flags for message in server.accounts[USER, PASSWORD].messages.values()] == [set(), {r"\Deleted"}]
    assert not any("EXPUNGE" in command for command in server.commands)
    assert [record.levelno for record in caplog.records if record.name == LOGGER and "UIDPLUS" in record.message] == [
        logging.WARNING
    ]


@pytest.mark.quirk("imap-B9")
async def test_many_deletions_go_in_lines_of_bounded_length(certificates: Certificates) -> None:
    mailbox = Mailbox({uid: Message(b"") for uid in range(1_000_000, 1_004_000)})
    async with pair(certificates.good, mailbox=mailbox) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            await session.commit([entry.unique_id for entry in session.entries if int(entry.unique_id[:8], 16) % 2])
    assert set(mailbox.messages) == set(range(1_000_000, 1_004_000, 2))
    assert max(len(command) for command in server.commands) < 1000


@pytest.mark.fault("C6")
async def test_a_read_only_folder_can_be_read(certificates: Certificates) -> None:
    async with pair(certificates.good, ONE) as (maildrop, server):
        server.accounts[USER, PASSWORD].read_only = True
        async with maildrop.open(CLIENT, None) as session:
            assert await read(session, 0) == ONE
            with pytest.raises(Failure, match="read-only"):
                await session.commit([session.entries[0].unique_id])
    assert not any("STORE" in command for command in server.commands)


FAULTS_AT_QUIT = [
    ("STORE", "NO not today", Failure),
    ("STORE", "NO [UNAVAILABLE] later", Busy),
    ("STORE", "BAD what?", Failure),
    ("STORE", Drop(), Disconnected),
    ("STORE", Drop(b"* BYE shutting down\r\n"), Disconnected),
    ("STORE", Cut(0), Disconnected),
    ("STORE", Hang(), Disconnected),
    ("EXPUNGE", "NO not today", Failure),
    ("EXPUNGE", "BAD what?", Failure),
    ("EXPUNGE", Drop(), Disconnected),
    ("EXPUNGE", Cut(0), Disconnected),
    ("EXPUNGE", Cut(-1), Disconnected),
    ("EXPUNGE", Hang(), Disconnected),
    ("SELECT", "NO gone", Failure),
]


@pytest.mark.fault("C21")
@pytest.mark.parametrize(("step", "fault", "kind"), FAULTS_AT_QUIT)
async def test_faults_at_quit(certificates: Certificates, step: str, fault: object, kind: type[Failure]) -> None:
    async with pair(certificates.good, ONE, TWO, b"three", seconds={"read": SHORT, "command": 1}) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            deleted = [session.entries[0].unique_id, session.entries[2].unique_id]
            server.script[step] = fault  # type: ignore[assignment]
            with pytest.raises(Failure) as raised:
                await session.commit(deleted)
        assert type(raised.value) is kind
        assert 2 in server.accounts[USER, PASSWORD].messages
        del server.script[step]
        async with maildrop.open(CLIENT, None) as session:
            left = [entry.unique_id for entry in session.entries if entry.unique_id in deleted]
            if left:
                await session.commit(left)
        assert list(server.accounts[USER, PASSWORD].messages) == [2], "doing it again is safe and does the rest"


async def test_a_dead_kept_connection_does_not_spoil_quit(certificates: Certificates) -> None:
    async with pair(certificates.good, ONE, TWO) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            server.disconnect_all()
            await server.until(lambda server: server.open_connections == 0)
            await session.commit([session.entries[0].unique_id])
    assert list(server.accounts[USER, PASSWORD].messages) == [2]
