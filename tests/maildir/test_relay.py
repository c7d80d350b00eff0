from __future__ import annotations

import asyncio
import errno
import os
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from legacy_email_proxy.contracts import Failure, StorageFull
from legacy_email_proxy_plugins import threads
from legacy_email_proxy_plugins.maildir import MaildirRelay
from legacy_email_proxy_plugins.maildir.relay import PIECE_OCTETS
from maildir.conftest import pieces, send, tree
from waiting import until

MESSAGE = b"Subject: meter\r\n\r\n42\r\n"
LARGE = [b"x" * PIECE_OCTETS, b"y" * PIECE_OCTETS, b"z"]


def is_directory(descriptor: int) -> bool:
    return Path(f"/proc/self/fd/{descriptor}").resolve().is_dir()


class Hang:
    """Holds a worker thread in the system call that it replaces, once, until told to go on."""

    def __init__(self, real: Callable[..., Any], when: Callable[..., bool] = lambda *_: True) -> None:
        self._real = real
        self._when = when
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.reached.is_set() and self._when(*args):
            self.reached.set()
            assert self.go_on.wait(20)
        return self._real(*args, **kwargs)


@pytest.fixture
def hang_before_write(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hang]:
    hang = Hang(os.write)
    monkeypatch.setattr(os, "write", hang)
    yield hang
    hang.go_on.set()


@pytest.fixture
def hang_after_rename(monkeypatch: pytest.MonkeyPatch, maildir: Path) -> Iterator[Hang]:
    hang = Hang(os.fsync, is_directory)
    monkeypatch.setattr(os, "fsync", hang)
    yield hang
    hang.go_on.set()


