from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import anyio
import pytest

from legacy_email_proxy.contracts import Entry, Failure, MessageGone, MessageUnavailable
from legacy_email_proxy_plugins.maildir import MaildirMaildrop
from legacy_email_proxy_plugins.maildir import maildrop as module
from maildir.conftest import CLIENT, retrieve, tree
from waiting import until

UNIX_TEXT = b"Subject: from another program\n\n.bare LF\n"


def put(maildir: Path, *names: str, content: bytes = b"Subject: x\r\n\r\ny\r\n") -> None:
    for name in names:
        (maildir / name).write_bytes(content)


async def test_new_and_cur_in_the_order_of_delivery(maildir: Path, maildrop: MaildirMaildrop) -> None:
    put(
        maildir,
        "new/1600000003.M1P1.h",
        "cur/1600000002.M1P1.h:2,S",
        "new/1600000001.M10P1.h",
        "cur/1600000001.M9P1.h:2,",
    )
    async with maildrop.open(CLIENT, None) as session:
        assert [entry.unique_id for entry in session.entries] == [
            "1600000001.M9P1.h", "1600000001.M10P1.h", "1600000002.M1P1.h", "1600000003.M1P1.h",
        ]  # fmt: skip


async def test_octets_are_those_on_the_wire_where_the_name_tells(maildir: Path, maildrop: MaildirMaildrop) -> None:
    put(maildir, "new/1.a.h", "new/2.a.h,S=1", "cur/3.a.h,S=40,W=43:2,S", content=UNIX_TEXT)
    async with maildrop.open(CLIENT, None) as session:
        assert session.entries == (Entry("1.a.h", 40), Entry("2.a.h", 40), Entry("3.a.h", 43))
        assert await retrieve(session, "1.a.h") == UNIX_TEXT


async def test_reading_changes_nothing(maildir: Path, maildrop: MaildirMaildrop) -> None:
    put(maildir, "new/1.a.h", "cur/2.a.h:2,", "tmp/3.a.h")
    before = tree(maildir)
    async with maildrop.open(CLIENT, None) as session:
        for entry in session.entries:
            await retrieve(session, entry.unique_id)
    assert tree(maildir) == before


async def test_only_plain_files_are_messages(maildir: Path, maildrop: MaildirMaildrop, tmp_path: Path) -> None:
    put(maildir, "new/1.a.h", "new/.hidden", "tmp/2.a.h", "3.a.h")
    put(tmp_path, "secret")
    (maildir / "cur" / "folder").mkdir()
    (maildir / "cur" / "link").symlink_to(tmp_path / "secret")
    (maildir / "cur" / "dangling").symlink_to("nowhere")
    os.mkfifo(maildir / "cur" / "pipe")
    async with maildrop.open(CLIENT, None) as session:
        assert [entry.unique_id for entry in session.entries] == ["1.a.h"]


async def test_message_that_turned_into_a_pipe_hangs_nobody(maildir: Path, maildrop: MaildirMaildrop) -> None:
    put(maildir, "new/1.a.h")
    async with maildrop.open(CLIENT, None) as session:
        (maildir / "new" / "1.a.h").unlink()
        os.mkfifo(maildir / "new" / "1.a.h")
        with anyio.fail_after(50), pytest.raises(Failure):
            await retrieve(session, "1.a.h")


async def test_copy_in_new_and_cur_is_one_message(maildir: Path, maildrop: MaildirMaildrop) -> None:
    put(maildir, "new/1.a.h", "cur/1.a.h:2,S")
    async with maildrop.open(CLIENT, None) as session:
        assert [entry.unique_id for entry in session.entries] == ["1.a.h"]


@pytest.mark.parametrize("renamed", ["cur/1.a.h:2,", "cur/1.a.h:2,S", "cur/1.a.h,S=17:2,FRS", "new/1.a.h,S=17"])
async def test_renamed_message_is_found_again(maildir: Path, maildrop: MaildirMaildrop, renamed: str) -> None:
    put(maildir, "new/1.a.h", "new/2.a.h")
    async with maildrop.open(CLIENT, None) as session:
        (maildir / "new/1.a.h").rename(maildir / renamed)
        assert await retrieve(session, "1.a.h") == b"Subject: x\r\n\r\ny\r\n"
        (maildir / renamed).rename(maildir / "cur/1.a.h:2,T")
        await session.commit(["1.a.h"])
    assert list(tree(maildir)) == ["new/2.a.h"]


