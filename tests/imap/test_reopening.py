"""A listing that is kept: what the next session asks of the server, and that it is never wrong for it."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.imap import Action, FakeIMAPServer, Mailbox, Message
from fakes.server import Step
from imap.support import CLIENT, PASSWORD, USER, login, pair, read
from legacy_email_proxy.contracts import Failure, LoginRefused
from legacy_email_proxy_plugins.imap import IMAPMaildrop
from legacy_email_proxy_plugins.imap.account_cache import Messages, Shelf, Shelves
from legacy_email_proxy_plugins.imap.listing import Index, Listing
from legacy_email_proxy_plugins.imap.listing import Mailbox as Selected
from legacy_email_proxy_plugins.imap.maildrop import open_folder
from realservers.accounts import Account
from realservers.certificates import Certificates
from realservers.dovecot import Dovecot

from .test_against_dovecot import maildrop_on

WHOLE = ["UID FETCH 1:* (UID RFC822.SIZE)"]
NOTHING: list[str] = []
LOGGER = logging.getLogger("tests")


async def uids(maildrop: IMAPMaildrop) -> list[int]:
    async with maildrop.open(CLIENT, None) as session:
        return [int(entry.unique_id[:8], 16) for entry in session.entries]


def listings(server: FakeIMAPServer) -> list[str]:
    return [command for command in server.commands if "RFC822.SIZE" in command]


def arrive(mailbox: Mailbox, *new: int) -> None:
    mailbox.messages |= {uid: Message(b"x" * uid) for uid in new}


LATER = ["UID FETCH 9:* (UID RFC822.SIZE)"]
ALL = set(range(1, 9))
CHANGES: list[tuple[str, set[int], set[int], list[str]]] = [
    ("nothing", set(), set(), NOTHING),
    ("one came", set(), {9}, LATER),
    ("three came, with gaps", set(), {20, 21, 40}, LATER),
    ("one went", {5}, set(), WHOLE),
    ("the last one went", {8}, set(), WHOLE),
    ("all went", ALL, set(), NOTHING),
    ("one went, one came", {5}, {9}, LATER + WHOLE),
    ("one went, two came", {5}, {9, 10}, LATER + WHOLE),
    ("two went, one came", {4, 5}, {9}, WHOLE),
    ("all went, as many came", ALL, set(range(11, 19)), LATER + WHOLE),
]


@pytest.mark.parametrize(("gone", "new", "expected"), [case[1:] for case in CHANGES], ids=[case[0] for case in CHANGES])
async def test_what_is_listed_again(
    certificates: Certificates, gone: set[int], new: set[int], expected: list[str]
) -> None:
    mailbox = Mailbox({uid: Message(b"x" * uid) for uid in range(1, 9)})
    async with pair(certificates.good, mailbox=mailbox) as (maildrop, server):
        assert await uids(maildrop) == list(range(1, 9))
        before, commands = len(listings(server)), len(server.commands)
        for uid in gone:
            del mailbox.messages[uid]
        arrive(mailbox, *new)
        async with maildrop.open(CLIENT, None) as session:
            assert [entry.octets for entry in session.entries] == sorted(mailbox.messages)
        assert listings(server)[before:] == expected
        assert len(server.commands) == commands + 1 + len(expected), "a SELECT, and no more round trips than these"
        before = len(listings(server))
        assert await uids(maildrop) == sorted(mailbox.messages)
        assert listings(server)[before:] == NOTHING, "and that is known from now on"


@pytest.mark.parametrize("lost", [b"", b"* OK [UIDNEXT 0] what?\r\n", b"* OK [UIDNEXT 2] what?\r\n"])
async def test_a_server_whose_uidnext_says_nothing(certificates: Certificates, lost: bytes) -> None:
    answer = b"* 3 EXISTS\r\n* OK [UIDVALIDITY 1000000007] valid\r\n%bTAG OK [READ-WRITE] done\r\n" % lost
    async with pair(certificates.good, b"1", b"2", b"3", script={"SELECT": answer}) as (maildrop, server):
        for times in range(1, 4):
            assert await uids(maildrop) == [1, 2, 3]
            assert listings(server) == WHOLE * times, "listed anew each time, for nothing proves that it is the same"


@pytest.mark.parametrize("besides", [b"* 1 EXPUNGE\r\n", b"* VANISHED 1\r\n", b"* 4 FETCH (UID 9 RFC822.SIZE 9)\r\n"])
async def test_a_folder_that_changes_while_it_is_listed(certificates: Certificates, besides: bytes) -> None:
    rows = b"".join(b"* %d FETCH (UID %d RFC822.SIZE %d)\r\n" % (uid, uid, uid) for uid in (1, 2, 3))
    async with pair(
        certificates.good, b"1", b"2", b"3", script={("LISTING", 1): rows + besides + b"TAG OK done\r\n"}
    ) as (maildrop, server):  # fmt: skip
        assert set(await uids(maildrop)) >= {1, 2, 3}
        assert await uids(maildrop) == [1, 2, 3]
        assert listings(server) == WHOLE * 2


async def test_another_folder_under_the_old_name(certificates: Certificates) -> None:
    mailbox = Mailbox.of(b"1", b"22", b"333")
    async with pair(certificates.good, mailbox=mailbox) as (maildrop, server):
        assert await uids(maildrop) == [1, 2, 3]
        mailbox.uidvalidity += 1
        mailbox.messages[2].octets = b"another message"
        async with maildrop.open(CLIENT, None) as session:
            assert [entry.octets for entry in session.entries] == [1, 15, 3]
            assert all(entry.unique_id.endswith("3b9aca08") for entry in session.entries)
        assert listings(server) == WHOLE * 2


async def test_one_goes_while_the_new_ones_are_listed(certificates: Certificates) -> None:
    mailbox = Mailbox.of(b"1", b"22", b"333")
    rows = b"* 1 EXPUNGE\r\n* 3 FETCH (UID 4 RFC822.SIZE 4)\r\nTAG OK done\r\n"
    async with pair(certificates.good, mailbox=mailbox, script={("LISTING", 2): rows}) as (maildrop, server):
        assert await uids(maildrop) == [1, 2, 3]
        arrive(mailbox, 4)
        assert await uids(maildrop) == [1, 2, 3, 4]
        assert listings(server)[-1:] == WHOLE


async def test_a_refused_listing_leaves_nothing_behind(certificates: Certificates) -> None:
    mailbox = Mailbox.of(b"1", b"22")
    script: dict[Step, Action] = {("LISTING", 2): "NO not now", ("LISTING", 3): "NO not now either"}
    async with pair(certificates.good, mailbox=mailbox, script=script) as (maildrop, _):
        assert await uids(maildrop) == [1, 2]
        arrive(mailbox, 3)
        with pytest.raises(Failure):
            await uids(maildrop)
        assert await uids(maildrop) == [1, 2, 3]


async def test_an_open_session_keeps_its_listing(certificates: Certificates) -> None:
    mailbox = Mailbox.of(b"1", b"22", b"333")
    async with pair(certificates.good, mailbox=mailbox) as (maildrop, _):
        async with maildrop.open(CLIENT, None) as session:
            before = list(session.entries)
            del mailbox.messages[2]
            arrive(mailbox, 4)
            assert await uids(maildrop) == [1, 3, 4]
            assert list(session.entries) == before
            assert await read(session, 2) == b"333"


async def test_another_password_is_another_listing(certificates: Certificates) -> None:
    accounts = {(USER, "one"): Mailbox.of(b"of one"), (USER, "two"): Mailbox({7: Message(b"of two, which is longer")})}
    async with pair(certificates.good, accounts=accounts, POP3_LOGIN="backend") as (maildrop, server):
        for _ in range(2):
            for password, octets in (("one", 6), ("two", 23)):
                async with maildrop.open(CLIENT, login(USER, password)) as session:
                    assert [entry.octets for entry in session.entries] == [octets]
        with pytest.raises(LoginRefused):
            async with maildrop.open(CLIENT, login(USER, "three")):
                pass
        assert listings(server) == WHOLE * 2, "each once"
        server.accounts.clear()
        with pytest.raises(LoginRefused):
            async with maildrop.open(CLIENT, login(USER, "one")):
                pass


class _Folder:
    """A folder whose SELECT and FETCH are what a server may truthfully say, with changes between the two."""

    def __init__(self) -> None:
        self.uids: set[int] = set()
        self.uidnext = 1
        self.between: tuple[set[int], int] = (set(), 0)
        self.listings = 0

    def change(self, gone: set[int], new: int) -> bool:
        removed = bool(self.uids & gone)
        self.uids -= gone
        self.uids |= set(range(self.uidnext, self.uidnext + new))
        self.uidnext += new
        return removed

    def select(self) -> Selected:
        return Selected(1, len(self.uids), read_only=False, uidnext=self.uidnext)

    def listing(self, first: int = 1) -> Listing:
        listing = Listing(first)
        listing.undisturbed = not self.change(*self.between)
        self.between = (set(), 0)
        self.listings += 1
        for uid in self.uids:
            listing.add({"UID": str(uid), "RFC822.SIZE": str(uid)})
        return listing


CHANGE = st.tuples(st.sets(st.integers(1, 12), max_size=3), st.integers(0, 3))


@given(st.lists(st.tuples(CHANGE, CHANGE), max_size=12))
def test_every_opening_is_as_if_nothing_had_been_kept(changes: list[tuple[tuple[set[int], int], ...]]) -> None:
    folder, shelf = _Folder(), Shelf(Messages())
    for before, meanwhile in changes:
        folder.change(*before)
        at_select = set(folder.uids)
        folder.between = meanwhile
        found = set(open_folder(shelf, folder, LOGGER).sizes)  # type: ignore[arg-type]
        # What came or went after SELECT may be in it or not; what did neither must be right.
        assert found | meanwhile[0] | set(range(folder.uidnext - 3, folder.uidnext)) >= at_select
        assert found <= at_select | folder.uids
    folder.between = (set(), 0)
    assert set(open_folder(shelf, folder, LOGGER).sizes) == folder.uids  # type: ignore[arg-type]
    asked = folder.listings
    assert set(open_folder(shelf, folder, LOGGER).sizes) == folder.uids  # type: ignore[arg-type]
    assert folder.listings == asked


def test_shelves_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from legacy_email_proxy_plugins.imap import account_cache as module

    monkeypatch.setattr(module, "LISTED_MESSAGES", 1000)
    shelves = Shelves()
    with shelves.lent("open") as held:
        held.listed = module.Listed(1, Index(1, {}))
        for account in range(50):
            with shelves.lent(account) as shelf:
                shelf.listed = module.Listed(101, Index(1, dict.fromkeys(range(1, 101), 0)))
            with shelves.lent(("refused", account)):
                pass
        assert len(shelves._shelves) == 11
        with shelves.lent(49) as shelf, shelves.lent("open") as again:
            assert shelf.listed is not None
            assert again is held
        with shelves.lent(0) as shelf:
            assert shelf.listed is None


async def test_on_dovecot(dovecot: Dovecot, account: Account) -> None:
    maildrop = maildrop_on(dovecot, account)
    dovecot.add_messages(account.name, [b"Subject: %d\r\n\r\n" % number for number in range(6)])
    assert await uids(maildrop) == [1, 2, 3, 4, 5, 6] == await uids(maildrop)
    with dovecot.connect(account.name) as other:
        other.select()
        other.store("2", "+FLAGS", r"\Deleted")
        other.expunge()
    dovecot.add_message(account.name, b"Subject: new\r\n\r\n")
    assert await uids(maildrop) == [1, 3, 4, 5, 6, 7]
    dovecot.add_message(account.name, b"Subject: newer\r\n\r\n")
    assert await uids(maildrop) == [1, 3, 4, 5, 6, 7, 8] == await uids(maildrop)
    await maildrop.aclose()


async def test_the_settings_account_is_another_than_a_clients(certificates: Certificates) -> None:
    async with pair(certificates.good, b"1", POP3_LOGIN="backend") as (maildrop, server):
        assert await uids(maildrop) == [1]
        async with maildrop.open(CLIENT, login(USER, PASSWORD)) as session:
            assert len(session.entries) == 1
        assert listings(server) == WHOLE * 2
