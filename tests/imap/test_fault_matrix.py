"""Rows of the fault matrix that are about the IMAP server and belong to no other module."""

from __future__ import annotations

import pytest

from fakes.imap import Action, Connection, Hang, Mailbox, Message
from fakes.server import Step
from imap.support import CLIENT, pair, read
from legacy_email_proxy.contracts import MessageGone, Unreachable
from realservers.certificates import Certificates


@pytest.mark.fault("C9")
async def test_expunged_before_it_was_read(certificates: Certificates) -> None:
    box = Mailbox.of(b"one", b"two", b"three")
    async with pair(certificates.good, mailbox=box) as (maildrop, _):
        async with maildrop.open(CLIENT, None) as session:
            before = list(session.entries)
            del box.messages[2]
            for _ in range(2):
                with pytest.raises(MessageGone):
                    await read(session, 1)
                with pytest.raises(MessageGone):
                    await anext(session.top(session.entries[1].unique_id, 0))
            assert list(session.entries) == before, "numbers never shift"
            assert await read(session, 2) == b"three"
            await session.commit([session.entries[1].unique_id, session.entries[2].unique_id])
    assert list(box.messages) == [1]


@pytest.mark.fault("C10")
async def test_expunged_while_the_folder_was_listed(certificates: Certificates) -> None:
    """The listing names a message that is gone when it ends; nothing else is the worse for it."""
    box = Mailbox.of(b"one", b"two", b"three")

    def expunge(_: Connection, __: str) -> bytes:
        rows = b"".join(
            b"* %d FETCH (UID %d RFC822.SIZE %d)\r\n" % (uid, uid, len(message.octets))
            for uid, message in box.messages.items()
        )
        del box.messages[2]
        return rows + b"* 2 EXPUNGE\r\n* 2 EXISTS\r\nTAG OK done\r\n"

    script: dict[Step, Action] = {("LISTING", 1): expunge}
    async with pair(certificates.good, mailbox=box, script=script) as (maildrop, _):
        async with maildrop.open(CLIENT, None) as session:
            assert await read(session, 0) == b"one"
            with pytest.raises(MessageGone):
                await read(session, 1)
            assert await read(session, len(session.entries) - 1) == b"three"
            await session.commit([entry.unique_id for entry in session.entries])
        assert box.messages == {}
        async with maildrop.open(CLIENT, None) as session:
            assert list(session.entries) == []


@pytest.mark.fault("C25")
@pytest.mark.parametrize(("answer", "told"), [
    (b"* CAPABILITY IMAP4rev1" + b" X" * 1_000_000 + b"\r\nTAG OK done\r\n", "a line of more than 65536 octets"),
    (Hang(b"* 1 EXISTS\r\n" * 200_000), "more than any answer to this command needs"),
], ids=["a million words", "no end"])  # fmt: skip
async def test_capabilities_that_never_end(certificates: Certificates, answer: Action, told: str) -> None:
    async with pair(certificates.good, b"x", script={"CAPABILITY": answer}) as (maildrop, server):
        with pytest.raises(Unreachable, match=told):
            async with maildrop.open(CLIENT, None):
                pass
        await server.until(lambda server: server.open_connections == 0)


@pytest.mark.fault("C11")
async def test_new_mail_is_for_the_next_session(certificates: Certificates) -> None:
    box = Mailbox.of(b"one")
    async with pair(certificates.good, mailbox=box) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            box.messages[2] = Message(b"two")
            server.disconnect_all()
            assert await read(session, 0) == b"one"
            assert len(session.entries) == 1
            with pytest.raises(MessageGone):
                await anext(session.retrieve("000000023b9aca07"))
            await session.commit([session.entries[0].unique_id])
        assert list(box.messages) == [2]
        async with maildrop.open(CLIENT, None) as session:
            assert await read(session, 0) == b"two"