async def test_message_renamed_between_two_pieces(
    maildir: Path, maildrop: MaildirMaildrop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE_OCTETS", 4)
    put(maildir, "new/1.a.h", content=b"0123456789ab")
    async with maildrop.open(CLIENT, None) as session:
        pieces = session.retrieve("1.a.h")
        assert await anext(pieces) == b"0123"
        (maildir / "new/1.a.h").rename(maildir / "cur/1.a.h:2,S")
        assert [piece async for piece in pieces] == [b"4567", b"89ab"]


async def test_message_removed_between_two_pieces_does_not_look_complete(
    maildir: Path, maildrop: MaildirMaildrop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE_OCTETS", 4)
    put(maildir, "new/1.a.h", content=b"0123456789ab")
    async with maildrop.open(CLIENT, None) as session:
        pieces = session.retrieve("1.a.h")
        await anext(pieces)
        (maildir / "new/1.a.h").unlink()
        with pytest.raises(MessageGone):
            await anext(pieces)


async def test_message_renamed_while_the_folder_is_read(
    maildir: Path, maildrop: MaildirMaildrop, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(maildir, "cur/1.a.h:2,S", "new/2.a.h")
    scandir = os.scandir
    looks = []

    def missing_it(path: Path) -> object:
        looks.append(Path(path).name)
        if looks.count("cur") == 1 and looks[-1] == "cur":
            # POSIX lets a reader see a renamed file twice or never.
            (maildir / "cur/1.a.h:2,S").rename(maildir / "cur/1.a.h:2,RS")
            return scandir(maildir / "tmp")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", missing_it)
    async with maildrop.open(CLIENT, None) as session:
        assert [entry.unique_id for entry in session.entries] == ["1.a.h", "2.a.h"]


@pytest.mark.parametrize("error", [errno.EACCES, errno.EIO, errno.ELOOP])
async def test_unreadable_message_is_unavailable_alone(
    maildir: Path, maildrop: MaildirMaildrop, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    put(maildir, "new/1.a.h", "new/2.a.h")
    real = os.open

    def refusing(path: Path, flags: int, mode: int = 0o777) -> int:
        if Path(path).name == "1.a.h":
            raise OSError(error, os.strerror(error), str(path))
        return real(path, flags, mode)

    async with maildrop.open(CLIENT, None) as session:
        monkeypatch.setattr(os, "open", refusing)
        with pytest.raises(MessageUnavailable, match=os.strerror(error)):
            await retrieve(session, "1.a.h")
        assert await retrieve(session, "2.a.h")


async def test_a_bad_sector_spoils_one_message(
    maildir: Path, maildrop: MaildirMaildrop, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(maildir, "new/1.a.h", "new/2.a.h")
    bad = (maildir / "new/1.a.h").stat().st_ino
    real = os.pread

    def failing(descriptor: int, octets: int, offset: int) -> bytes:
        if os.fstat(descriptor).st_ino == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, octets, offset)

    async with maildrop.open(CLIENT, None) as session:
        monkeypatch.setattr(os, "pread", failing)
        with pytest.raises(MessageUnavailable, match=r"Input/output error: .*1\.a\.h"):
            await retrieve(session, "1.a.h")
        assert await retrieve(session, "2.a.h")


async def test_commit_that_fails_says_so(
    maildir: Path, maildrop: MaildirMaildrop, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(maildir, "new/1.a.h", "new/2.a.h")
    unlink = Path.unlink

    def refusing(path: Path, missing_ok: bool = False) -> None:
        if path.name == "2.a.h":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        unlink(path, missing_ok)

    async with maildrop.open(CLIENT, None) as session:
        monkeypatch.setattr(Path, "unlink", refusing)
        with pytest.raises(Failure, match=r"Read-only file system: .*2\.a\.h \(see MAILDROP_MAILDIR_PATH\)"):
            await session.commit(["1.a.h", "2.a.h"])
    assert list(tree(maildir)) == ["new/2.a.h"]


async def test_commit_is_on_disk_when_it_returns(
    maildir: Path, maildrop: MaildirMaildrop, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(maildir, "new/1.a.h", "cur/2.a.h:2,S")
    synced: list[tuple[str, list[str]]] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").resolve().name, list(tree(maildir))))
        fsync(descriptor)

    async with maildrop.open(CLIENT, None) as session:
        monkeypatch.setattr(os, "fsync", recorded)
        await session.commit(["1.a.h", "2.a.h"])
    assert synced == [("new", []), ("cur", [])]


async def test_hanging_session_holds_up_no_other(
    maildir: Path, maildrop: MaildirMaildrop, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(maildir, "new/1.a.h", "new/2.a.h")
    reached, go_on = threading.Event(), threading.Event()
    real = os.open

    def hanging(path: Path, flags: int, mode: int = 0o777) -> int:
        if Path(path).name == "1.a.h":
            reached.set()
            assert go_on.wait(20)
        return real(path, flags, mode)

    async def stuck() -> None:
        async with maildrop.open(CLIENT, None) as session:
            await retrieve(session, "1.a.h")

    monkeypatch.setattr(os, "open", hanging)
    with anyio.fail_after(50):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stuck)
            await until(reached.is_set)
            async with maildrop.open(CLIENT, None) as session:
                assert await retrieve(session, "2.a.h")
            go_on.set()


async def test_top_reads_no_further_than_its_reader(
    maildir: Path, maildrop: MaildirMaildrop, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    pread = os.pread

    def recorded(descriptor: int, octets: int, offset: int) -> bytes:
        reads.append(offset)
        return pread(descriptor, octets, offset)

    monkeypatch.setattr(module, "PIECE_OCTETS", 4)
    monkeypatch.setattr(os, "pread", recorded)
    put(maildir, "new/1.a.h", content=b"a: b\r\n\r\nbody\r\n")
    async with maildrop.open(CLIENT, None) as session:
        pieces = session.top("1.a.h", 0)
        assert [await anext(pieces) for _ in range(2)] == [b"a: b", b"\r\n\r\n"]
        assert reads == [0, 4]
        assert b"".join([piece async for piece in pieces]) == b"body\r\n"
