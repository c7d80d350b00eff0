"""The fault matrix of the backend's side, row by row: where each row is tested, and the rows that had no test yet."""

from __future__ import annotations

import pytest

from fakes.imap import Action, Connection, Mailbox, Message
from fakes.server import Step
from imap.support import CLIENT, pair, read
from legacy_email_proxy.contracts import MessageGone
from matrix import missing_tests
from realservers.certificates import Certificates

MATRIX = {
    # Getting in: refused, silent, cut off, greeted with anything but IMAP, or with PREAUTH.
    "C1": ["login:greetings", "login:nobody_listens", "login:no_tls_handshake", "login:no_such_name"],
    "C2": ["login:certificates_that_do_not_verify"],
    "C3": ["login:what_an_answer_to_the_login_means"],
    "C4": ["login:no_usable_mechanism"],
    "C5": ["login:the_server_sees_exactly_this_login", "login:what_would_end_the_command_is_never_sent"],
    # The folder: missing, read-only, empty, huge, UIDs at the limit; another UIDVALIDITY.
    "C6": [
        "login:the_folder_does_not_open",
        "session:a_read_only_folder_can_be_read",
        "session:an_empty_folder",
        "session:ten_thousand_messages",
        "against_dovecot:ten_thousand_messages_open_quickly",
        "shown:formats",
    ],
    "C7": ["session:uidvalidity_that_changes_in_the_session", "concurrent_change:a_folder_that_is_made_anew"],
    "C8": ["session:uidvalidity_that_changes_in_the_session", "deletion:uidvalidity_is_looked_at_before_every_policy"],
    # Other clients.
    "C9": ["fault_matrix:expunged_before_it_was_read", "concurrent_change:another_client_expunges"],
    "C10": ["fault_matrix:expunged_while_the_folder_was_listed"],
    "C11": ["fault_matrix:new_mail_is_for_the_next_session", "concurrent_change:another_client_appends"],
    # One message.
    "C12": ["messages:no_wrong_message_is_ever_handed_on", "messages:answers_of_all_kinds"],
    "C13": ["messages:a_connection_that_ends_in_the_message", "messages:a_stall_inside_a_message"],
    "C14": ["messages:no_wrong_message_is_ever_handed_on", "messages:too_much_is_not_waited_for"],
    "C15": ["quirks:sizes_that_are_off"],
    "C16": ["against_dovecot:sizes_and_octets", "against_dovecot:nul_octets"],
    # Connections that do not last.
    "C17": ["messages:a_dead_kept_connection_is_replaced_once", "quirks:a_session_that_expired"],
    "C18": ["pool:unused_connections_are_closed"],
    # Deletion.
    "C19": ["session:without_commit_nothing_is_deleted", "interop/round_trip:a_dropped_session_deletes_nothing"],
    "C20": ["session:a_foreign_deleted_message_is_kept", "against_dovecot:deleting_exactly"],
    "C21": ["session:faults_at_quit", "deletion:faults_on_the_way_to_the_trash", "deletion:policies"],
    # Too much, too slowly.
    "C25": ["login:what_an_answer_to_the_login_means", "session:broken_listings", "messages:a_message_that_drips"],
    "C26": ["messages:memory_does_not_grow_with_the_message", "messages:a_reader_that_stops_early"],
}


def test_every_row_has_its_test() -> None:
    assert MATRIX.keys() == {f"C{number}" for number in (*range(1, 22), 25, 26)}
    assert missing_tests(MATRIX, "imap") == []
    assert missing_tests({"C1": ["login:no_such_test", "nowhere:greetings"]}, "imap") != []


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
