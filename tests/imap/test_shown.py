"""What of a folder is shown, and under which unique-ids."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fakes.imap import Action, Mailbox, Message
from imap.support import CLIENT, pair, read
from legacy_email_proxy.contracts import Disconnected, Failure, MessageGone, MessageUnavailable
from legacy_email_proxy_plugins.imap.deletion import _arrived, attributes
from legacy_email_proxy_plugins.imap.listing import UNIQUE_IDS
from legacy_email_proxy_plugins.imap.responses import Fetched
from realservers.certificates import Certificates

VALIDITY = 1_000_000_007

FORMATS = [
    ("dovecot", 255, "000000ff3b9aca07"),
    ("uw", 255, "3b9aca07000000ff"),
    ("cyrus", 255, "1000000007.255"),
    ("courier", 255, "1000000007-255"),
    ("uidonly", 255, "255"),
    ("dovecot", 4294967295, "ffffffff3b9aca07"),
    ("cyrus", 4294967295, "1000000007.4294967295"),
]
OTHERS = (
    "", "1", "255.", "000000ff3b9aca08", "3b9aca08000000ff", "1000000008.255", "1000000008-255", "0255", "+255",
    " 255", "000000FF3b9aca07", "1000000007.0255", "1000000007.2_5", "\u0662\u0665\u0665", "1000000007.255 ", "254",
)  # fmt: skip


@pytest.mark.quirk("imap-B34")
@pytest.mark.fault("C6")
@pytest.mark.parametrize(("name", "uid", "unique_id"), FORMATS)
async def test_formats(certificates: Certificates, name: str, uid: int, unique_id: str) -> None:
    box = Mailbox({uid: Message(b"x\r\n")})
    async with pair(certificates.good, mailbox=box, POP3_UIDL_FORMAT=name) as (maildrop, _):
        async with maildrop.open(CLIENT, None) as session:
            assert [entry.unique_id for entry in session.entries] == [unique_id]
            assert session.entries[0].unique_id == unique_id
            assert await read(session, 0) == b"x\r\n"
            for other in OTHERS:
                with pytest.raises(MessageGone):
                    await anext(session.retrieve(other))
            await session.commit([unique_id])
    assert box.messages == {}


def test_every_format_is_legal_and_has_a_setting() -> None:
    from legacy_email_proxy.settings import TABLE

    (setting,) = (setting for setting in TABLE if setting.name == "POP3_UIDL_FORMAT")
    assert set(setting.choices) == UNIQUE_IDS.keys()
    for form in UNIQUE_IDS.values():
        for uid in (1, 4294967295):
            text = form.maker(4294967295)(uid)
            assert 1 <= len(text) <= 70
            assert form.uid(text) == uid


def day(days_ago: float, zone: str = "+0000") -> str:
    hours = int(zone[:3])
    return (datetime.now(UTC) - timedelta(days=days_ago) + timedelta(hours=hours)).strftime("%d-%b-%Y %H:%M:%S ") + zone


def aged() -> Mailbox:
    """UIDs as old in days as they say; not in order."""
    box = Mailbox({uid: Message(b"x" * uid, date=day(age)) for uid, age in ((1, 40), (2, 0.5), (3, 9.9), (4, 10.1))})
    box.messages[5] = Message(b"xxxxx", date=day(9.8, "-1100"))
    box.messages[6] = Message(b"xxxxxx", date="garbage")
    box.messages[7] = Message(b"xxxxxxx", date=" 7-Jul-1996 02:44:25 -0700")
    return box


VIEWS: list[tuple[dict[str, Any], list[int]]] = [
    ({}, [1, 2, 3, 4, 5, 6, 7]),
    ({"POP3_NEWEST_MESSAGES": 3}, [5, 6, 7]),
    ({"POP3_NEWEST_MESSAGES": 7}, [1, 2, 3, 4, 5, 6, 7]),
    ({"POP3_NEWEST_MESSAGES": 100}, [1, 2, 3, 4, 5, 6, 7]),
    ({"POP3_NEWEST_DAYS": 10}, [2, 3, 5, 6]),
    ({"POP3_NEWEST_DAYS": 36500}, [1, 2, 3, 4, 5, 6, 7]),
    ({"POP3_NEWEST_DAYS": 10, "POP3_NEWEST_MESSAGES": 3}, [3, 5, 6]),
]


@pytest.mark.parametrize(("given", "uids"), VIEWS)
async def test_only_the_newest(certificates: Certificates, given: dict[str, Any], uids: list[int]) -> None:
    box = aged()
    async with pair(certificates.good, mailbox=box, **given) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert [(int(entry.unique_id[:8], 16), entry.octets) for entry in session.entries] == [
                (uid, uid) for uid in uids
            ]
            assert len(session.entries) == len(uids), "what is outside is not counted"
            if 1 not in uids:
                with pytest.raises(MessageGone):
                    await anext(session.retrieve("000000013b9aca07"))
                with pytest.raises(MessageGone):
                    await session.commit(["000000013b9aca07"])
            await session.commit([session.entries[0].unique_id])
    assert set(box.messages) == {1, 2, 3, 4, 5, 6, 7} - {uids[0]}
    assert ("POP3_NEWEST_DAYS" in given) == any("INTERNALDATE" in command for command in server.commands)
    assert not any("SEARCH" in command or "FLAGS " in command for command in server.commands if "FETCH" in command)


async def test_an_empty_folder_is_not_asked_about(certificates: Certificates) -> None:
    async with pair(
        certificates.good, POP3_NEWEST_DAYS=1, POP3_NEWEST_MESSAGES=1, BACKEND_IMAP_DELETE="flag"
    ) as (maildrop, server):  # fmt: skip
        async with maildrop.open(CLIENT, None) as session:
            assert list(session.entries) == []
    assert not any("FETCH" in command for command in server.commands)


async def test_deleted_ones_make_room_for_older_ones(certificates: Certificates) -> None:
    box = Mailbox({uid: Message(b"x") for uid in range(1, 8)}, permanent_flags=r"\*")
    async with pair(
        certificates.good, mailbox=box, POP3_NEWEST_MESSAGES=2, BACKEND_IMAP_DELETE="keep"
    ) as (maildrop, _):  # fmt: skip
        for expected in ((6, 7), (4, 5), (2, 3), (1,), ()):
            async with maildrop.open(CLIENT, None) as session:
                unique_ids = [entry.unique_id for entry in session.entries]
                assert [int(each[:8], 16) for each in unique_ids] == list(expected)
                if unique_ids:
                    await session.commit(unique_ids)


async def test_many_messages_are_looked_at_in_bounded_pieces(certificates: Certificates) -> None:
    box = Mailbox({uid: Message(b"x", {"$Pop3Deleted"} if uid % 2 else set()) for uid in range(1, 12_001)})
    box.permanent_flags = r"\*"
    async with pair(certificates.good, mailbox=box, BACKEND_IMAP_DELETE="flag") as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert len(session.entries) == 6000
            assert session.entries[5999].unique_id == "00002ee03b9aca07"
    asked = [command for command in server.commands if "FLAGS" in command]
    assert asked == [f"UID FETCH {span} (UID FLAGS)" for span in ("1:5000", "5001:10000", "10001:12000")]


ODD_ROWS: list[tuple[Action, type[Failure] | None]] = [
    (b"* 1 FETCH (UID 1 FLAGS ($pop3deleted))\r\n* 2 FETCH (UID 2 FLAGS ())\r\nTAG OK x\r\n", None),
    (b"* 1 FETCH (FLAGS (\\Seen $Pop3Deleted) UID 1)\r\n* 9 FETCH (FLAGS ($Pop3Deleted))\r\nTAG OK x\r\n", None),
    (b"* 1 FETCH (UID 1 FLAGS ($Pop3Deleted) X NIL)\r\n* 9 FETCH (UID 77 FLAGS ($Pop3Deleted))\r\nTAG OK x\r\n", None),
    ("NO not now", Failure),
    (b"garbage\r\n", Disconnected),
    (b"* 1 FETCH (UID 1 FLAGS ())\r\n" * 100_000, Disconnected),
]


@pytest.mark.parametrize(("answer", "kind"), ODD_ROWS)
async def test_odd_answers_about_flags(certificates: Certificates, answer: Action, kind: type[Failure] | None) -> None:
    box = Mailbox.of(b"one", b"two")
    box.permanent_flags = r"\*"
    script: dict[Any, Action] = {("LISTING", 2): answer}
    async with pair(certificates.good, mailbox=box, script=script, BACKEND_IMAP_DELETE="flag") as (maildrop, _):
        if kind is None:
            async with maildrop.open(CLIENT, None) as session:
                assert [entry.unique_id[:8] for entry in session.entries] == ["00000002"]
        else:
            with pytest.raises(kind):
                async with maildrop.open(CLIENT, None):
                    pass


# A message that never comes.


async def attempt(maildrop: Any, uid: int) -> list[int]:
    """One session of a device that reads that message twice; what it was shown."""
    async with maildrop.open(CLIENT, None) as session:
        shown = [int(entry.unique_id[:8], 16) for entry in session.entries]
        for _ in range(2):
            if uid in shown:
                with pytest.raises(MessageUnavailable):
                    await read(session, shown.index(uid))
    return shown


@pytest.mark.quirk("imap-B27")
@pytest.mark.parametrize("hide_after", [None, 1, 3])
async def test_a_message_that_never_comes(
    certificates: Certificates, caplog: pytest.LogCaptureFixture, hide_after: int | None
) -> None:
    box = Mailbox.of(b"one", b"two", b"three")
    async with pair(
        certificates.good, mailbox=box, POP3_HIDE_UNFETCHABLE_AFTER=hide_after
    ) as (maildrop, server):  # fmt: skip
        server.script["BODY"] = lambda _, command: "NO [SERVERBUG] no" if "FETCH 2 " in command else None
        seen = [await attempt(maildrop, 2) for _ in range(5)]
        sessions = hide_after or 5
        assert seen == [[1, 2, 3]] * sessions + [[1, 3]] * (5 - sessions), "twice in one session counts once"
    assert list(box.messages) == [1, 2, 3], "hidden, never deleted"
    named = [record for record in caplog.records if getattr(record, "facts", {}).get("unique_id")]
    assert [record.facts["unique_id"] for record in named] == ["000000023b9aca07"] * sessions  # type: ignore[attr-defined]


@pytest.mark.parametrize("nothing", ["NO [SERVERBUG] no", b"TAG OK and nothing\r\n"])
async def test_only_failures_one_after_the_other_count(certificates: Certificates, nothing: Action) -> None:
    box = Mailbox.of(b"one", b"two")
    async with pair(certificates.good, mailbox=box, POP3_HIDE_UNFETCHABLE_AFTER=2) as (maildrop, server):

        async def look(*comes: bool) -> int:
            """One session that asks for the second message once for each; how many messages it was shown."""
            async with maildrop.open(CLIENT, None) as session:
                for each in comes:
                    server.script["BODY"] = None if each else nothing
                    if each:
                        assert await read(session, 1) == b"two"
                    else:
                        with pytest.raises((MessageGone, MessageUnavailable)):
                            await read(session, 1)
                return len(session.entries)

        came, failed = True, False
        sessions = [(failed,), (came,), (failed,), (failed, came), (failed,), (came, failed), (came,), (), (failed,)]
        assert [await look(*each) for each in sessions] == [2] * len(sessions)
        assert await look(failed) == 2
        assert await look() == 1
    assert list(box.messages) == [1, 2]


async def test_what_can_not_be_remembered_spoils_no_message(
    certificates: Certificates, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    async with pair(
        certificates.good, b"one", POP3_HIDE_UNFETCHABLE_AFTER=2, STATE_DIR=tmp_path
    ) as (maildrop, _):  # fmt: skip
        async with maildrop.open(CLIENT, None) as session:
            folder = tmp_path / "maildrop.imap"
            folder.rmdir()
            folder.write_text("in the way")
            assert await read(session, 0) == b"one"
    assert "can not remember that a message came" in caplog.messages


@pytest.mark.parametrize(
    ("date", "arrived"),
    [
        (b" 1-Feb-2026 03:04:05 +0000", datetime(2026, 2, 1, 3, 4, 5, tzinfo=UTC)),
        (b"01-feb-2026 03:04:05 -0530", datetime(2026, 2, 1, 8, 34, 5, tzinfo=UTC)),
        (b"01-FEB-2026 03:04:05 +0530", datetime(2026, 1, 31, 21, 34, 5, tzinfo=UTC)),
        (b"01-Foo-2026 03:04:05 +0000", None),
        (b"31-Feb-2026 03:04:05 +0000", None),
        (None, None),
    ],
)
def test_when_a_message_arrived(date: bytes | None, arrived: datetime | None) -> None:
    assert _arrived(date) == arrived


def test_the_answer_may_be_as_long_as_its_rows() -> None:
    allowed: list[int] = []

    class Asked:
        def attributes(self, doing: str, uid_set: str, items: str, octets: int) -> Fetched:
            allowed.append(octets)
            return Fetched()

    list(attributes(Asked(), range(1, 7001), "FLAGS", note=pytest.fail))  # type: ignore[arg-type]
    assert [octets > 200 * rows for octets, rows in zip(allowed, (5000, 2000), strict=True)] == [True, True]
