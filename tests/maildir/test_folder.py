from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from legacy_email_proxy.contracts import Failure, Level, SettingsMistake
from legacy_email_proxy.testing import context_for
from legacy_email_proxy_plugins.maildir import MaildirMaildrop, MaildirRelay
from maildir.conftest import CLIENT, pieces, send, subfolders, tree


def as_file(path: Path) -> None:
    path.write_text("a mailbox of another kind")


def as_home(path: Path) -> None:
    path.mkdir()
    (path / "letter.txt").write_text("keep me")


def with_a_file_for_new(path: Path) -> None:
    (path / "cur").mkdir(parents=True)
    (path / "new").write_text("no folder")


def as_unreadable(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize(("make", "words"), [
    (as_file, "is no folder"),
    (as_home, "is no Maildir but holds other files"),
    (with_a_file_for_new, "new' is no folder"),
    (as_unreadable, "can not use"),
])  # fmt: skip
def test_unusable_path_is_a_mistake_and_stays_as_it_is(
    tmp_path: Path, make: Callable[[Path], None], words: str
) -> None:
    path = tmp_path / "maildir"
    make(path)
    before = sorted(os.walk(tmp_path))
    for plugin, variable in ((MaildirRelay, "RELAY_MAILDIR_PATH"), (MaildirMaildrop, "MAILDROP_MAILDIR_PATH")):
        with pytest.raises(SettingsMistake, match=words) as caught:
            plugin(context_for(plugin, tmp_path, **{variable: str(path)}))
        assert all(line.startswith(f"{variable}: ") for line in caught.value.lines)
    assert sorted(os.walk(tmp_path)) == before


@pytest.mark.parametrize("there", [["tmp", "new", "cur"], ["cur"]])
def test_no_folder_is_listed_at_the_start(tmp_path: Path, there: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(path: object = ".") -> None:
        raise AssertionError(f"{path} is listed")

    for name in there:
        (tmp_path / "maildir" / name).mkdir(parents=True)
    monkeypatch.setattr(os, "listdir", endless)
    monkeypatch.setattr(os, "scandir", endless)
    for plugin, variable in ((MaildirRelay, "RELAY_MAILDIR_PATH"), (MaildirMaildrop, "MAILDROP_MAILDIR_PATH")):
        plugin(context_for(plugin, tmp_path, **{variable: str(tmp_path / "maildir")}))


def test_parents_are_not_made(tmp_path: Path) -> None:
    with pytest.raises(SettingsMistake, match="there is no folder"):
        MaildirRelay(context_for(MaildirRelay, tmp_path, RELAY_MAILDIR_PATH=str(tmp_path / "typo" / "maildir")))


def test_path_must_be_set(tmp_path: Path) -> None:
    with pytest.raises(SettingsMistake, match="RELAY_MAILDIR_PATH: not set"):
        MaildirRelay(context_for(MaildirRelay, tmp_path))


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsMistake) as caught:
        MaildirMaildrop(context_for(MaildirMaildrop, tmp_path, POP3_LOGIN="backend"))
    assert [line.partition(":")[0] for line in caught.value.lines] == ["POP3_LOGIN", "MAILDROP_MAILDIR_PATH"]


@pytest.mark.parametrize("there", [[], ["maildir"], ["maildir", "maildir/new"]], ids=["missing", "empty", "incomplete"])
async def test_maildir_is_made_at_first_use(tmp_path: Path, relay: MaildirRelay, there: list[str]) -> None:
    for name in there:
        (tmp_path / name).mkdir(mode=0o700)
    await relay.probe()
    assert list(subfolders(tmp_path / "maildir")) == ["new"] * ("maildir/new" in there)
    await send(relay, pieces(b"x"))
    assert subfolders(tmp_path) == {"maildir": 0o700}
    assert subfolders(tmp_path / "maildir") == {"tmp": 0o700, "new": 0o700, "cur": 0o700}


async def test_maildrop_makes_it_too(tmp_path: Path, maildrop: MaildirMaildrop) -> None:
    async with maildrop.open(CLIENT, None) as session:
        assert session.entries == ()
    assert {*subfolders(tmp_path / "maildir")} == {"tmp", "new", "cur"}


async def test_vanished_maildir_is_not_made_again(
    maildir: Path, relay: MaildirRelay, maildrop: MaildirMaildrop
) -> None:
    await send(relay, pieces(b"x"))
    async with maildrop.open(CLIENT, None):
        pass
    shutil.move(maildir, maildir.with_name("unmounted"))
    with pytest.raises(Failure, match=r"No such file or directory: .*\(see RELAY_MAILDIR_PATH\)"):
        await send(relay, pieces(b"y"))
    with pytest.raises(Failure, match=r"\(see MAILDROP_MAILDIR_PATH\)"):
        async with maildrop.open(CLIENT, None):
            pass
    assert subfolders(maildir) == {}


async def test_what_a_crash_left_in_tmp_is_cleared(maildir: Path, relay: MaildirRelay) -> None:
    for name, hours in (("old", 37), ("young", 35)):
        (maildir / "tmp" / name).write_bytes(b"half a mess")
        os.utime(maildir / "tmp" / name, (time.time() - hours * 3600,) * 2)
    await send(relay, pieces(b"x"))
    assert [name for name in tree(maildir) if name.startswith("tmp/")] == ["tmp/young"]


async def test_probe_tells_path_messages_and_room(
    maildir: Path, relay: MaildirRelay, maildrop: MaildirMaildrop
) -> None:
    (maildir / "new" / "1.a.b").write_bytes(b"x")
    (maildir / "cur" / "2.a.b:2,S").write_bytes(b"x")
    (maildir / "tmp" / "3.a.b").write_bytes(b"x")
    for plugin in (relay, maildrop):
        (finding,) = await plugin.probe()
        assert finding.level is Level.GOOD
        assert finding.text.startswith(f"Maildir {maildir}: 2 messages, writable, ")
        assert finding.text.endswith(" MiB free")


async def test_probe_of_a_maildir_to_be_made(relay: MaildirRelay) -> None:
    (finding,) = await relay.probe()
    assert finding.level is Level.GOOD
    assert "does not exist yet and will be made" in finding.text


async def test_probe_warns_of_little_room(maildir: Path, tmp_path: Path) -> None:
    context = context_for(MaildirRelay, tmp_path, RELAY_MAILDIR_PATH=str(maildir), SMTP_MAX_OCTETS=str(2**60))
    relay = MaildirRelay(context)
    (finding,) = await relay.probe()
    assert finding.level is Level.WARNING
    await relay.aclose()


async def test_probe_finds_what_can_not_be_written(
    maildir: Path, relay: MaildirRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "new")
    (finding,) = await relay.probe()
    assert finding.level is Level.BAD
    assert finding.text.endswith(f"not writable: {maildir / 'new'}")


async def test_probe_of_a_broken_disk_is_a_finding(
    maildir: Path, relay: MaildirRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: object) -> None:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("shutil.disk_usage", broken)
    (finding,) = await relay.probe()
    assert finding.level is Level.BAD
    assert "Input/output error" in finding.text


async def test_probe_of_what_is_no_maildir_any_more(tmp_path: Path, relay: MaildirRelay) -> None:
    (tmp_path / "maildir").write_bytes(b"")
    (finding,) = await relay.probe()
    assert finding.level is Level.BAD
    assert "is no folder" in finding.text
