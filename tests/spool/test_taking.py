"""What a device reads, and what is on disk by then."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections import namedtuple
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest

from legacy_email_proxy.contracts import Failure, Level, SettingsMistake, StorageFull
from legacy_email_proxy.replies import smtp_reply
from legacy_email_proxy_plugins import files as files_module
from legacy_email_proxy_plugins.spool import delivery as delivery_module
from legacy_email_proxy_plugins.spool import group_commit as writer_module
from legacy_email_proxy_plugins.spool import settings as settings_module
from legacy_email_proxy_plugins.spool import sqlite_files as bodies_module
from legacy_email_proxy_plugins.spool.spool import Spool
from spool.support import CONTENT, SENDER, SQLITE, Backend, bodies, listed, operate, send, spool_to, spooling
from waiting import until

pytestmark = pytest.mark.usefixtures("store")

LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcde\r\n" * 200_000


def stuck() -> Backend:
    """A backend that never comes to the final dot."""
    return Backend(before_dot=lambda _: anyio.sleep_forever())


@pytest.mark.parametrize("content", [b"", CONTENT, LARGE], ids=["empty", "small", "large"])
async def test_what_was_taken_outlives_the_process(tmp_path: Path, content: bytes) -> None:
    async with spooling(stuck(), tmp_path) as spool:
        await send(spool, "a@example.test", "b@example.test", content=content, parameters={"BODY": "8BITMIME"})
    backend = Backend()
    async with spooling(backend, tmp_path) as spool:
        await until(lambda: backend.delivered)
        (delivered,) = backend.delivered
        assert delivered.reverse_path == SENDER
        assert delivered.forward_paths == ("a@example.test", "b@example.test")
        assert delivered.content == content
        assert delivered.parameters == {"BODY": "8BITMIME", "SIZE": str(len(content))}
        await until(lambda: not bodies(tmp_path))
        assert await listed(spool) == []


@pytest.mark.parametrize("octets", [10, 3_000_000])
async def test_a_device_that_vanishes_leaves_nothing(tmp_path: Path, octets: int) -> None:
    class Vanished(Exception):
        pass

    async def broken() -> AsyncIterator[bytes]:
        for _ in range(0, octets, 1_000_000):
            yield b"x" * min(octets, 1_000_000)
        raise Vanished

    async with spooling(Backend(), tmp_path) as spool:
        with pytest.raises(Vanished):
            await send(spool, content=broken())
        assert await listed(spool) == []
        assert bodies(tmp_path) == []


FULL = (errno.ENOSPC, errno.EDQUOT)
ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.EINVAL, errno.ENOTSUP]


@pytest.mark.fault("D3")
@SQLITE
@pytest.mark.parametrize(
    ("module", "name"),
    [
        *((bodies_module, name) for name in ("open", "write", "fsync")),
        # Of the folder in which the file is: its name may be lost with the power.
        *((files_module, name) for name in ("open", "fsync")),
    ],
)
@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
async def test_an_error_in_a_file_is_no_250(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, number: int
) -> None:
    backend = Backend()
    async with spooling(backend, tmp_path) as spool:
        with monkeypatch.context() as broken:
            broken.setattr(module, "os", _Broken(name, number))
            with pytest.raises(Failure) as caught:
                await send(spool, content=LARGE)
            reply = smtp_reply(caught.value)
            expected = (452, "4.3.1") if number in FULL else (451, "4.3.0")
            assert (reply.code, reply.enhanced) == expected
        assert await listed(spool) == []
        assert bodies(tmp_path) == []
        await send(spool)
        await until(lambda: backend.contents == [CONTENT])


@pytest.mark.fault("D3")
@SQLITE
async def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend()
    async with spooling(backend, tmp_path) as spool:
        monkeypatch.setattr(bodies_module, "os", _Broken("write", 0))
        await send(spool, content=LARGE)
        await until(lambda: backend.contents == [LARGE])


class _Broken:
    """The module ``os``, in which one function fails; error 0 makes ``write`` write less than asked."""

    def __init__(self, name: str, number: int) -> None:
        self._name = name
        self._number = number

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name != self._name:
            return real

        def broken(*arguments: Any, **options: Any) -> Any:
            if not self._number:
                return real(arguments[0], arguments[1][: 1 + len(arguments[1]) // 2])
            raise OSError(self._number, os.strerror(self._number), "x")

        return broken


@pytest.mark.fault("D3")
@SQLITE
@pytest.mark.parametrize(
    ("code", "expected"),
    [(sqlite3.SQLITE_FULL, 452), (sqlite3.SQLITE_IOERR_FSYNC, 451), (sqlite3.SQLITE_READONLY, 451)],
)
async def test_an_error_of_the_database_is_no_250(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: int
) -> None:
    monkeypatch.setattr(delivery_module, "_TROUBLE_SECONDS", 0.01)
    backend = Backend()
    async with spooling(backend, tmp_path) as spool:

        def failing(connection: Any, jobs: Any, bulk: Any, begin: str) -> None:
            error = sqlite3.OperationalError("as the test wants it")
            error.sqlite_errorcode = code
            raise error

        with monkeypatch.context() as broken:
            broken.setattr(writer_module, "_transaction", failing)
            for content in (CONTENT, LARGE):
                with pytest.raises(Failure) as caught:
                    await send(spool, content=content)
                assert smtp_reply(caught.value).code == expected
        assert bodies(tmp_path) == []
        assert await listed(spool) == []
        await send(spool)
        await until(lambda: backend.contents == [CONTENT])


async def test_a_record_that_fails_takes_no_neighbour_along(tmp_path: Path) -> None:
    backend = Backend()
    async with spooling(backend, tmp_path) as spool:
        failed = []

        async def one(path: str) -> None:
            try:
                await send(spool, path)
            except Exception as error:
                failed.append((path, error))

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(one, "\udcff@example.test" if number == 7 else f"{number}@example.test")
        assert len(failed) == 1
        assert smtp_reply(failed[0][1]).code == 451
        await until(lambda: len(backend.delivered) == 19)


@pytest.mark.fault("D4")
@SQLITE
async def test_refused_at_mail_while_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = {"free": 3 * 65536 // 2 - 4096}
    usage = namedtuple("usage", "f_bavail f_frsize")
    monkeypatch.setattr(os, "statvfs", lambda _: usage(space["free"] // 4096, 4096))
    backend = Backend()
    async with spooling(backend, tmp_path, SMTP_MAX_OCTETS="65536") as spool:
        with pytest.raises(StorageFull, match="STATE_DIR"):
            await send(spool)
        space["free"] = 3 * 65536
        spool._spool.store._free = (0.0, None)  # type: ignore[attr-defined]
        await send(spool)
        await until(lambda: backend.contents == [CONTENT])


async def test_refused_at_mail_while_too_much_waits(tmp_path: Path) -> None:
    async with spooling(stuck(), tmp_path, SPOOL_MAX_OCTETS="65536") as spool:
        await send(spool, content=b"x" * 65_536)
        with pytest.raises(StorageFull, match="SPOOL_MAX_OCTETS"):
            await send(spool)
        ((number,),) = [(each["number"],) for each in await listed(spool)]
        await operate(spool, "drop", number)
        await send(spool)


@pytest.mark.fault("D6")
@SQLITE
async def test_a_second_service_refuses_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with spooling(stuck(), tmp_path) as first:
        await send(first)
        # As another process sees it: that has no part in what this one has open.
        monkeypatch.setattr(Spool, "_of_this_process", {})
        second = spool_to(Backend(), tmp_path)
        with pytest.raises(SettingsMistake) as caught:
            await second.start()
        (line,) = caught.value.lines
        assert line.startswith("STATE_DIR: process ")
        assert str(os.getpid()) in line
        await second.aclose()
        assert len(await listed(first)) == 1
    async with spooling(Backend(), tmp_path):
        pass


@SQLITE
@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"SPOOL_RETRY_SECONDS": "60,soon"}, "SPOOL_RETRY_SECONDS: numbers"),
        ({"SPOOL_RETRY_SECONDS": "0"}, "SPOOL_RETRY_SECONDS: numbers"),
        ({"SPOOL_URL": "mysql://x"}, "SPOOL_URL: write sqlite:///"),
        ({"SPOOL_URL": "sqlite:///"}, "SPOOL_URL: write sqlite:///"),
        ({"SPOOL_URL": "postgresql://user:pass%zzword@host/mail"}, "SPOOL_URL: that is no URL of a PostgreSQL"),
        ({"SPOOL_NOTIFY": "postmaster"}, "SPOOL_POSTMASTER: not set"),
        ({"SPOOL_POSTMASTER": "nobody"}, "SPOOL_POSTMASTER: that is no address"),
        ({"SPOOL_RELAY": "spool"}, "SPOOL_RELAY: the spool can not hand on to itself"),
    ],
)
def test_settings_that_can_not_work(tmp_path: Path, variables: dict[str, str], line: str) -> None:
    with pytest.raises(SettingsMistake) as caught:
        spool_to(Backend(), tmp_path, **variables)
    assert any(each.startswith(line) for each in caught.value.lines)


@SQLITE
@pytest.mark.parametrize("slashes", ["", "/"])
async def test_a_url_is_never_relative(tmp_path: Path, slashes: str) -> None:
    url = f"sqlite:///{slashes}{str(tmp_path / 'here' / 'mail.db').lstrip('/')}"
    async with spooling(Backend(), tmp_path / "state", SPOOL_URL=url):
        assert (tmp_path / "here" / "mail.db").exists()
        assert (tmp_path / "here" / "mail.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.fault("D5")
@SQLITE
async def test_a_folder_that_can_not_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    spool = spool_to(Backend(), tmp_path, SPOOL_URL=f"sqlite:///{tmp_path}/file/spool.db")
    with pytest.raises(SettingsMistake, match=r"SPOOL_URL: can not use .*/file is no folder"):
        await spool.start()
    await spool.aclose()


@SQLITE
async def test_a_setting_that_nobody_set_is_not_blamed(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    spool = spool_to(Backend(), tmp_path / "state")
    with pytest.raises(SettingsMistake, match=r"^STATE_DIR: can not use .*/state is no folder"):
        await spool.start()
    await spool.aclose()
    finding = (await spool_to(Backend(), tmp_path / "state").probe())[0]
    assert finding.level is Level.BAD
    assert "SPOOL_URL" not in finding.text + finding.advice


@SQLITE
@pytest.mark.parametrize("there", [False, True])
async def test_a_spool_in_a_volume_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, there: bool
) -> None:
    words = "the spool is in a volume without a name"
    for nameless in (False, True):
        monkeypatch.setattr(settings_module, "in_nameless_volume", lambda _, nameless=nameless: nameless)
        caplog.clear()
        if there:
            async with spooling(Backend(), tmp_path):
                pass
            assert (words in caplog.messages) == nameless
        found = await spool_to(Backend(), tmp_path).probe()
        assert any(words in each.text for each in found if each.level is Level.WARNING) == nameless


@pytest.mark.parametrize("there", ["nothing", "a file", "no right"])
async def test_check_says_whether_a_spool_can_be_made(
    tmp_path: Path, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "state"
    if there == "a file":
        folder.write_bytes(b"")
    elif there == "no right":  # as in a container that is read only and has no volume
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    found = (await spool_to(Backend(), tmp_path, SPOOL_URL=f"sqlite://{folder}/deeper/spool.db").probe())[0]
    if there == "nothing":
        assert (found.level, found.text.endswith("does not exist yet and will be made")) == (Level.GOOD, True)
    else:
        reason = f"{folder} is no folder" if there == "a file" else f"{tmp_path} is not writable"
        assert (found.level, found.text.endswith(reason)) == (Level.BAD, True), found
        assert "SPOOL_URL" in found.advice
