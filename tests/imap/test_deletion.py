r"""What QUIT does with the messages that were marked, on servers with and without the extensions that it takes."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from fakes.imap import Action, Cut, Drop, Mailbox, Message
from fakes.server import Step
from imap.support import CLIENT, LOGGER, login, pair, read
from legacy_email_proxy.contracts import Disconnected, Failure, Level
from legacy_email_proxy_plugins.imap import IMAPMaildrop
from legacy_email_proxy_plugins.imap.deletion import KEYWORD
from realservers.certificates import Certificates

BASE = ("AUTH=PLAIN",)
UIDPLUS = (*BASE, "UIDPLUS")
MOVE = (*BASE, "MOVE")
SPECIAL = ("SPECIAL-USE", "LIST-EXTENDED")
TRASH = (r'(\HasNoChildren) "/" INBOX', r'(\HasNoChildren) "/" Trash', r'(\HasNoChildren \Trash) "/" "Gel&APY-scht"')
ANY_KEYWORD = r"\Answered \Deleted \Seen \*"
NO_KEYWORD = r"\Answered \Deleted \Seen"


def mailbox(**given: Any) -> Mailbox:
    """Five messages, of which another client has marked the second and the third."""
    found = Mailbox({uid: Message(b"Subject: %d\r\n\r\n" % uid) for uid in range(1, 6)}, **given)
    for uid in (2, 3):
        found.messages[uid].flags.add(r"\Deleted")
    return found


async def delete(maildrop: IMAPMaildrop, *uids: int) -> None:
    async with maildrop.open(CLIENT, None) as session:
        await session.commit([entry.unique_id for entry in session.entries if int(entry.unique_id[:8], 16) in uids])


async def shown(maildrop: IMAPMaildrop) -> list[int]:
    async with maildrop.open(CLIENT, None) as session:
        return [int(entry.unique_id[:8], 16) for entry in session.entries]


def files(state: Path) -> list[Path]:
    return list(state.glob("*/*"))


def flagged(server_mailbox: Mailbox, flag: str) -> list[int]:
    return [uid for uid, message in server_mailbox.messages.items() if flag in message.flags]


# BACKEND_IMAP_DELETE, capabilities, PERMANENTFLAGS; then what is left, marked, tagged and in the trash.
POLICIES: list[tuple[str, tuple[str, ...], str | None, list[int], list[int], list[int], list[bytes]]] = [
    ("expunge", UIDPLUS, ANY_KEYWORD, [2, 4], [2], [], []),
    ("expunge", UIDPLUS, None, [2, 4], [2], [], []),
    ("expunge", BASE, ANY_KEYWORD, [1, 2, 3, 4, 5], [1, 2, 3, 5], [1, 3, 5], []),
    ("expunge", BASE, rf"\Deleted {KEYWORD.upper()}", [1, 2, 3, 4, 5], [1, 2, 3, 5], [1, 3, 5], []),
    ("expunge", BASE, NO_KEYWORD, [1, 2, 3, 4, 5], [1, 2, 3, 5], [], []),
    ("expunge", BASE, None, [1, 2, 3, 4, 5], [1, 2, 3, 5], [], []),
    ("flag", UIDPLUS, ANY_KEYWORD, [1, 2, 3, 4, 5], [1, 2, 3, 5], [1, 3, 5], []),
    ("flag", UIDPLUS, NO_KEYWORD, [1, 2, 3, 4, 5], [1, 2, 3, 5], [], []),
    ("keep", UIDPLUS, ANY_KEYWORD, [1, 2, 3, 4, 5], [2, 3], [1, 3, 5], []),
    ("keep", UIDPLUS, NO_KEYWORD, [1, 2, 3, 4, 5], [2, 3], [], []),
    ("trash", (*MOVE, *SPECIAL), None, [2, 4], [2], [], [b"1", b"3", b"5"]),
    ("trash", (*UIDPLUS, "MOVE", "SPECIAL-USE"), None, [2, 4], [2], [], [b"1", b"3", b"5"]),
    ("trash", UIDPLUS, None, [2, 4], [2], [], [b"1", b"3", b"5"]),
    ("trash", (*UIDPLUS, "XLIST"), None, [2, 4], [2], [], [b"1", b"3", b"5"]),
    ("trash", BASE, ANY_KEYWORD, [1, 2, 3, 4, 5], [1, 2, 3, 5], [1, 3, 5], [b"1", b"3", b"5"]),
    ("trash", BASE, None, [1, 2, 3, 4, 5], [1, 2, 3, 5], [], [b"1", b"3", b"5"]),
]


@pytest.mark.quirk("imap-B18", "imap-B19")
@pytest.mark.fault("C21")
@pytest.mark.parametrize(("policy", "offers", "permanent", "left", "marked", "tagged", "trash"), POLICIES)
async def test_policies(
    certificates: Certificates,
    policy: str,
    offers: tuple[str, ...],
    permanent: str | None,
    left: list[int],
    marked: list[int],
    tagged: list[int],
    trash: list[bytes],
) -> None:
    box = mailbox(permanent_flags=permanent, listed=TRASH)
    async with pair(
        certificates.good, mailbox=box, capabilities=offers, BACKEND_IMAP_DELETE=policy
    ) as (maildrop, server):  # fmt: skip
        await delete(maildrop, 1, 3, 5)
        assert list(box.messages) == left
        assert flagged(box, r"\Deleted") == marked
        assert flagged(box, KEYWORD) == tagged
        names = list(box.folders)
        assert names == (["Gel&APY-scht"] if trash else []), "not the folder that is only called so"
        assert [octets.split()[1] for octets in box.folders.get("Gel&APY-scht", [])] == trash
        for _ in range(2):
            assert await shown(maildrop) == [2, 4], "the +OK stays true, and a foreign mark hides nothing"
    names = [command.upper().removeprefix("UID ").split(" ")[0] for command in server.commands]
    assert "SEARCH" not in names
    assert "EXPUNGE" not in server.commands, "a plain one would take what other clients have marked"
    if policy == "expunge":
        assert "LIST" not in names


async def test_special_use_is_asked_for_where_it_must_be(certificates: Certificates) -> None:
    commands = []
    for offers in ((*MOVE, *SPECIAL), MOVE, (*MOVE, "XLIST"), (*MOVE, "XLIST", "SPECIAL-USE")):
        async with pair(
            certificates.good, mailbox=mailbox(listed=TRASH), capabilities=offers, BACKEND_IMAP_DELETE="trash"
        ) as (maildrop, server):  # fmt: skip
            await delete(maildrop, 1)
            commands += [command for command in server.commands if "LIST" in command]
    assert commands == ['LIST "" "*" RETURN (SPECIAL-USE)', 'LIST "" "*"', 'XLIST "" "*"', 'LIST "" "*"']


NO_TRASH: list[tuple[tuple[str, ...], str]] = [
    ((r'(\HasNoChildren) "/" INBOX', r'(\HasNoChildren) "/" Trash'), "INBOX"),
    ((), "INBOX"),
    ((r'(\NoSelect \Trash) "/" Bin',), "INBOX"),
    ((r'(\NonExistent \Trash) "/" Bin',), "INBOX"),
    ((r'(\Trash) "/" "Gel&APY-scht"',), "Gelöscht"),
    ((r'(\Trash) "/" "Gelöscht"',), "Gelöscht"),
    ((r'(\HasNoChildren) "/" "a' + '\n* LIST (\\Trash) NIL b"',), "INBOX"),
    ((r"(\Trash",), "INBOX"),
    ((r"\Trash",), "INBOX"),
]


@pytest.mark.parametrize(("listed", "folder"), NO_TRASH)
@pytest.mark.parametrize("offers", [UIDPLUS, MOVE])
async def test_without_a_folder_for_trash_nothing_changes(
    certificates: Certificates, listed: tuple[str, ...], folder: str, offers: tuple[str, ...]
) -> None:
    box = mailbox(listed=listed)
    async with pair(
        certificates.good, mailbox=box, capabilities=offers, BACKEND_IMAP_DELETE="trash", BACKEND_IMAP_FOLDER=folder
    ) as (maildrop, server):  # fmt: skip
        with pytest.raises(Failure) as raised:
            await delete(maildrop, 1, 3, 5)
        assert raised.value.look_at == "BACKEND_IMAP_DELETE"
        assert await shown(maildrop) == [1, 2, 3, 4, 5]
        assert (flagged(box, r"\Deleted"), box.folders) == ([2, 3], {})
        finding = (await maildrop.probe())[-1]
        assert (finding.level, "BACKEND_IMAP_DELETE" in finding.advice) == (Level.BAD, True)
    assert not any(word in command for command in server.commands for word in ("STORE", "MOVE", "COPY", "EXPUNGE"))


ODD_FOLDERS = (
    r'(\HasNoChildren) "/" INBOX',
    '(\\HasNoChildren) "/" INBOX/a\tb',
    r'(\HasNoChildren) "/" "R&D"',
    r'(\HasNoChildren) "/" "x&2AA-"',
    r'(\HasNoChildren) "/" "Gelöscht"',
    r'(\HasChildren) "/" Projects ("CHILDINFO" ("SUBSCRIBED"))',
    r"(\HasNoChildren) NIL NIL",
    r"(\HasNoChildren) NIL 2024",
    r'(\HasNoChildren) "/" Deleted Items',
    r'(\HasNoChildren) "/" a"b\ (c',
    '(\\HasNoChildren) "/" "a\n* LIST (\\Trash) NIL b"',
    '(\\HasNoChildren) "/" {3}\r\n"\r\n',
    '(\\HasNoChildren) "/" {0}\r\n',
    r'(\HasNoChildren) "/"',
    r'(\HasNoChildren "/" Trash',
    r"((",
    "",
)
TRASH_ROWS = [
    (r'(\Trash) "/" Trash', "Trash"),
    (r'(\HasNoChildren \TRASH) NIL "Trash"', "Trash"),
    ('(\\Trash)\t"/"  Trash', "Trash"),
    ('(\\Trash) "/" "Trash" ', "Trash"),
    (r'(\Trash) "\\" Trash', "Trash"),
    (r'(\Trash) "/" Trash ("CHILDINFO" ("SUBSCRIBED"))', "Trash"),
    (r'(\Trash) "/" "Trash (old)" ("OLDNAME" ("Trash"))', "Trash (old)"),
    (r'(\Trash) "/" Deleted Items', "Deleted Items"),
    (r'(\Trash) "/" "Gelöscht"', "Gelöscht"),
    ('(\\Trash) "/" "a\tb"', "a\tb"),
    (r'(\Trash) "/" "R&D"', "R&D"),
    (r'(\Trash) "/" x&2AA-', "x&2AA-"),
    (r'(\Trash) "/" 2024', "2024"),
    (r'(\Trash) "/" [Gmail]/Bin', "[Gmail]/Bin"),
    (r'(\Trash) "\\" Old\Deleted Items', "Old\\\\Deleted Items"),
    ('(\\Trash) "/" {5}\r\nTrash', "Trash"),
    ('(\\Trash) "/" {5}\r\nTrash ("CHILDINFO" ("SUBSCRIBED"))', "Trash"),
]


@pytest.mark.parametrize(("row", "name"), TRASH_ROWS)
@pytest.mark.parametrize("offers", [UIDPLUS, (*MOVE, *SPECIAL)])
async def test_only_the_row_of_the_trash_matters(
    certificates: Certificates, row: str, name: str, offers: tuple[str, ...]
) -> None:
    box = mailbox(listed=(*ODD_FOLDERS, row, *ODD_FOLDERS))
    async with pair(
        certificates.good, mailbox=box, capabilities=offers, BACKEND_IMAP_DELETE="trash"
    ) as (maildrop, _):  # fmt: skip
        await delete(maildrop, 1, 3, 5)
        assert await shown(maildrop) == [2, 4]
        assert {found: len(messages) for found, messages in box.folders.items()} == {name: 3}
        assert [finding.level for finding in await maildrop.probe()].count(Level.BAD) == 0


FAULTS: list[tuple[tuple[str, ...], str, Action]] = [
    *((MOVE, "MOVE", fault) for fault in ("NO [OVERQUOTA] full", "NO no", "BAD what?", Drop(), Cut(0))),
    *((MOVE, "LIST", fault) for fault in ("NO no", "BAD what?", Drop(), b"* LIST (((\r\nTAG OK x\r\n")),
    *((UIDPLUS, "COPY", fault) for fault in ("NO [TRYCREATE] none", "BAD what?", Drop())),
    *((UIDPLUS, "STORE", fault) for fault in ("NO no", Drop(), Cut(0))),
    *((UIDPLUS, "EXPUNGE", fault) for fault in ("NO no", Drop(), Cut(0))),
]


@pytest.mark.quirk("imap-B12")
@pytest.mark.fault("C21")
@pytest.mark.parametrize(("offers", "step", "fault"), FAULTS)
async def test_faults_on_the_way_to_the_trash(
    certificates: Certificates, offers: tuple[str, ...], step: str, fault: Action
) -> None:
    box = mailbox(listed=TRASH)
    async with pair(
        certificates.good, mailbox=box, capabilities=offers, script={step: fault}, BACKEND_IMAP_DELETE="trash"
    ) as (maildrop, server):  # fmt: skip
        with pytest.raises(Failure):
            await delete(maildrop, 1, 3, 5)
        saved = {octets.split()[1] for octets in box.folders.get("Gel&APY-scht", [])}
        gone = {b"1", b"3", b"5"} - {b"%d" % uid for uid in box.messages}
        assert gone <= saved, "nothing is lost on the way"
        assert {2, 4} <= box.messages.keys()
        server.script.clear()
        left = await shown(maildrop)
        if set(left) & {1, 3, 5}:
            await delete(maildrop, 1, 3, 5)
        assert await shown(maildrop) == [2, 4], "doing it again is safe"


async def test_exchange_2013_tells_of_a_move_in_a_line_without_a_beginning(certificates: Certificates) -> None:
    def shape(octets: bytes) -> bytes:
        return octets.replace(b"* 1 EXPUNGE", b"[COPYUID 124 10 233]\r\n* 1 EXPUNGE")

    async with pair(
        certificates.good, mailbox=mailbox(listed=TRASH), capabilities=MOVE, BACKEND_IMAP_DELETE="trash"
    ) as (maildrop, server):  # fmt: skip
        server.shape = shape
        await delete(maildrop, 1)
        assert await shown(maildrop) == [2, 3, 4, 5]
    assert len(server.connections) == 1


async def test_where_the_keyword_would_not_stay_it_is_not_relied_on(certificates: Certificates) -> None:
    """A read-only folder: `keep` needs nothing of the server, `flag` does."""
    box = mailbox(permanent_flags="", read_only=True)
    async with pair(certificates.good, mailbox=box, BACKEND_IMAP_DELETE="keep") as (maildrop, server):
        await delete(maildrop, 1)
        assert await shown(maildrop) == [2, 3, 4, 5]
    assert not any("STORE" in command for command in server.commands)
    async with pair(certificates.good, mailbox=box, BACKEND_IMAP_DELETE="flag") as (maildrop, server):
        with pytest.raises(Failure, match="read-only"):
            await delete(maildrop, 1)
        assert await shown(maildrop) == [1, 2, 3, 4, 5]


async def test_what_is_remembered_outlives_the_process(certificates: Certificates, tmp_path: Path) -> None:
    box = mailbox(permanent_flags=NO_KEYWORD)
    given: dict[str, Any] = {"BACKEND_IMAP_DELETE": "keep", "STATE_DIR": tmp_path}
    async with pair(certificates.good, mailbox=box, **given) as (maildrop, _):
        await delete(maildrop, 1, 3)
        await delete(maildrop, 5)
        again = IMAPMaildrop(maildrop._context)
        again._server = maildrop._server
        again._accounts = maildrop._accounts
        assert await shown(again) == [2, 4]
        (file,) = files(tmp_path)
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        for secret in ("alice", "INBOX", "127.0.0.1", "ssw0rd", "tests"):
            assert secret not in file.name
            assert secret not in file.read_text()
        left_out = box.messages.pop(3)
        assert await shown(maildrop) == [2, 4]
        box.messages[3] = left_out
        assert await shown(maildrop) == [2, 4], "a listing that leaves one out does not bring it back"
        box.uidvalidity += 1
        async with maildrop.open(CLIENT, None) as session:
            assert len(session.entries) == 5, "these are other messages"


async def test_accounts_remember_apart(certificates: Certificates, tmp_path: Path) -> None:
    boxes = {(user, password): mailbox() for user, password in (("a", "x"), ("b", "x"))}
    async with pair(
        certificates.good, accounts=boxes, POP3_LOGIN="backend", BACKEND_IMAP_DELETE="keep", STATE_DIR=tmp_path
    ) as (maildrop, _):  # fmt: skip
        async with maildrop.open(CLIENT, login("a", "x")) as session:
            await session.commit([session.entries[0].unique_id])
        async with maildrop.open(CLIENT, login("a", "x")) as session:
            assert len(session.entries) == 4
        async with maildrop.open(CLIENT, login("b", "x")) as session:
            assert len(session.entries) == 5
    assert len(files(tmp_path)) == 1


BROKEN = [
    "",
    "{",
    "[]",
    '{"uidvalidity": 1000000007}',
    '{"uidvalidity": 1000000007, "hidden": "x", "failures": {}}',
]


@pytest.mark.parametrize("text", BROKEN)
async def test_a_broken_memory_shows_nothing_deleted_again(
    certificates: Certificates, tmp_path: Path, text: str
) -> None:
    async with pair(
        certificates.good, mailbox=mailbox(), BACKEND_IMAP_DELETE="keep", STATE_DIR=tmp_path
    ) as (maildrop, _):  # fmt: skip
        await delete(maildrop, 1)
        (file,) = files(tmp_path)
        file.write_text(text)
        with pytest.raises(Failure) as raised:
            await shown(maildrop)
        assert raised.value.look_at == "STATE_DIR"


async def test_a_memory_that_can_not_be_written_is_an_error_at_quit(certificates: Certificates, tmp_path: Path) -> None:
    async with pair(
        certificates.good, mailbox=mailbox(), BACKEND_IMAP_DELETE="keep", STATE_DIR=tmp_path
    ) as (maildrop, _):  # fmt: skip
        async with maildrop.open(CLIENT, None) as session:
            folder = tmp_path / "maildrop.imap"
            folder.rmdir()
            folder.write_text("in the way")
            with pytest.raises(Failure) as raised:
                await session.commit([session.entries[0].unique_id])
        assert raised.value.look_at == "STATE_DIR"


async def test_read_only(certificates: Certificates) -> None:
    box = mailbox()
    async with pair(certificates.good, mailbox=box, POP3_READ_ONLY=True) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert await read(session, 0) == b"Subject: 1\r\n\r\n"
            with pytest.raises(Failure) as raised:
                await session.commit([session.entries[0].unique_id])
        assert raised.value.look_at == "POP3_READ_ONLY"
        assert await shown(maildrop) == [1, 2, 3, 4, 5]
    assert not any("STORE" in command for command in server.commands)


@pytest.mark.fault("C8")
async def test_uidvalidity_is_looked_at_before_every_policy(certificates: Certificates) -> None:
    for policy in ("expunge", "trash", "flag", "keep"):
        box = mailbox(listed=TRASH, permanent_flags=ANY_KEYWORD)
        async with pair(
            certificates.good, mailbox=box, capabilities=(*UIDPLUS, "MOVE"), BACKEND_IMAP_DELETE=policy
        ) as (maildrop, server):  # fmt: skip
            async with maildrop.open(CLIENT, None) as session:
                box.uidvalidity += 1
                with pytest.raises(Disconnected, match="UIDVALIDITY"):
                    await session.commit([session.entries[0].unique_id])
        assert len(box.messages) == 5
        assert not any(word in command for command in server.commands for word in ("STORE", "MOVE", "EXPUNGE"))


async def test_deleting_without_uidplus_is_told_to_the_log(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    for policy, times in (("flag", 0), ("keep", 0), ("trash", 1), ("expunge", 1)):
        caplog.clear()
        async with pair(
            certificates.good, mailbox=mailbox(listed=TRASH), capabilities=BASE, BACKEND_IMAP_DELETE=policy
        ) as (maildrop, _):  # fmt: skip
            await delete(maildrop, 1)
        assert [record.name for record in caplog.records if "UIDPLUS" in record.message] == [LOGGER] * times


@pytest.mark.parametrize("policy", ["expunge", "flag", "trash"])
async def test_who_may_not_delete_is_told_so(certificates: Certificates, policy: str) -> None:
    """Dovecot says OK to STORE and EXPUNGE of one who lacks the right, and nothing is gone."""
    box = mailbox(permanent_flags=r"\Seen", listed=TRASH)
    async with pair(
        certificates.good, mailbox=box, capabilities=(*UIDPLUS, "SPECIAL-USE"), BACKEND_IMAP_DELETE=policy
    ) as (maildrop, _):
        with pytest.raises(Failure, match="may not delete"):
            await delete(maildrop, 1)
    assert len(box.messages) == 5


@pytest.mark.parametrize(
    ("box", "script"),
    [
        (mailbox(read_only=True), {}),
        (mailbox(permanent_flags=r"\Seen"), {}),
        (mailbox(), {"STORE": "NO not now"}),
        (mailbox(), {"STORE": Drop()}),
    ],
)
async def test_nothing_is_called_marked_that_is_not(
    certificates: Certificates, caplog: pytest.LogCaptureFixture, box: Mailbox, script: dict[Step, Action]
) -> None:
    async with pair(certificates.good, mailbox=box, capabilities=BASE, script=script) as (maildrop, _):
        with pytest.raises(Failure):
            await delete(maildrop, 1)
    assert "only marked" not in caplog.text


async def test_what_is_only_marked_is_told(certificates: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    async with pair(certificates.good, mailbox=mailbox(), capabilities=BASE) as (maildrop, _):
        await delete(maildrop, 1)
    assert "only marked" in caplog.text
