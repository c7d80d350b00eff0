"""Messages that are read before they are asked for: never wrong ones, never too many, and no fault spreads."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import anyio
import pytest

from fakes.imap import Action, Connection, Cut, Drop, FakeIMAPServer, Hang, Mailbox, Message, Reset
from fakes.server import Step
from imap.support import CLIENT, SHORT, USER, login, pair, read, read_top
from imap.test_against_dovecot import maildrop_on
from legacy_email_proxy.contracts import Disconnected, Failure, MessageGone, MessageUnavailable, ReadySession
from legacy_email_proxy_plugins.imap import account_cache
from legacy_email_proxy_plugins.imap.account_cache import Messages, Shelf
from realservers.accounts import Account
from realservers.certificates import Certificates
from realservers.dovecot import Dovecot

COUNT = 30
MAIL = [
    b"Subject: %d\r\nX: %s\r\n\r\nbody of %d\r\n" % (number, b"x" * number, number) for number in range(1, COUNT + 1)
]
IMPATIENT = {"read": SHORT, "command": 2.0}


def headers(message: bytes) -> bytes:
    return message.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def bodies(server: FakeIMAPServer) -> list[list[int]]:
    """The UIDs of every FETCH of content."""
    found: list[list[int]] = []
    for uids in re.findall(r"UID FETCH (\S+) \(UID BODY", "\n".join(server.commands)):
        found.append([])
        for item in uids.split(","):
            first, _, last = item.partition(":")
            found[-1] += range(int(first), int(last or first) + 1)
    return found


async def outcomes(session: ReadySession, positions: range) -> list[bytes | type[Failure]]:
    """What RETR of each gives: the message, or the kind of failure."""
    found: list[bytes | type[Failure]] = []
    for position in positions:
        try:
            found.append(await read(session, position))
        except Failure as failure:
            found.append(type(failure))
    return found


def at_body(spoil: Callable[[Connection, str], Action]) -> dict[Step, Action]:
    return {"BODY": spoil}  # type: ignore[dict-item]  # an action may be one that gives an action


async def test_one_after_the_other(certificates: Certificates) -> None:
    async with pair(certificates.good, *MAIL) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert [await read(session, position) for position in range(COUNT)] == MAIL
            assert [await read_top(session, position, 0) for position in range(COUNT)] == [*map(headers, MAIL)]
    one = [[1], list(range(2, 10)), list(range(10, COUNT + 1))]
    assert bodies(server) == one * 2
    assert not any("BODY.PEEK[]" in command for command in server.commands[-4:]), "for TOP only headers are sent"


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([0], [[1]]),
        ([29, 28, 27, 22, 21, 20], [[30], list(range(22, 30)), [23], list(range(1, 22))]),
        ([0, 2, 4, 6], [[1], [3], [5], [7]]),
        ([29, 27, 25, 23], [[30], [28], [26], [24]]),
        ([5, 6, 5, 6, 7], [[6], list(range(7, 15)), [6]]),
        ([9, 8, 9, 8, 7], [[10], list(range(2, 10)), [10]]),
        ([3, 4, 3, 2, 1, 0], [[4], list(range(5, 13)), [4], [1, 2, 3]]),
        ([28, 29, 29], [[29], [30], [30]]),
        ([1, 0, 0], [[2], [1], [1]]),
        ([0, 1, 0, 1], [[1], list(range(2, 10)), [1]]),
    ],
)
async def test_what_is_asked_for_out_of_turn(
    certificates: Certificates, positions: list[int], expected: list[list[int]]
) -> None:
    async with pair(certificates.good, *MAIL) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            for position in positions:
                assert await read(session, position) == MAIL[position]
    assert bodies(server) == expected


@pytest.mark.parametrize("seed", range(5))
async def test_any_walk_gives_the_right_messages(certificates: Certificates, seed: int) -> None:
    chance = random.Random(seed)
    async with pair(certificates.good, *MAIL) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session, maildrop.open(CLIENT, None) as other:
            position, step = 0, 1
            for _ in range(150):
                if chance.random() < 0.2:
                    position, step = chance.randrange(COUNT), chance.choice((-1, 1))
                whose = session if chance.random() < 0.8 else other
                assert await read(whose, position) == MAIL[position]
                if chance.random() < 0.3:
                    assert await read_top(whose, position, 0) == headers(MAIL[position])
                position = (position + step) % COUNT
        assert len(server.connections) <= 2


@pytest.mark.parametrize("newest_first", [False, True])
async def test_a_list_of_headers_costs_few_round_trips(certificates: Certificates, newest_first: bool) -> None:
    many = [b"Subject: %d\r\n\r\n%b\r\n" % (number, b"x" * 20_000) for number in range(100)]
    async with pair(certificates.good, *many) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            order = [*reversed(range(100))] if newest_first else [*range(100)]
            found = [await read_top(session, position, 0) for position in order]
        assert found == [headers(many[position]) for position in order]
        async with maildrop.open(CLIENT, None) as session:
            for position in order:
                pieces = session.top(session.entries[position].unique_id, 0)
                # As the core does it, that stops when it has seen the blank line.
                assert await anext(pieces) == headers(many[position])
                await pieces.aclose()
        assert len(server.connections) == 1, "the connection of the first is that of all"
        assert server.times("BODY") == 2 * 4
        assert sum("SELECT" in command for command in server.commands) == 2


@pytest.mark.parametrize("header_octets", [20_000, 40_000, 100_000])
async def test_long_headers_cost_no_connection(certificates: Certificates, header_octets: int) -> None:
    long = b"X-Filter: " + b"abcdefgh\r\n " * (header_octets // 11)
    many = [b"Subject: %d\r\n%b\r\n\r\n%b\r\n" % (number, long, b"x" * 20_000) for number in range(60)]
    async with pair(certificates.good, *many) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert [await read_top(session, position, 0) for position in range(60)] == [*map(headers, many)]
        assert len(server.connections) <= 2
        assert server.times("BODY") < 20


@pytest.mark.parametrize(("listed", "connections"), [(0, 1), (100, 14)])
async def test_sizes_that_are_wrong_cost_no_login_for_each(
    certificates: Certificates, listed: int, connections: int
) -> None:
    many = {uid: Message(b"Subject: %d\r\n\r\n%b\r\n" % (uid, b"x" * 20_000), size=listed) for uid in range(1, 51)}
    async with pair(certificates.good, mailbox=Mailbox(many)) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert [await read(session, position) for position in range(50)] == [each.octets for each in many.values()]
        assert len(server.connections) <= connections


@pytest.mark.parametrize("lines", [0, 1, 5])
async def test_a_session_that_begins_with_top_keeps_its_connection(certificates: Certificates, lines: int) -> None:
    async with pair(certificates.good, *MAIL, b"S: x\r\n\r\n" + b"y\r\n" * 300_000) as (maildrop, server):
        for position in (0, 15, 7, COUNT):
            async with maildrop.open(CLIENT, None) as session:
                pieces = session.top(session.entries[position].unique_id, lines)
                await anext(pieces)
                await pieces.aclose()
        assert len(server.connections) == 1


async def test_newest_first_within_the_limits(certificates: Certificates) -> None:
    mailbox = Mailbox({uid: Message(b"x" * 40_000) for uid in range(1, 101)})
    mailbox.messages[85] = Message(b"y" * 300_000)
    async with pair(certificates.good, mailbox=mailbox) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            for position in reversed(range(100)):
                assert await read(session, position) == mailbox.messages[position + 1].octets
    asked = bodies(server)
    assert sorted(uid for batch in asked for uid in batch) == list(range(1, 101)), "none twice"
    assert [len(batch) for batch in asked] == [1, 8, 26, 26, 1, 26, 12], "as many as fit, each time"


async def test_limits_of_one_batch(certificates: Certificates) -> None:
    mailbox = Mailbox({uid: Message(b"x" * 40_000) for uid in range(1, 101)})
    mailbox.messages[15] = Message(b"y" * 300_000)
    async with pair(certificates.good, mailbox=mailbox) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            for position in range(100):
                assert await read(session, position) == mailbox.messages[position + 1].octets
    asked = bodies(server)
    assert sorted(uid for batch in asked for uid in batch) == list(range(1, 101)), "none twice"
    assert [15] in asked, "a large message is streamed"
    assert max(sum(len(mailbox.messages[uid].octets) for uid in batch) for batch in asked) <= 1 << 20
    assert [len(batch) for batch in asked] == [1, 8, 26, 26, 1, 26, 12], "as many as fit, each time"


async def test_the_next_are_read_while_the_client_takes_the_rest(certificates: Certificates) -> None:
    async with pair(certificates.good, *MAIL, script={("BODY", 3): Hang(rows(10, 11))}) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert await outcomes(session, range(5)) == MAIL[:5]
            await anyio.wait_all_tasks_blocked()
            assert bodies(server) == [[1], list(range(2, 10))], "not before half of them is taken"
            assert await read(session, 5) == MAIL[5]
            await server.until(lambda server: server.times("BODY") == 3)
            assert bodies(server)[2:] == [list(range(10, COUNT + 1))]
            assert await outcomes(session, range(6, 9)) == MAIL[6:9], "which goes on without waiting for it"
            with anyio.move_on_after(SHORT):
                await read(session, 9)
                pytest.fail("it is on its way, and not asked for again")


async def test_after_many_the_next_are_read_at_once(certificates: Certificates) -> None:
    many = [b"Subject: %d\r\n\r\n" % number for number in range(100)]
    async with pair(certificates.good, *many) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert await outcomes(session, range(11)) == many[:11]
            await server.until(lambda server: server.times("BODY") == 4)
            assert bodies(server) == [[1], [*range(2, 10)], [*range(10, 74)], [*range(74, 101)]]
            assert await outcomes(session, range(11, 100)) == many[11:]
        assert len(bodies(server)) == 4


async def test_a_failure_to_read_the_next_is_told_to_who_asks_for_it(certificates: Certificates) -> None:
    script: dict[Step, Action] = {("BODY", number): Drop() for number in range(3, 100)}
    async with pair(certificates.good, *MAIL, script=script) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            found = await outcomes(session, range(6))
            await server.until(lambda server: server.times("BODY") >= 3)
            found += await outcomes(session, range(6, 11))
    assert found == [*MAIL[:9], Disconnected, Disconnected]


async def test_a_server_that_is_busy_when_the_next_are_read(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    busy = "NO [UNAVAILABLE] come back later"
    script: dict[Step, Action] = {("BODY", 3): Drop(), **{("AUTHENTICATE", number): busy for number in range(2, 20)}}
    caplog.set_level("INFO")
    async with pair(certificates.good, *MAIL, script=script) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert await outcomes(session, range(6)) == MAIL[:6]
            running = session._session._messages._running
            assert running is not None
            await running  # which raises nothing: nobody else would look at it
            assert caplog.messages.count("reading ahead failed") == 1
            assert await outcomes(session, range(6, 9)) == MAIL[6:9], "what is here is not lost by it"
            server.script.clear()
            assert await outcomes(session, range(9, COUNT)) == MAIL[9:]


async def test_sessions_share_what_was_read(certificates: Certificates) -> None:
    async def use() -> None:
        async with maildrop.open(CLIENT, None) as session:
            assert [await read(session, position) for position in range(COUNT)] == MAIL

    async with pair(certificates.good, *MAIL) as (maildrop, server):
        async with anyio.create_task_group() as clients:
            for _ in range(20):
                clients.start_soon(use)
        batches = [batch for batch in bodies(server) if len(batch) > 1]
        assert sorted(uid for batch in batches for uid in batch) == list(range(2, COUNT + 1)), "each came once"
        assert [batch for batch in bodies(server) if len(batch) == 1] == [[1]], "the first as well"
        messages = maildrop._accounts._shelves._messages
        assert messages.octets == 0, "nothing is kept when nobody is there any more"
        assert messages._kept == messages._coming == {}


async def test_same_name_with_another_password_shares_no_message(certificates: Certificates) -> None:
    accounts = {
        (USER, password): Mailbox.of(*(b"of %s, %d" % (password.encode(), number) for number in range(10)))
        for password in ("one", "two")
    }
    async with pair(certificates.good, accounts=accounts, POP3_LOGIN="backend") as (maildrop, _):
        async with maildrop.open(CLIENT, login(USER, "one")) as one, maildrop.open(CLIENT, login(USER, "two")) as two:
            for position in range(10):
                assert await read(one, position) == b"of one, %d" % position
                assert await read(two, position) == b"of two, %d" % position


# What a FETCH of messages 2 to 9 may bring. What is wrong with one of them is no other's business.


def row(uid: int, octets: bytes | None = None) -> bytes:
    octets = MAIL[uid - 1] if octets is None else octets
    return b"* %d FETCH (UID %d BODY[] {%d}\r\n%b)\r\n" % (uid, uid, len(octets), octets)


def rows(*uids: int) -> bytes:
    return b"".join(map(row, uids))


ALL, OK = range(2, 10), b"TAG OK done\r\n"
LAST = MAIL[8]
# fmt: off
FAULTS: list[tuple[Action, str]] = [
    (rows(*ALL) + OK, "all"),
    (rows(*reversed(ALL)) + OK, "all"),
    (b"* 3 EXPUNGE\r\n* 4 FETCH (FLAGS ())\r\n" + rows(*ALL) + b"* 9 EXISTS\r\n" + OK, "all"),
    (rows(2, 3, 4, 5, 6, 7, 8) + b"* 9 FETCH (BODY[] {%d}\r\n%b UID 9)\r\n" % (len(LAST), LAST) + OK, "all"),
    (rows(2, 3, 4, 5, 6, 7, 8) + row(9)[:-3] + b" FLAGS (\\Seen))\r\n" + OK, "all"),
    (rows(2, 3, 4, 5, 6, 7, 8) + row(9).replace(b"(UID", b"(FLAGS () UID") + OK, "all"),
    (rows(2, 3, 5, 6, 7, 8, 9) + OK, "4 missing"),
    (rows(2, 3, 5, 6, 7, 8, 9) + b"* 4 FETCH (UID 4 BODY[] NIL)\r\n" + OK, "4 missing"),
    (rows(2, 3, 5, 6, 7, 8, 9) + b'* 4 FETCH (UID 4 BODY[] "hello")\r\n' + OK, "4 missing"),
    (rows(2, 3, 5, 6, 7, 8, 9) + row(4, b"") + OK, "4 missing"),
    (rows(2, 3, 5, 6, 7, 8, 9) + b"* 4 FETCH (UID 4 FLAGS ())\r\n" + OK, "4 missing"),
    (rows(3, 4, 5, 6, 7, 8, 9) + OK, "2 missing"),
    (OK, "none"),
    (rows(*ALL) + b"TAG NO [SERVERBUG] some of them can not be read\r\n", "none"),
    (b"TAG NO [LIMIT] too many at once\r\n", "none"),
    (rows(*ALL) + b"TAG BAD what?\r\n", "none"),
    (rows(2, 3) + row(44, b"another's") + rows(5, 6, 7, 8, 9) + OK, "none"),
    (rows(2, 3, 4, 5, 6, 7, 8, 9, 9) + OK, "none"),
    (rows(2, 3) + b"* 4 FETCH (UID 4 BODY[HEADER] {2}\r\nhi)\r\n" + rows(5, 6, 7, 8, 9) + OK, "none"),
    (rows(2, 3) + b"* 4 FETCH (BODY[] {2}\r\nhi)\r\n" + rows(5, 6, 7, 8, 9) + OK, "none"),
    (rows(2, 3) + b"* 4 FETCH (UID 4 BODY[] {2}\r\nhi there)\r\n" + rows(5, 6, 7, 8, 9) + OK, "none"),
    (rows(2, 3) + row(4, b"x" * 200_000) + rows(5, 6, 7, 8, 9) + OK, "none"),
    (rows(2, 3) + b"* 4 FETCH (UID 4 BODY[] {4294967295}\r\n", "none"),
    (rows(2, 3) + b"* 4 FETCH (UID 4 BODY[] {99999999999}\r\n" + rows(5, 6), "none"),
    (Drop(rows(2, 3)), "none"),
    (Drop(rows(*ALL)), "none"),
    (Drop(rows(*ALL) + b"* BYE bye\r\n"), "none"),
    (Reset(rows(2, 3)), "none"),
    (Hang(rows(*ALL)), "none"),
    (Hang(row(2)[:-10]), "none"),
    (Cut(-1), "none"),
    (Cut(-3), "none"),
    (Cut(200), "none"),
    (Cut(0), "none"),
    (b"* 1 FETCH (FLAGS ())\r\n" * 50_000 + OK, "none"),
]
# fmt: on


@pytest.mark.parametrize(("answer", "kept"), FAULTS)
async def test_a_batch_that_goes_wrong(certificates: Certificates, answer: Action, kept: str) -> None:
    def spoil(_: Connection, command: str) -> Action:
        return answer if command.startswith("UID FETCH 2:9 ") else None

    async with pair(certificates.good, *MAIL, script=at_body(spoil), seconds=IMPATIENT) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert await outcomes(session, range(COUNT)) == MAIL, "all are read in the end, and rightly"
    asked = bodies(server)
    assert [2, 3, 4, 5, 6, 7, 8, 9] in asked
    alone = {batch[0] for batch in asked if len(batch) == 1} - {1}
    assert ({"all": set(), "4 missing": {4}, "2 missing": {2}, "none": {2}}[kept]) <= alone
    if kept == "all":
        assert alone == set()


POISON: list[tuple[Action, type[Failure]]] = [
    (b"TAG OK nothing\r\n", MessageGone),
    (b"* 7 FETCH (UID 7 BODY[] NIL)\r\nTAG OK\r\n", MessageUnavailable),
    (b"* 7 FETCH (UID 7 BODY[] NIL)\r\nTAG OK done\r\n", MessageUnavailable),
    ("NO [SERVERBUG] broken", MessageUnavailable),
    ("BAD what?", Disconnected),
    (Drop(), Disconnected),
    (Hang(), Disconnected),
]


@pytest.mark.parametrize(("answer", "kind"), POISON)
async def test_a_message_that_spoils_every_batch(
    certificates: Certificates, answer: Action, kind: type[Failure]
) -> None:
    def spoil(_: Connection, command: str) -> Action:
        uids = [int(uid) for uid in re.findall(r"\d+", command.split(" ")[2])]
        return answer if min(uids) <= 7 <= max(uids) else None

    async with pair(certificates.good, *MAIL, script=at_body(spoil), seconds=IMPATIENT) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            found = await outcomes(session, range(COUNT))
    assert len(server.connections) <= 5, "twice with the others, twice alone"
    assert found[6] is kind
    assert [*found[:6], *found[7:]] == [*MAIL[:6], *MAIL[7:]], "its neighbours do not suffer"


async def test_messages_that_another_client_expunges(certificates: Certificates) -> None:
    async with pair(certificates.good, *MAIL) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert await outcomes(session, range(3)) == MAIL[:3]
            messages = next(iter(server.accounts.values())).messages
            for uid in (5, 12, 30):
                del messages[uid]
            found = await outcomes(session, range(3, COUNT))
            # The fifth had been read when it was still there. The others had not.
            assert found == [*MAIL[3:11], MessageGone, *MAIL[12:29], MessageGone]
            assert await outcomes(session, range(4, 5)) == [MessageGone], "whoever asks again is told what is"


async def test_uidvalidity_that_changes(certificates: Certificates) -> None:
    async with pair(certificates.good, *MAIL) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert await outcomes(session, range(3)) == MAIL[:3]
            mailbox = next(iter(server.accounts.values()))
            mailbox.uidvalidity += 1
            for uid, message in mailbox.messages.items():
                message.octets = b"another message, %d" % uid
            server.disconnect_all()
            await server.until(lambda server: server.open_connections == 0)
            async with maildrop.open(CLIENT, None) as later:
                assert await outcomes(later, range(4)) == [b"another message, %d" % uid for uid in range(1, 5)]
                found = await outcomes(session, range(3, COUNT))
    assert found == [*MAIL[3:9], *[Disconnected] * (COUNT - 9)]


async def test_a_client_that_leaves_while_others_wait(certificates: Certificates) -> None:
    async with pair(certificates.good, *MAIL, script={("BODY", 2): Hang(rows(2, 3))}) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as leaving, maildrop.open(CLIENT, None) as staying:
            assert await read(leaving, 0) == await read(staying, 0) == MAIL[0]
            async with anyio.create_task_group() as group:
                group.start_soon(read, leaving, 1)
                await server.until(lambda server: server.times("BODY") == 2)
                async with anyio.create_task_group() as waiting:

                    async def read_on() -> None:
                        assert await outcomes(staying, range(1, COUNT)) == MAIL[1:]

                    waiting.start_soon(read_on)
                    await anyio.wait_all_tasks_blocked()
                    group.cancel_scope.cancel()


async def test_more_sessions_than_there_is_room_for(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox = Mailbox({uid: Message(b"%d" % uid * 5000) for uid in range(1, 101)})
    async with pair(certificates.good, mailbox=mailbox) as (maildrop, server):
        messages = maildrop._accounts._shelves._messages
        messages._max_octets = 50_000
        async with maildrop.open(CLIENT, None) as session:
            for position in range(100):
                assert await read(session, position) == mailbox.messages[position + 1].octets
                assert messages.octets <= 50_000
    assert sum(map(len, bodies(server))) < 500, "what does not fit is not read ahead again and again"


def test_the_budget() -> None:
    messages = Messages(1000)
    one, two = Shelf(messages), Shelf(messages)
    one.users = two.users = 1
    for number in range(1, 21):
        for holder in (one, two):
            with messages.fetching(holder, [(1, number, "x")]) as fetched:
                assert messages.coming(holder, (1, number, "x")) is not None
                fetched[1, number, "x"] = b"x" * 100
        assert messages.octets <= 1000
    assert [messages.get(one, (1, number, "x")) is not None for number in (15, 16, 20)] == [False, True, True]
    assert messages.get(one, (2, 20, "x")) is None
    messages.forget(one)
    assert messages.octets == 500
    one.users = 0
    with messages.fetching(one, [(1, 1, "x")]) as fetched:
        fetched[1, 1, "x"] = b"x"
    assert messages.get(one, (1, 1, "x")) is None, "nobody is there who could want it"
    assert messages.coming(one, (1, 1, "x")) is None
    assert account_cache.MESSAGES_OCTETS <= 32 << 20


async def test_on_dovecot(dovecot: Dovecot, account: Account) -> None:
    contents = [
        b"Subject: %d\r\n\r\n%b\r\n" % (number, bytes([48 + number % 75]) * 997 * number) for number in range(150)
    ]
    dovecot.add_messages(account.name, contents)
    maildrop = maildrop_on(dovecot, account)
    async with maildrop.open(CLIENT, None) as session:
        assert [await read(session, position) for position in range(100)] == contents[:100]
        with dovecot.connect(account.name) as other:
            other.select()
            other.store("150", "+FLAGS", r"\Deleted")
            other.expunge()
        found = await outcomes(session, range(100, 150))
        assert found[:-1] == contents[100:149]
        assert found[-1] in (contents[149], MessageGone)
        assert [await read_top(session, position, 0) for position in range(149)] == [*map(headers, contents[:149])]
    await maildrop.aclose()