async def test_message_stands_in_new_and_nothing_else_anywhere(maildir: Path, relay: MaildirRelay) -> None:
    receipt = await send(relay, pieces(MESSAGE))
    (name,) = tree(maildir)
    assert re.fullmatch(rf"new/\d+\.M\d+P{os.getpid()}Q\d+R\w+\.[^,:/]+,S={len(MESSAGE)}", name)
    assert name == f"new/{receipt.detail}"
    assert (maildir / name).read_bytes() == MESSAGE
    assert (maildir / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.fault("D2")
async def test_file_and_folder_are_on_disk_before_the_receipt(
    maildir: Path, relay: MaildirRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    await send(relay, pieces(MESSAGE))
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def recorded_fsync(descriptor: int) -> None:
        steps.append("sync " + Path(f"/proc/self/fd/{descriptor}").resolve().relative_to(maildir).parts[0])
        fsync(descriptor)

    def recorded_rename(path: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "rename", recorded_rename)
    await send(relay, pieces(MESSAGE))
    assert steps == ["sync tmp", "rename", "sync new"]


async def test_large_message_is_written_while_it_comes(maildir: Path, relay: MaildirRelay) -> None:
    sizes = []

    async def content() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"x" * (PIECE_OCTETS // 16)
            sizes.append(sum(file.stat().st_size for file in (maildir / "tmp").iterdir()))

    await send(relay, content())
    assert max(index / 16 * PIECE_OCTETS - size for index, size in enumerate(sizes, 1)) <= PIECE_OCTETS


async def test_short_writes_lose_nothing(maildir: Path, relay: MaildirRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, octets: write(descriptor, octets[:3]))
    await send(relay, pieces(MESSAGE, b"", MESSAGE))
    assert [content for content, _ in tree(maildir).values()] == [MESSAGE * 2]


class Faulty:
    """Raises `error` at the `turn`th call that `when` tells, and is the real thing otherwise."""

    def __init__(self, real: Callable[..., Any], turn: int, error: int, when: Callable[..., bool]) -> None:
        self._real, self._turn, self._error, self._when = real, turn, error, when

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._when(*args):
            self._turn -= 1
            if self._turn == 0:
                raise OSError(self._error, os.strerror(self._error))
        return self._real(*args, **kwargs)


def is_file(descriptor: int, *_: object) -> bool:
    return not is_directory(descriptor)


@pytest.mark.fault("D3")
@pytest.mark.parametrize(
    ("target", "name", "turn", "when"),
    [
        (os, "open", 1, lambda path, *_: Path(path).parent.name == "tmp"),
        (os, "open", 2, lambda path, *_: Path(path).parent.name == "tmp"),
        (os, "write", 1, is_file),
        (os, "write", 2, is_file),
        (os, "fsync", 1, is_file),
        (os, "fsync", 3, is_file),
        (Path, "rename", 1, lambda *_: True),
        (os, "open", 1, lambda path, *_: Path(path).name == "new"),
        (os, "fsync", 1, is_directory),
    ],
    ids=["open", "open again", "write", "second write", "fsync", "last fsync", "rename", "open folder", "fsync folder"],
)
@pytest.mark.parametrize(("error", "kind"), [
    (errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EIO, Failure), (errno.EMFILE, Failure),
    (errno.ETIMEDOUT, Failure), (errno.EROFS, Failure),
], ids=["ENOSPC", "EDQUOT", "EIO", "EMFILE", "ETIMEDOUT", "EROFS"])  # fmt: skip
async def test_fault_at_any_step_leaves_nothing(
    maildir: Path,
    relay: MaildirRelay,
    monkeypatch: pytest.MonkeyPatch,
    target: Any,
    name: str,
    turn: int,
    when: Callable[..., bool],
    error: int,
    kind: type[Failure],
) -> None:
    with monkeypatch.context() as patch:
        fault = Faulty(getattr(target, name), turn, error, when)
        patch.setattr(target, name, lambda *args, **kwargs: fault(*args, **kwargs))
        with pytest.raises(Failure) as caught:
            await send(relay, pieces(*LARGE))
    assert type(caught.value) is kind
    assert os.strerror(error) in str(caught.value)
    assert caught.value.look_at == "RELAY_MAILDIR_PATH"
    assert tree(maildir) == {}
    await send(relay, pieces(*LARGE))
    assert [content for content, _ in tree(maildir).values()] == [b"".join(LARGE)]


async def test_folder_without_fsync_is_used_all_the_same(
    maildir: Path, relay: MaildirRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", Faulty(os.fsync, 1, errno.EINVAL, is_directory))
    await send(relay, pieces(MESSAGE))
    assert len(tree(maildir)) == 1


async def test_file_that_can_not_be_removed_hides_no_verdict(
    maildir: Path, relay: MaildirRelay, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "fsync", Faulty(os.fsync, 1, errno.ENOSPC, is_file))
    monkeypatch.setattr(Path, "unlink", Faulty(Path.unlink, 1, errno.EIO, lambda *_, **__: True))
    with pytest.raises(StorageFull):
        await send(relay, pieces(MESSAGE))
    assert "Maildir file may be left behind: Input/output error" in caplog.text


@pytest.mark.parametrize("native", [False, True], ids=["by a scope", "by its task"])
@pytest.mark.parametrize("last", [False, True], ids=["between pieces", "at the end"])
async def test_cancelled_while_a_thread_writes(
    maildir: Path, relay: MaildirRelay, hang_before_write: Hang, native: bool, last: bool
) -> None:
    # Only aiosmtpd cancels a task natively, when its connection is lost.
    scope = anyio.CancelScope()

    async def session() -> None:
        with scope:
            await send(relay, pieces(*([MESSAGE] if last else LARGE)))

    task = asyncio.create_task(session())
    await until(hang_before_write.reached.is_set)
    if native:
        task.cancel()
    else:
        scope.cancel()
    await asyncio.wait([task], timeout=50)
    assert task.done(), "a hanging disk must not keep a cancelled session"
    hang_before_write.go_on.set()
    await until(lambda: tree(maildir) == {})
    await send(relay, pieces(MESSAGE))
    assert len(tree(maildir)) == 1


async def test_session_gives_up_on_a_hanging_disk(
    maildir: Path, relay: MaildirRelay, hang_before_write: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "ANSWER_SECONDS", 0.2)
    with pytest.raises(Failure, match=r"no answer from the file system within 0.2 s \(see RELAY_MAILDIR_PATH\)"):
        await send(relay, pieces(MESSAGE))
    hang_before_write.go_on.set()
    # The device has read "try again": what the thread does now must not become a second copy.
    await until(lambda: tree(maildir) == {})
    await send(relay, pieces(b"the second try"))
    assert [content for content, _ in tree(maildir).values()] == [b"the second try"]


async def test_session_gives_up_after_the_rename(
    maildir: Path, relay: MaildirRelay, hang_after_rename: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "ANSWER_SECONDS", 0.2)
    with pytest.raises(Failure, match="no answer"):
        await send(relay, pieces(MESSAGE))
    assert hang_after_rename.reached.is_set()
    assert tree(maildir) == {}


async def test_hanging_thread_holds_up_no_other_session(
    maildir: Path, relay: MaildirRelay, hang_before_write: Hang
) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send, relay, pieces(MESSAGE))
        await until(hang_before_write.reached.is_set)
        with anyio.fail_after(50):
            await send(relay, pieces(b"another"))
        assert [content for name, (content, _) in tree(maildir).items() if name.startswith("new/")] == [b"another"]
        hang_before_write.go_on.set()
    assert len(tree(maildir)) == 2


@pytest.mark.fault("D12")
@pytest.mark.parametrize(("name", "when"), [("write", is_file), ("fsync", is_directory)])
async def test_full_house_of_hanging_threads_ends_in_a_failure(
    maildir: Path, relay: MaildirRelay, monkeypatch: pytest.MonkeyPatch, name: str, when: Callable[..., bool]
) -> None:
    await send(relay, pieces(MESSAGE))
    go_on = threading.Event()
    real = getattr(os, name)

    def hanging(*args: Any) -> Any:
        assert not when(*args) or go_on.wait(20)
        return real(*args)

    monkeypatch.setattr(os, name, hanging)
    monkeypatch.setattr(threads, "ANSWER_SECONDS", 0.3)
    failures = []

    async def session() -> None:
        with pytest.raises(Failure, match="no answer") as caught:
            await send(relay, pieces(b"not taken"))
        failures.append(caught.value)

    before = threading.active_count()
    async with anyio.create_task_group() as tasks:
        for _ in range(threads.WORKERS * 3):
            tasks.start_soon(session)
    assert len(failures) == threads.WORKERS * 3
    assert threading.active_count() - before < threads.WORKERS
    go_on.set()
    await until(lambda: [content for content, _ in tree(maildir).values()] == [MESSAGE])


async def test_cancelled_between_two_pieces_leaves_nothing(
    maildir: Path, relay: MaildirRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stuck() -> AsyncIterator[bytes]:
        for piece in LARGE:
            yield piece
        assert list(tree(maildir)) != []
        scope.cancel()
        await anyio.sleep_forever()

    async def session() -> None:
        with scope:
            await send(relay, stuck())

    scope = anyio.CancelScope()
    hang = Hang(Path.unlink)
    monkeypatch.setattr(Path, "unlink", lambda path, **options: hang(path, **options))
    task = asyncio.create_task(session())
    await until(hang.reached.is_set)
    await anyio.wait_all_tasks_blocked()
    assert not task.done(), "the session is over before its file is gone"
    hang.go_on.set()
    await task
    assert tree(maildir) == {}
