"""A message that Dovecot can not read is not lost to devices that delete blindly, nor to real mail programs."""

from __future__ import annotations

import contextlib
import os
import poplib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from interop.proxy import Proxy
from interop.test_clients import client, fetchmail, spooled
from realservers.accounts import Account
from realservers.dovecot import Dovecot
from realservers.processes import require, short_folder

MESSAGES = [b"Subject: %d\r\nFrom: a@example.test\r\n\r\nbody %d\r\n" % (number, number) for number in range(1, 6)]


@contextlib.contextmanager
def unreadable(dovecot: Dovecot, account: Account, wanted: bytes) -> Iterator[None]:
    """While it lasts, Dovecot may not open the file of this message; it hangs up on who asks for it."""
    (file,) = (
        path
        for path in (dovecot._folder / "home" / account.name / "maildir").rglob("*")
        if path.is_file() and path.parent.name in ("cur", "new") and path.read_bytes() == wanted
    )
    mode = file.stat().st_mode
    file.chmod(0)
    try:
        yield
    finally:
        # Its flags, and so its name, are as they were.
        file.chmod(mode)


def connected(proxy: Proxy) -> poplib.POP3:
    pop3 = poplib.POP3(*proxy.pop3, timeout=60)
    pop3.user("any")
    pop3.pass_("thing")
    return pop3


def blindly(pop3: poplib.POP3, numbers: list[int]) -> tuple[list[int], str]:
    """RETR and DELE each, whatever is answered, and QUIT; what was got, and the last answer."""
    got = []
    for number in numbers:
        with contextlib.suppress(poplib.error_proto):
            pop3.retr(number)
            got.append(number)
        pop3.dele(number)
    try:
        return got, pop3.quit().decode()
    except poplib.error_proto as refused:
        pop3.close()
        return got, str(refused)


@pytest.mark.parametrize("order", [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]], ids=str)
def test_a_blind_device(proxy: Proxy, dovecot: Dovecot, account: Account, order: list[int]) -> None:
    dovecot.add_messages(account.name, MESSAGES)
    pop3 = connected(proxy)
    with unreadable(dovecot, account, MESSAGES[2]):
        got, last = blindly(pop3, order)
    assert sorted(got) == [1, 2, 4, 5]
    assert "some deleted messages were not removed" in last
    assert dovecot.messages(account.name) == [MESSAGES[2]]
    # It is all right again, and the next session of the device takes it.
    assert blindly(connected(proxy), [1]) == ([1], "+OK goodbye")
    assert dovecot.messages(account.name) == []


def with_fetchmail(proxy: Proxy, folder: Path) -> int:
    fetchmail(proxy, folder, "--nokeep", "--fetchall", statuses=range(20))
    return spooled(folder)


def with_getmail(proxy: Proxy, folder: Path) -> int:
    program = require("getmail", "reads POP3 as a real client")
    for name in ("cur", "new", "tmp"):
        (folder / "mail" / name).mkdir(parents=True, exist_ok=True)
    (folder / "getmailrc").write_text(
        f"[retriever]\ntype = SimplePOP3Retriever\nserver = {proxy.pop3[0]}\nport = {proxy.pop3[1]}\n"
        f"username = any\npassword = thing\n[destination]\ntype = Maildir\npath = {folder}/mail/\n"
        "[options]\ndelete = true\n"
    )
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, "nobody")
    client(program, "--getmaildir", str(folder), "--rcfile", "getmailrc", "-q", user="nobody", statuses=range(256))
    return len(list((folder / "mail" / "new").iterdir()))


@pytest.mark.parametrize("fetch", [with_fetchmail, with_getmail])
def test_real_clients(proxy: Proxy, dovecot: Dovecot, account: Account, fetch: Callable[[Proxy, Path], int]) -> None:
    dovecot.add_messages(account.name, MESSAGES)
    connected(proxy).quit()  # After this Dovecot knows all sizes, and lists them without opening a file.
    with short_folder("client-") as folder:
        with unreadable(dovecot, account, MESSAGES[2]):
            fetch(proxy, folder)
        assert MESSAGES[2] in dovecot.messages(account.name)
        assert fetch(proxy, folder) >= 5, "each has come in the end"
        assert dovecot.messages(account.name) == []
