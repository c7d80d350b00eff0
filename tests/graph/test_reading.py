"""The folder as POP3 sees it: listed once and then by changes, whatever Graph and other programs do meanwhile."""

from __future__ import annotations

import logging
import re
import tracemalloc
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from fakes.graph import Broken, Drop, FakeGraph, Hang, Instead, Status
from graph.support import CLIENT, context, reading, relaying, send, serving
from legacy_email_proxy.contracts import (
    Disconnected,
    Entry,
    Failure,
    MessageGone,
    MessageUnavailable,
    Overloaded,
    SettingsMistake,
    Unusable,
)
from legacy_email_proxy_plugins.graph import GraphMaildrop
from legacy_email_proxy_plugins.graph.index import UNKNOWN_OCTETS, Index, Listed, Round, unique_id
from realservers.certificates import Certificates


def message(number: int) -> bytes:
    return b"Subject: %d\r\n\r\n%s\r\n" % (number, b"x" * number)


def fill(fake: FakeGraph, count: int, **properties: Any) -> None:
    for number in range(count):
        fake.mailbox.add(message(number), **properties)


async def entries(maildrop: GraphMaildrop) -> list[Entry]:
    async with maildrop.open(CLIENT, None) as session:
        return list(session.entries)


async def contents(maildrop: GraphMaildrop) -> list[bytes]:
    async with maildrop.open(CLIENT, None) as session:
        return [b"".join([piece async for piece in session.retrieve(each.unique_id)]) for each in session.entries]


async def delete(maildrop: GraphMaildrop, *places: int) -> None:
    async with maildrop.open(CLIENT, None) as session:
        await session.commit([session.entries[place].unique_id for place in places])


# Listing.


async def test_pages_once_then_only_changes(certificates: Certificates, tmp_path: Path) -> None:
    async with reading(certificates, tmp_path) as (maildrop, fake):
        fill(fake, 1200)
        first = await entries(maildrop)
        assert fake.times("delta") == 3
        assert [each.octets for each in first] == [len(message(number)) for number in range(1200)]
        assert await entries(maildrop) == first
        assert fake.times("delta") == 4
        fake.mailbox.remove(fake.mailbox.held()[7])
        fake.mailbox.move(fake.mailbox.held()[8], "archive")
        fake.mailbox.touch(fake.mailbox.held()[9])
        fill(fake, 1)
        later = await entries(maildrop)
        assert fake.times("delta") == 5
        assert [each for each in first if each in later] == later[:-1]
        assert len(later) == 1199
        assert all(re.fullmatch(r"[\w-]{43}", each.unique_id) for each in later)
        assert {request.headers["prefer"] for request in fake.requests} == {
            'IdType="ImmutableId", odata.maxpagesize=500'
        }


async def test_unique_ids_outlive_a_restart_and_the_file(certificates: Certificates, tmp_path: Path) -> None:
    async with serving(certificates) as fake:
        fill(fake, 20)
        found = []
        for folder, asked in (("a", 1), ("a", 2), ("b", 3)):
            maildrop = GraphMaildrop(context(GraphMaildrop, fake, certificates, tmp_path / folder))
            found.append(await entries(maildrop))
            await maildrop.aclose()
            assert fake.times("delta") == asked
        assert found[0] == found[1] == found[2]
        # Moved and moved back: an immutable id stays.
        fake.mailbox.move(fake.mailbox.held()[0], "archive")
        fake.mailbox.move(fake.mailbox.items[0], "inbox")
        maildrop = GraphMaildrop(context(GraphMaildrop, fake, certificates, tmp_path / "a"))
        assert await entries(maildrop) == found[0]
        await maildrop.aclose()


@pytest.mark.fault("E8")
async def test_a_listing_that_broke_off_goes_on(certificates: Certificates, tmp_path: Path) -> None:
    async with reading(certificates, tmp_path) as (maildrop, fake):
        fill(fake, 1600)
        fake.script = {("delta", number): Status(400, "oops") for number in (3, 4)}
        for _ in range(2):
            with pytest.raises(Failure, match="oops"):
                await entries(maildrop)
        assert len(await entries(maildrop)) == 1600
        assert fake.times("delta") == 6, "1, 2, and 3 and 4 in vain; then 3 and 4 of the same listing"


