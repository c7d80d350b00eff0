"""A device that deletes blindly, before each built-in maildrop, whatever becomes of one of its messages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from fakes.imap import Action, Connection, Cut, Drop, Hang, Mailbox, Message, Reset
from fakes.server import Step
from imap.support import context as imap_context
from imap.support import pair
from legacy_email_proxy.plugins import PluginContext
from legacy_email_proxy_plugins.maildir.maildrop import MaildirMaildrop
from pop3.conftest import StartLeg
from realservers.certificates import Certificates

LOGIN = b"USER u\r\nPASS p\r\n"
MAIL = [b"Subject: %d\r\n\r\nbody of %d\r\n" % (number, number) for number in (1, 2, 3)]
COURIER = (
    b"From: System Administrator <root@localhost>\r\nSubject: message unavailable\r\n\r\n"
    b"This message is no longer available on the server.\r\n"
)


def blind(numbers: Sequence[int], how: bytes = b"RETR %d\r\nDELE %d\r\n") -> bytes:
    """Takes each message and deletes it, and looks at no answer."""
    return LOGIN + b"".join(how % (number, number) for number in numbers) + b"QUIT\r\n"


BROKEN: list[Action] = [
    b"TAG OK nothing\r\n",
    b"* OK Message 2 no longer exists\r\nTAG OK Completed\r\n",
    b"* 2 FETCH (UID 2 FLAGS ())\r\nTAG OK flags\r\n",
    b"* 2 FETCH (UID 2 BODY[] NIL)\r\nTAG OK done\r\n",
    b"* 2 FETCH (UID 2 BODY[] NIL)\r\nTAG OK [EXPUNGEISSUED] done\r\n",
    b"* 2 FETCH (UID 2 BODY[] {%d}\r\n%b)\r\nTAG OK done\r\n" % (len(COURIER), COURIER),
    b"* 2 FETCH (UID 3 BODY[] {2}\r\nhi)\r\nTAG OK done\r\n",
    b"garbage\r\n",
    "NO [OVERQUOTA] Account exceeded command or bandwidth limits. (Failure)",
    "NO [UNAVAILABLE] UID FETCH Server error - Please try again later",
    "NO [EXPUNGEISSUED] gone, it says",
    "NO [SERVERBUG] internal error",
    "NO [LIMIT] no more today",
    "NO something",
    "BAD what?",
    Drop(),
    Drop(b"* BYE internal error\r\n"),
    Reset(),
    Hang(),
    Hang(b"* 2 FETCH (UID 2 BODY[] {22}\r\nSubject: 2"),
    Cut(40),
    Cut(-1),
]


def at_two(answer: Action) -> dict[Step, Action]:
    """For the second message, alone or among others."""

    def broken(_: Connection, command: str) -> Action:
        return answer if command.split(" ")[2] in ("2", "1:2", "2:3", "1:3") else None

    return {"BODY": broken}  # type: ignore[dict-item]  # an action may be one that gives an action


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 1, 3), (2,)], ids=str)
@pytest.mark.parametrize("answer", BROKEN, ids=repr)
async def test_imap(certificates: Certificates, start_leg: StartLeg, answer: Action, order: tuple[int, ...]) -> None:
    # Only where it has to run out: a machine that is late would also need longer for the login.
    patience = {"read": 0.5, "command": 1.0} if isinstance(answer, Hang) else {}
    box = Mailbox.of(*MAIL)
    async with pair(certificates.good, mailbox=box, script=at_two(answer), seconds=patience) as (maildrop, _):
        leg = await start_leg(maildrop)
        out = await leg.exchange(blind(order))
        assert out.splitlines()[-1].startswith(b"-ERR [SYS/TEMP] some deleted messages were not removed")
        assert b"body of 2" not in out
        assert set(box.messages) == {1, 2, 3} - set(order) | {2}, "the others are deleted"
        await leg.ended()


@pytest.mark.parametrize("how", [b"TOP %d 4294967295\r\nDELE %d\r\n", b"TOP %d 0\r\nDELE %d\r\n"])
@pytest.mark.parametrize("answer", ["NO [SERVERBUG] no", "BAD what?", Drop(), b"TAG OK nothing\r\n"], ids=repr)
async def test_imap_by_top(certificates: Certificates, start_leg: StartLeg, answer: Action, how: bytes) -> None:
    box = Mailbox.of(*MAIL)
    async with pair(certificates.good, mailbox=box, script=at_two(answer)) as (maildrop, _):
        leg = await start_leg(maildrop)
        out = await leg.exchange(blind((1, 2, 3), how))
        assert out.splitlines()[-1].startswith(b"-ERR [SYS/TEMP] some deleted messages were not removed")
        assert list(box.messages) == [2]
        await leg.ended()


async def test_a_second_try_that_succeeds(certificates: Certificates, start_leg: StartLeg) -> None:
    box = Mailbox.of(*MAIL)
    async with pair(certificates.good, mailbox=box, script={("BODY", 1): "NO not now"}) as (maildrop, _):
        leg = await start_leg(maildrop)
        out = await leg.exchange(LOGIN + b"RETR 1\r\nRETR 1\r\nDELE 1\r\nQUIT\r\n")
        assert out.endswith(b"+OK goodbye\r\n")
        assert list(box.messages) == [2, 3]
        await leg.ended()


async def test_a_message_that_breaks_off(certificates: Certificates, start_leg: StartLeg) -> None:
    box = Mailbox({1: Message(MAIL[0]), 2: Message(b"S: 2\r\n\r\n" + b"x" * 3_000_000), 3: Message(MAIL[2])})
    async with pair(certificates.good, mailbox=box, script=at_two(Cut(-9))) as (maildrop, _):
        leg = await start_leg(maildrop)
        out = await leg.exchange(blind((1, 3, 2)))
        assert not out.endswith(b".\r\n")
        assert list(box.messages) == [1, 2, 3]
        await leg.ended()


@pytest.mark.parametrize("fault", [PermissionError, FileNotFoundError, IsADirectoryError, OSError])
async def test_maildir(
    tmp_path: Path, start_leg: StartLeg, monkeypatch: pytest.MonkeyPatch, fault: type[OSError]
) -> None:
    for folder in ("cur", "new", "tmp"):
        (tmp_path / folder).mkdir()
    paths = [tmp_path / "new" / f"{number}.x.host" for number in (1, 2, 3)]
    for path, octets in zip(paths, MAIL, strict=True):
        path.write_bytes(octets)
    settings = {"POP3_LOGIN": "any", "MAILDROP_MAILDIR_PATH": tmp_path}
    maildrop = MaildirMaildrop(PluginContext("maildrop.maildir", {**imap_context().settings, **settings}))
    leg = await start_leg(maildrop)
    opened = os.open

    def broken(path: Path, flags: int, mode: int = 0o777) -> int:
        if Path(path).name.startswith("2."):
            raise fault(1, "wrong", str(path))
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", broken)
    out = await leg.exchange(blind((1, 2, 3)))
    assert out.splitlines()[-1].startswith(b"-ERR [SYS/TEMP] some deleted messages were not removed")
    assert [path.exists() for path in paths] == [False, True, False]
    await leg.ended()
    await maildrop.aclose()


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("command", [b"TOP %d 0\r\n", b"RETR %d\r\n"])
async def test_a_list_newest_first_needs_one_login(
    certificates: Certificates, start_leg: StartLeg, command: bytes, newest_first: bool
) -> None:
    mail = [b"Subject: %d\r\n\r\n%b\r\n" % (number, b"x" * 500) for number in range(1, 101)]
    async with pair(certificates.good, *mail) as (maildrop, server):
        leg = await start_leg(maildrop)
        async with leg.logged_in() as (reader, writer):
            for number in reversed(range(1, 101)) if newest_first else range(1, 101):
                writer.write(command % number)
                answer = await reader.readuntil(b"\r\n.\r\n")
                assert b"Subject: %d\r\n" % number in answer
        await leg.ended()
        assert len(server.connections) == 1
        assert server.times("BODY") <= 5
