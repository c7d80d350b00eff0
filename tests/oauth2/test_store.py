"""The file: atomic, private, encrypted with a key, and clear in what is wrong with it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from legacy_email_proxy.contracts import BearerToken, Failure, Overloaded, Secret, StorageFull
from legacy_email_proxy.plugins import PluginContext
from legacy_email_proxy_plugins.oauth2 import store as module
from legacy_email_proxy_plugins.oauth2.store import Damaged, Record, Store
from oauth2.support import STORE_KEY

ACCESS, REFRESH = "the-access-token", "the-refresh-token"
RECORD = Record(
    "refresh_token", BearerToken(ACCESS), Secret(REFRESH), "mail", 10.0, 3610.0, "seed", "basis", "oh", 5.0, 7.0
)


def store_in(folder: Path, account: str = "default", key: str | None = None) -> Store:
    return Store(lambda: folder, account, Secret(key) if key else None)


def names_in(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


def part_in(folder: Path) -> os.stat_result:
    (part,) = folder.glob("*.part")
    return part.stat()


@pytest.mark.parametrize("key", [None, STORE_KEY])
async def test_what_is_saved_is_there_after_a_restart(tmp_path: Path, key: str | None) -> None:
    await store_in(tmp_path, key=key).save(RECORD)
    assert await store_in(tmp_path, key=key).load() == RECORD
    assert names_in(tmp_path) == ["default.json"]
    assert stat.S_IMODE((tmp_path / "default.json").stat().st_mode) == 0o600


async def test_what_is_saved_takes_the_room_that_was_held_for_it(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    await store.save(Record(scope="old"))
    async with store.room():
        held = part_in(tmp_path)
        assert stat.S_IMODE(held.st_mode) == 0o600
        await store.save(RECORD)
        assert (tmp_path / "default.json").stat().st_ino == held.st_ino
        assert (tmp_path / "default.json").stat().st_size < 1000 < held.st_size
    assert await store_in(tmp_path).load() == RECORD
    async with store.room():
        pass
    assert names_in(tmp_path) == ["default.json"]


async def test_the_largest_record_fits_into_the_room(tmp_path: Path) -> None:
    token = '"' * 16384
    store = store_in(tmp_path, key=STORE_KEY)
    await store.save(replace(RECORD, access_token=BearerToken(token), refresh_token=Secret(token), error="x" * 1000))
    async with store.room():
        assert (tmp_path / "default.json").stat().st_size < part_in(tmp_path).st_size


async def test_nothing_is_there_at_first(tmp_path: Path) -> None:
    assert await store_in(tmp_path).load() == Record()


async def test_with_a_key_no_secret_is_in_the_file(tmp_path: Path) -> None:
    await store_in(tmp_path, key=STORE_KEY).save(RECORD)
    octets = (tmp_path / "default.json").read_bytes()
    for text in (ACCESS, REFRESH, STORE_KEY):
        assert text.encode() not in octets
        assert base64.b64encode(text.encode()) not in octets
    decoded = b"".join(base64.b64decode(part) for part in json.loads(octets).values())
    assert REFRESH.encode() not in decoded


async def test_each_save_is_sealed_anew(tmp_path: Path) -> None:
    store = store_in(tmp_path, key=STORE_KEY)
    sealed = set()
    for _ in range(3):
        await store.save(RECORD)
        sealed.add((tmp_path / "default.json").read_text())
    assert len(sealed) == 3


def test_a_record_prints_no_secret() -> None:
    assert ACCESS not in repr(RECORD)
    assert REFRESH not in repr(RECORD)


async def test_a_key_that_comes_later_encrypts_at_the_next_save(tmp_path: Path) -> None:
    await store_in(tmp_path).save(RECORD)
    later = store_in(tmp_path, key=STORE_KEY)
    assert await later.load() == RECORD
    await later.save(RECORD)
    assert REFRESH not in (tmp_path / "default.json").read_text()


async def sealed(tmp_path: Path) -> Path:
    await store_in(tmp_path, key=STORE_KEY).save(RECORD)
    return tmp_path / "default.json"


DAMAGES: dict[str, tuple[Callable[[str], str], str]] = {
    "cut": (lambda text: text[: len(text) // 2], "is damaged"),
    "empty": (lambda text: "", "is damaged"),
    "no JSON": (lambda text: "\0" * 100, "is damaged"),
    "another program's": (lambda text: '{"token": "x"}', "is damaged"),
    "a list": (lambda text: "[]", "is damaged"),
    "wrong types": (lambda text: '{"obtained": "yesterday"}', "is damaged"),
    "a number for a token": (lambda text: '{"refresh_token": 7}', "is damaged"),
    "no salt": (lambda text: text.replace("salt", "sugar"), "is damaged"),
    "no base64": (lambda text: json.dumps(json.loads(text) | {"nonce": "%"}), "is damaged"),
    "a bit turned": (
        lambda text: json.dumps(json.loads(text) | {"sealed": base64.b64encode(b"x" * 99).decode()}),
        "another key, or is damaged",
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
async def test_a_damaged_file(tmp_path: Path, case: str) -> None:
    damage, words = DAMAGES[case]
    file = await sealed(tmp_path)
    file.write_text(damage(file.read_text()))
    with pytest.raises(Damaged, match=words) as raised:
        await store_in(tmp_path, key=STORE_KEY).load()
    assert raised.value.look_at in ("STATE_DIR", "OAUTH2_STORE_KEY")


@pytest.mark.parametrize(("key", "words"), [(None, "there is no key for it"), ("another", "another key")])
async def test_the_key_is_missing_or_another(tmp_path: Path, key: str | None, words: str) -> None:
    file = await sealed(tmp_path)
    before = file.read_bytes()
    with pytest.raises(Damaged, match=words):
        await store_in(tmp_path, key=key).load()
    assert file.read_bytes() == before


async def test_one_accounts_file_is_of_no_use_as_anothers(tmp_path: Path) -> None:
    file = await sealed(tmp_path)
    file.rename(tmp_path / "other.json")
    with pytest.raises(Damaged):
        await store_in(tmp_path, "other", STORE_KEY).load()


async def test_names_of_accounts_never_leave_the_folder(tmp_path: Path) -> None:
    names = ["../../etc/passwd", "a/b", "ä", "", "x@firm.example", ".", "%2e"]
    for name in names:
        await store_in(tmp_path, name).save(RECORD)
    assert len(names_in(tmp_path)) == len(names)


def failing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, name, fail) if name != "replace" else monkeypatch.setattr(Path, "replace", fail)


@pytest.mark.parametrize("step", ["fsync", "replace", "chown"])
async def test_a_fault_at_each_step_leaves_the_old_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    if step == "chown" and os.geteuid() != 0:
        pytest.skip("only root changes owners")
    store = store_in(tmp_path)
    await store.save(Record(scope="old"))
    with monkeypatch.context() as patched:
        failing(step, patched)
        with pytest.raises(StorageFull, match=r"can not be stored: Input/output error .see STATE_DIR"):
            await store.save(RECORD)
    assert (await store_in(tmp_path).load()).scope == "old"
    assert names_in(tmp_path) == ["default.json"], "nothing half written is left"


async def test_file_and_folder_are_synchronised_around_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def note_replace(self: Path, target: Path) -> Path:
        done.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    await store_in(tmp_path).save(RECORD)
    assert done == ["file", "rename", "folder"]


async def test_what_another_process_saves_is_seen(tmp_path: Path) -> None:
    ours, theirs = store_in(tmp_path), store_in(tmp_path)
    await ours.save(Record(scope="one"))
    assert (await ours.load()).scope == "one"
    await theirs.save(Record(scope="two"))
    assert (await ours.load()).scope == "two"
    (tmp_path / "default.json").unlink()
    assert await ours.load() == Record()


async def test_the_lock_keeps_others_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = store_in(tmp_path), store_in(tmp_path)
    order: list[str] = []

    async def other() -> None:
        async with theirs.locked():
            order.append("theirs")

    async with anyio.create_task_group() as group:
        async with ours.locked():
            group.start_soon(other)
            await anyio.sleep(0.1)
            order.append("ours")
    assert order == ["ours", "theirs"]
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.1)
    async with ours.locked():
        with pytest.raises(Overloaded, match="busy with this account's token"):
            async with theirs.locked():
                pass
        waiting = asyncio.create_task(locked_for(theirs, 5))
        await asyncio.wait({waiting}, timeout=0.3)
        assert not waiting.done(), "a consent has more patience"
    await waiting


async def locked_for(store: Store, seconds: float) -> None:
    async with store.locked(seconds):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root leaves files of another user")
async def test_what_root_leaves_is_the_services(tmp_path: Path) -> None:
    state, service = tmp_path / "state", 12345
    state.mkdir()
    os.chown(state, service, service)
    folder = PluginContext("credentials.oauth2", {"STATE_DIR": state}).state_dir
    store = store_in(folder)
    async with store.locked(), store.room():
        await store.save(RECORD)
    owners = {name: (folder / name).stat().st_uid for name in [".", *names_in(folder)]}
    assert owners == {".": service, "default.json": service, "default.lock": service}
    # Left by an earlier version.
    os.chown(folder / "default.lock", 0, 0)
    async with store.locked():
        assert (folder / "default.lock").stat().st_uid == service


async def test_no_link_is_followed(tmp_path: Path) -> None:
    """Whose the folder is may have put it there, for root to give away what it points to."""
    state, others = tmp_path / "state", tmp_path / "others"
    state.mkdir()
    if os.geteuid() == 0:
        os.chown(state, 12345, 12345)
    others.write_text("somebody else's")
    store = store_in(state)
    async with store.room():
        (part,) = state.iterdir()
        part.unlink()
        part.symlink_to(others)
        with pytest.raises(StorageFull):
            await store.save(RECORD)
    (state / "default.lock").symlink_to(others)
    with pytest.raises(StorageFull):
        async with store.locked():
            pass
    assert (others.read_text(), others.stat().st_uid) == ("somebody else's", os.geteuid())


async def test_where_there_are_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with anyio.fail_after(50), pytest.raises(StorageFull, match="can not be stored: No locks available"):
        async with store_in(tmp_path).locked():
            pass


@pytest.mark.parametrize("damage", ["directory", "forbidden"])
async def test_a_file_that_can_not_be_read(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "default.json"
    file.mkdir()
    if damage == "forbidden":

        def forbidden(*_: object) -> None:
            # Root may read everything.
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(Damaged, match=r"can not be read: (Is a directory|Permission denied)") as raised:
        await store_in(tmp_path).load()
    assert raised.value.look_at == "STATE_DIR"
    with pytest.raises(StorageFull, match="can not be stored: Is a directory"):
        await store_in(tmp_path).save(RECORD)
    assert names_in(tmp_path) == ["default.json"]


async def test_a_folder_that_can_not_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = store_in(tmp_path / "file")
    with pytest.raises(Failure):
        await store.load()
    with pytest.raises(StorageFull):
        await store.save(RECORD)
    with pytest.raises(StorageFull):
        async with store.locked():
            pass