async def test_a_client_that_gives_up_does_not_stop_the_listing(certificates: Certificates, tmp_path: Path) -> None:
    async with reading(certificates, tmp_path) as (maildrop, fake):
        fill(fake, 600)
        async with anyio.create_task_group() as tasks:

            async def gives_up() -> None:
                async with maildrop.open(CLIENT, None):
                    pass

            tasks.start_soon(gives_up)
            await fake.until(lambda server: server.times("delta"))
            tasks.cancel_scope.cancel()
        await fake.until(lambda server: server.times("delta") == 2)
        assert len(await entries(maildrop)) == 600


async def test_sessions_that_come_together_share_a_round(certificates: Certificates, tmp_path: Path) -> None:
    async with reading(certificates, tmp_path) as (maildrop, fake):
        fill(fake, 10)
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(entries, maildrop)
        assert fake.times("delta") <= 2


@pytest.mark.fault("E8")
async def test_a_state_that_microsoft_forgot_begins_anew(certificates: Certificates, tmp_path: Path) -> None:
    async with reading(certificates, tmp_path) as (maildrop, fake):
        fill(fake, 12)
        first = await entries(maildrop)
        fake._delta_from.clear()
        fake.mailbox.remove(fake.mailbox.held()[3])
        assert await entries(maildrop) == first[:3] + first[4:]


@pytest.mark.fault("E12")
async def test_a_page_on_another_server_is_not_asked_for(certificates: Certificates, tmp_path: Path) -> None:
    async with reading(certificates, tmp_path) as (maildrop, fake), serving(certificates) as other:
        fill(fake, 3)
        await entries(maildrop)
        elsewhere = Round(1, f"{other.url}/users/x/messages/delta?$deltatoken=1", True)
        await anyio.to_thread.run_sync(maildrop._index.apply, (), (), elsewhere)
        with pytest.raises(Disconnected, match="another server"):
            await entries(maildrop)
        assert not other.requests


@pytest.mark.fault("E9")
async def test_one_corrupt_message_hides_itself_only(
    certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with reading(certificates, tmp_path) as (maildrop, fake):
        fill(fake, 700)
        fake.mailbox.items[300].corrupt = True
        assert await contents_of_some(maildrop, 699) == [message(299), message(301)]
        assert "message left out of the listing" in caplog.text
        # Then by pages for a while, and a new one is seen as well.
        before = fake.times("delta")
        fill(fake, 1)
        assert len(await entries(maildrop)) == 700
        assert fake.times("delta") == before


@pytest.mark.parametrize("body", [b"<html>log in first</html>", b"", b"[]", b"{}", b'{"a": 1}', b'{"value": []}'])
async def test_what_is_no_list_is_not_taken_for_an_empty_folder(
    certificates: Certificates, tmp_path: Path, body: bytes
) -> None:
    async with reading(certificates, tmp_path) as (maildrop, fake):
        fill(fake, 3)
        found = await entries(maildrop)
        fake.script = {"delta": Instead(body)}
        with pytest.raises(Disconnected):
            await entries(maildrop)
        # And by pages, where changes can not be had.
        fake.script = {"delta": Status(500, "x"), "folder": Instead(body)}
        with pytest.raises(Disconnected):
            await entries(maildrop)
        fake.script = {"delta": Status(500, "x"), "list": Instead(body)}
        if body != b'{"value": []}':
            with pytest.raises(Disconnected):
                await entries(maildrop)
        fake.script = {}
        assert await entries(maildrop) == found


async def contents_of_some(maildrop: GraphMaildrop, count: int) -> list[bytes]:
    async with maildrop.open(CLIENT, None) as session:
        assert len(session.entries) == count
        some = session.entries[299:301]
        return [b"".join([piece async for piece in session.retrieve(each.unique_id)]) for each in some]


@pytest.mark.parametrize("count", [5, 120])
async def test_sizes_that_do_not_come_with_the_changes(certificates: Certificates, tmp_path: Path, count: int) -> None:
    async with reading(certificates, tmp_path) as (maildrop, fake):
        fake.delta_has_sizes = False
        fill(fake, count)
        fake.mailbox.add(b"Subject: sizeless\r\n\r\n", sizeless=True)
        found = await entries(maildrop)
        assert [each.octets for each in found] == [*(len(message(number)) for number in range(count)), UNKNOWN_OCTETS]
        asked = len(fake.requests)
        assert await entries(maildrop) == found
        assert len(fake.requests) == asked + 1, "what has no size is not asked for again"


async def test_changes_that_take_no_expand(certificates: Certificates, tmp_path: Path) -> None:
    async with reading(certificates, tmp_path) as (maildrop, fake):
        fake.delta_takes_expand = False
        fill(fake, 60)
        found = await entries(maildrop)
        assert [each.octets for each in found] == [len(message(number)) for number in range(60)]


async def test_a_wrong_size_is_corrected_by_reading(certificates: Certificates, tmp_path: Path) -> None:
    async with reading(certificates, tmp_path) as (maildrop, fake):
        fill(fake, 2, size_error=500)
        assert [each.octets for each in await entries(maildrop)] == [len(message(0)) + 500, len(message(1)) + 500]
        async with maildrop.open(CLIENT, None) as session:
            whole = b"".join([piece async for piece in session.retrieve(session.entries[0].unique_id)])
        assert whole == message(0), "complete, whatever LIST said"
        fake.mailbox.touch(fake.mailbox.held()[0])
        assert [each.octets for each in await entries(maildrop)] == [len(message(0)), len(message(1)) + 500]


@pytest.mark.parametrize("name", ["Scans", "Scans/Old's", "ARCHIVE", "inbox/Sub"])
async def test_a_folder_by_its_name(certificates: Certificates, tmp_path: Path, name: str) -> None:
    async with reading(certificates, tmp_path, GRAPH_FOLDER=name) as (maildrop, fake):
        scans = fake.mailbox.make_folder("Scans")
        folders = {"Scans": scans, "ARCHIVE": "archive"}
        folders["Scans/Old's"] = fake.mailbox.make_folder("Old's", "Scans")
        folders["inbox/Sub"] = fake.mailbox.make_folder("Sub", "inbox")
        for each, identifier in folders.items():
            fake.mailbox.add(each.encode() + b": x\r\n\r\n", identifier)
        assert await contents(maildrop) == [name.encode() + b": x\r\n\r\n"]


async def test_no_such_folder(certificates: Certificates, tmp_path: Path) -> None:
    async with reading(certificates, tmp_path, GRAPH_FOLDER="Scanz") as (maildrop, _):
        with pytest.raises(Unusable, match=r"no folder 'Scanz' in the mailbox \(see GRAPH_FOLDER"):
            await entries(maildrop)


async def test_only_the_newest(certificates: Certificates, tmp_path: Path) -> None:
    async with reading(certificates, tmp_path, POP3_NEWEST_MESSAGES="3") as (maildrop, fake):
        fill(fake, 9)
        assert await contents(maildrop) == [message(6), message(7), message(8)]
    async with reading(certificates, tmp_path, POP3_NEWEST_DAYS="2") as (maildrop, fake):
        fill(fake, 3)
        fake.mailbox.items[0].received = "2020-01-01T00:00:00Z"
        for item in fake.mailbox.items[1:]:
            item.received = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        assert len(await entries(maildrop)) == 2


async def test_login_by_the_backend_is_a_mistake(certificates: Certificates, tmp_path: Path) -> None:
    async with serving(certificates) as fake:
        with pytest.raises(SettingsMistake, match="POP3_LOGIN: Microsoft Graph knows no logins"):
            GraphMaildrop(context(GraphMaildrop, fake, certificates, tmp_path, POP3_LOGIN="backend"))


@pytest.mark.long
def test_100_000_messages(tmp_path: Path) -> None:
    index = Index(lambda: tmp_path, "x")
    for page in range(200):
        here = [Listed(f"{page}-{n}", f"2026-{page:03d}-{n:03d}", n) for n in range(500)]
        index.apply(here, (), Round(1, "https://next", page == 199), whole=page == 199)
    found = index.entries(staying=False, since="", newest=None, hide_after=None)
    assert len(found) == 100_000
    assert found[0] == Entry(unique_id("0-0"), 0)
    assert index.identifiers([found[-1].unique_id]) == {unique_id("199-499"): "199-499"}
    assert index.entries(staying=False, since="", newest=None, hide_after=None) is found, "sessions share it"
    index.hide(["0-0"], stays=False)
    assert len(index.entries(staying=False, since="", newest=None, hide_after=None)) == 99_999


# Reading.

TROUBLE: dict[str, tuple[dict[Any, Any], type[Exception] | None]] = {
    "throttled": ({("value", 1): Status(429, "x", retry_after=0), ("value", 2): Status(503, "x")}, None),
    "a gateway": ({("value", 1): Status(502, "x"), ("value", 2): Status(504, "x", retry_after=0)}, None),
    "cut off": ({("value", 1): Broken(7)}, None),
    "dropped": ({("value", 1): Drop()}, None),
    "always cut off": ({"value": Broken(7)}, Disconnected),
    "gone": ({"value": Status(404, "ErrorItemNotFound")}, MessageGone),
    "can not be converted": ({"value": Status(500, "ErrorMimeContentConversionFailed")}, MessageUnavailable),
    "busy": ({"value": Status(429, "x", retry_after=100)}, Overloaded),
    "no right": ({"value": Status(403, "ErrorAccessDenied")}, Failure),
}


@pytest.mark.fault("E9", "E10")
@pytest.mark.parametrize("case", TROUBLE)
async def test_trouble_with_one_message(certificates: Certificates, tmp_path: Path, case: str) -> None:
    script, kind = TROUBLE[case]
    async with reading(certificates, tmp_path) as (maildrop, fake):
        fill(fake, 2)
        async with maildrop.open(CLIENT, None) as session:
            fake.script = script
            one, two = session.entries
            pieces: list[bytes] = []
            failed: Exception | None = None
            try:
                pieces += [piece async for piece in session.retrieve(one.unique_id)]
            except Failure as failure:
                failed = failure
            assert isinstance(failed, kind) if kind else failed is None
            assert b"".join(pieces) == (b"" if kind else message(0)), "nothing before a failure"
            fake.script = {}
            if kind is not Overloaded:
                assert b"".join([piece async for piece in session.retrieve(two.unique_id)]) == message(1)


@pytest.mark.fault("E10")
async def test_a_break_in_a_large_message_is_not_mended_by_another_download(
    certificates: Certificates, tmp_path: Path
) -> None:
    async with reading(certificates, tmp_path) as (maildrop, fake):
        fake.mailbox.add(b"Subject: x\r\n\r\n" + b"x" * 3_000_000)
        fake.script = {"value": Broken(2_000_000)}
        async with maildrop.open(CLIENT, None) as session:
            pieces = session.retrieve(session.entries[0].unique_id)
            octets = len(await anext(pieces))
            with pytest.raises(Disconnected):
                octets += sum([len(piece) async for piece in pieces])
        assert octets > 0
        assert fake.times("value") == 1


async def test_top_and_retr_are_one_download(certificates: Certificates, tmp_path: Path) -> None:
    async with reading(certificates, tmp_path) as (maildrop, fake):
        fill(fake, 2)
        async with maildrop.open(CLIENT, None) as session:
            for each in session.entries:
                pieces = session.top(each.unique_id, 0)
                assert (await anext(pieces)).startswith(b"Subject")
                await pieces.aclose()
            for number, each in enumerate(session.entries):
                assert b"".join([piece async for piece in session.retrieve(each.unique_id)]) == message(number)
        assert fake.times("value") == 2


async def test_slow_clients_keep_no_request_open(certificates: Certificates, tmp_path: Path) -> None:
    async with reading(certificates, tmp_path) as (maildrop, fake):
        for number in range(6):
            fake.mailbox.add(b"Subject: %d\r\n\r\n" % number + b"x" * 3_000_000)
        async with maildrop.open(CLIENT, None) as session:
            readers = [session.retrieve(each.unique_id) for each in session.entries[:5]]
            for reader in readers:
                await anext(reader)  # and nothing more
            await fake.until(lambda server: server.at_once == 0)
            whole = [piece async for piece in session.retrieve(session.entries[5].unique_id)]
            assert sum(map(len, whole)) > 3_000_000
            for reader in readers:
                await reader.aclose()
        assert fake.most_at_once <= 4


async def test_leaving_stops_a_download(certificates: Certificates, tmp_path: Path) -> None:
    async with reading(certificates, tmp_path) as (maildrop, fake):
        fill(fake, 1)
        with anyio.CancelScope() as scope:
            async with maildrop.open(CLIENT, None) as session:
                fake.script = {"value": Hang()}

                async def leave() -> None:
                    await fake.until(lambda server: server.times("value"))
                    scope.cancel()

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(leave)
                    await anext(session.retrieve(session.entries[0].unique_id))
        await fake.until(lambda server: server.at_once == 0)


@pytest.mark.long
@pytest.mark.computes
async def test_100_megabytes_cost_a_few(certificates: Certificates, tmp_path: Path) -> None:
    line = b"x" * 76 + b"\r\n"
    async with reading(certificates, tmp_path) as (maildrop, fake):
        fake.mailbox.add(b"Subject: x\r\n\r\n" + line * 1_300_000)
        fake.mailbox.add(message(1))
        async with maildrop.open(CLIENT, None) as session:
            large, small = session.entries
            assert [piece async for piece in session.retrieve(small.unique_id)]
            tracemalloc.start()
            try:
                octets = 0
                async for piece in session.retrieve(large.unique_id):
                    octets += len(piece)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert octets == len(fake.mailbox.items[0].mime)
    # uvloop's buffers are counted, too.
    assert peak < 12 << 20


async def test_what_never_comes_is_hidden_where_that_is_set(
    certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with reading(certificates, tmp_path, POP3_HIDE_UNFETCHABLE_AFTER="2") as (maildrop, fake):
        fill(fake, 3)
        fake.script = {"value": Status(500, "ErrorMimeContentConversionFailed")}
        for left in (3, 3, 2):
            async with maildrop.open(CLIENT, None) as session:
                assert len(session.entries) == left
                with pytest.raises(MessageUnavailable):
                    await anext(session.retrieve(session.entries[0].unique_id))
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings.count("a message can not be had from the server; it is left where it is") == 3


# Deleting.


@pytest.mark.parametrize("way", ["expunge", "trash", "flag", "keep"])
async def test_what_quit_does(certificates: Certificates, tmp_path: Path, way: str) -> None:
    async with serving(certificates) as fake:
        fill(fake, 5)
        fake.mailbox.items[1].categories = ["Red"]
        given = {"GRAPH_DELETE": way}
        maildrop = GraphMaildrop(context(GraphMaildrop, fake, certificates, tmp_path, **given))
        await delete(maildrop, 1, 3)
        there = [len(fake.mailbox.held(each)) for each in ("inbox", "deleteditems")]
        assert there == {"expunge": [3, 0], "trash": [3, 2], "flag": [5, 0], "keep": [5, 0]}[way]
        marks = [item.categories for item in fake.mailbox.items]
        if way == "flag":
            assert marks == [[], ["Red", "Deleted by POP3"], [], ["Deleted by POP3"], []]
        wanted = [message(0), message(2), message(4)]
        assert await contents(maildrop) == wanted, "not listed again"
        await maildrop.aclose()
        maildrop = GraphMaildrop(context(GraphMaildrop, fake, certificates, tmp_path, **given))
        assert await contents(maildrop) == wanted, "nor after a restart"
        await maildrop.aclose()
        maildrop = GraphMaildrop(context(GraphMaildrop, fake, certificates, tmp_path / "anew", **given))
        assert len(await contents(maildrop)) == (5 if way == "keep" else 3), "a mark outlives the file"
        if way == "trash":
            fake.mailbox.move(fake.mailbox.held("deleteditems")[0], "inbox")
            assert len(await entries(maildrop)) == 4, "the user took it out of Deleted Items"
        await maildrop.aclose()


async def test_a_cloud_without_permanent_delete(certificates: Certificates, tmp_path: Path) -> None:
    async with reading(certificates, tmp_path) as (maildrop, fake):
        fake.permanent_delete = False
        fill(fake, 3)
        await delete(maildrop, 0, 1)
        assert await contents(maildrop) == [message(2)]
        assert len(fake.mailbox.held("deleteditems")) == 2


async def test_changes_that_come_late_show_nothing_again(certificates: Certificates, tmp_path: Path) -> None:
    async with reading(certificates, tmp_path) as (maildrop, fake):
        fill(fake, 3)
        await entries(maildrop)
        log = fake.mailbox.log
        await delete(maildrop, 0)
        late, fake.mailbox.log = log[3:], log[:3]
        assert len(await entries(maildrop)) == 2
        fake.mailbox.log += late
        assert len(await entries(maildrop)) == 2


@pytest.mark.fault("E11")
async def test_what_moved_away_meanwhile_is_not_deleted(certificates: Certificates, tmp_path: Path) -> None:
    async with reading(certificates, tmp_path) as (maildrop, fake):
        fill(fake, 3)
        async with maildrop.open(CLIENT, None) as session:
            uids = [each.unique_id for each in session.entries]
            fake.mailbox.move(fake.mailbox.held()[0], "archive")
            await entries(maildrop)  # another session learns of it
            await session.commit(uids[:2])
        assert [len(fake.mailbox.held(each)) for each in ("inbox", "archive")] == [1, 1]


STEPS: Sequence[tuple[str, str]] = (("expunge", "permanentDelete"), ("trash", "move"), ("flag", "patch"))


@pytest.mark.fault("E11")
@pytest.mark.parametrize(("way", "step"), STEPS)
async def test_a_deletion_that_fails_is_told_and_can_be_repeated(
    certificates: Certificates, tmp_path: Path, way: str, step: str
) -> None:
    async with reading(certificates, tmp_path, GRAPH_DELETE=way) as (maildrop, fake):
        fill(fake, 6)
        fake.script = {(step, 2): Status(403, "ErrorAccessDenied"), (step, 3): Drop(done=True)}
        async with maildrop.open(CLIENT, None) as session:
            uids = [each.unique_id for each in session.entries[:4]]
            with pytest.raises(Failure, match="ErrorAccessDenied"):
                await session.commit(uids)
        fake.script = {}
        async with maildrop.open(CLIENT, None) as session:
            await session.commit([each.unique_id for each in session.entries if each.unique_id in uids])
        assert await contents(maildrop) == [message(4), message(5)]


async def test_read_only_deletes_nothing(certificates: Certificates, tmp_path: Path) -> None:
    async with reading(certificates, tmp_path, POP3_READ_ONLY="true") as (maildrop, fake):
        fill(fake, 2)
        with pytest.raises(Failure, match="POP3_READ_ONLY"):
            await delete(maildrop, 0)
        assert len(fake.mailbox.items) == 2


@pytest.mark.long
async def test_both_legs_share_the_mailboxs_four_requests(certificates: Certificates, tmp_path: Path) -> None:
    async with reading(certificates, tmp_path) as (maildrop, fake):
        async with relaying(certificates, tmp_path) as (relay, _):
            fake.slow_seconds = 0.01
            relay.graph = maildrop.graph.__class__(maildrop.options)
            assert relay.graph.pace is maildrop.graph.pace
            for number in range(40):
                fake.mailbox.add(b"Subject: %d\r\n\r\n" % number + b"x" * 300_000)
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(send, relay, b"Subject: x\r\n\r\n" + b"x" * 300_000)
                    if number % 4 == 0:
                        tasks.start_soon(contents, maildrop)
            await relay.graph.aclose()
        assert fake.most_at_once == 4
        assert len(fake.mailbox.sent) == 20
