"""What becomes of a message after its 250: tries, verdicts, notifications, and what is set aside."""

from __future__ import annotations

import email
import logging
import sqlite3
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from legacy_email_proxy.contracts import (
    CredentialsRefused,
    Disconnected,
    Overloaded,
    Refused,
    SettingsMistake,
    Unreachable,
    Unusable,
    Unverified,
)
from legacy_email_proxy_plugins.spool import delivery as delivery_module
from spool import support
from spool.support import (
    CONTENT,
    SENDER,
    SQLITE,
    Backend,
    Clock,
    bodies,
    listed,
    operate,
    raises,
    send,
    spooling,
    until_states,
    until_tries,
)
from waiting import until

pytestmark = pytest.mark.usefixtures("store")

LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcde\r\n" * 10_000


def tick(spool: Any, clock: Clock, seconds: float) -> None:
    clock.now += seconds
    spool._delivery.wake()


TEMPORARY = Refused(450, "4.2.1", "not now")
PERMANENT = Refused(550, "5.1.1", "no such user")


@pytest.mark.parametrize(
    "failure",
    [
        TEMPORARY,
        Refused(421, "4.3.2", "bye"),
        Refused(535, "5.7.8", "your password"),
        Disconnected("gone"),
        Unreachable("away"),
        Unusable("x"),
        ValueError("a bug"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("step", ["sender", "recipient", "before_dot"])
async def test_what_is_temporary_is_tried_again(tmp_path: Path, clock: Clock, step: str, failure: Exception) -> None:
    backend = Backend(**{step: raises([failure])})  # type: ignore[arg-type]
    async with spooling(backend, tmp_path) as spool:
        await send(spool)
        await until(lambda: len(backend.tried) == 1)
        item = await until_tries(spool, 1)
        assert item["due"] == clock.now + 60
        assert str(getattr(failure, "text", failure)) in item["recipients"][0]["reply"]
        tick(spool, clock, 61)
        await until_states(spool)
        assert backend.contents == [CONTENT]


@pytest.mark.fault("B23")
async def test_the_schedule(tmp_path: Path, clock: Clock) -> None:
    backend = Backend(recipient=raises([TEMPORARY] * 8))
    begun, waits = clock.now, []
    async with spooling(backend, tmp_path, SPOOL_RETRY_SECONDS="60,300,3600") as spool:
        await send(spool)
        for number in range(1, 9):
            await until(lambda number=number: len(backend.tried) == number)  # type: ignore[misc]
            item = await until_tries(spool, number)
            waits.append(item["due"] - clock.now)
            tick(spool, clock, waits[-1])
        await until_states(spool)
    assert waits == [60, 300, *[3600] * 6]
    assert clock.now - begun == sum(waits)


@pytest.mark.fault("B10")
async def test_each_recipient_has_a_fate_of_its_own(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    verdicts = {"late@example.test": [TEMPORARY], "wrong@example.test": [PERMANENT]}

    def judge(path: str) -> None:
        if verdicts.get(path):
            raise verdicts[path].pop()

    backend = Backend(recipient=judge)
    async with spooling(backend, tmp_path) as spool:
        await send(spool, "good@example.test", "late@example.test", "wrong@example.test")
        await until(lambda: len(backend.delivered) == 2)
        await until_states(spool, "queued")
        assert [each for each in caplog.messages if each.startswith("recipients ")] == [
            "recipients not taken for now",
            "recipients refused",
        ]
        original, notice = backend.delivered
        assert original.forward_paths == ("good@example.test",)
        assert (notice.reverse_path, notice.forward_paths) == ("", (SENDER,))
        assert b"Final-Recipient: rfc822; wrong@example.test" in notice.content
        assert b"late@" not in notice.content
        assert b"good@" not in notice.content
        (item,) = await listed(spool)
        assert [each["fate"] for each in item["recipients"]] == ["delivered", "waiting", "notified"]
        tick(spool, clock, 61)
        await until_states(spool)
        assert [each.forward_paths for each in backend.delivered[2:]] == [("late@example.test",)]


@pytest.mark.fault("D22")
@pytest.mark.parametrize("step", ["sender", "recipient", "before_dot"])
async def test_a_permanent_verdict_is_notified(tmp_path: Path, step: str) -> None:
    backend = Backend(**{step: raises([Refused(554, "5.7.1", "spam,\r\nit is")])})  # type: ignore[arg-type]
    async with spooling(backend, tmp_path) as spool:
        await send(spool, content=LARGE)
        await until_states(spool)
        await until(lambda: not bodies(tmp_path))
    (notice,) = backend.delivered
    message: Any = email.message_from_bytes(notice.content)
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["To"] == f"<{SENDER}>"
    words, status, header = message.get_payload()
    assert "bob@example.test" in words.get_payload()
    _, fields = status.get_payload()
    assert fields["Action"] == "failed"
    assert fields["Status"] == "5.7.1"
    assert fields["Final-Recipient"] == "rfc822; bob@example.test"
    assert fields["Diagnostic-Code"] == "smtp; 554 5.7.1 spam, it is"
    assert header.get_content_type() == "text/rfc822-headers"
    assert header.get_payload() == "Subject: large\r\n"


async def test_a_sender_outside_ascii_is_notified(tmp_path: Path) -> None:
    backend = Backend(recipient=raises([Refused(550, "5.1.1", "No such user")]))
    async with spooling(backend, tmp_path) as spool:
        utf8: dict[str, str | None] = {"SMTPUTF8": None}
        await send(spool, "bj\u00f6rn@example.test", reverse_path="j\u00fcrgen@example.test", parameters=utf8)
        await until_states(spool)
    (told,) = backend.delivered
    assert told.forward_paths == ("j\u00fcrgen@example.test",)
    assert "SMTPUTF8" in told.parameters
    assert "\r\nTo: <j\u00fcrgen@example.test>\r\n".encode() in told.content
    assert rb"Final-Recipient: utf-8; bj\x{F6}rn@example.test" in told.content


@pytest.mark.parametrize("notify", ["NEVER", "SUCCESS", "SUCCESS,DELAY"])
async def test_a_sender_who_wants_to_hear_nothing_is_told_nothing(
    tmp_path: Path, notify: str, caplog: pytest.LogCaptureFixture
) -> None:
    backend = Backend(recipient=raises([PERMANENT]))
    async with spooling(backend, tmp_path) as spool:
        await send(spool, recipient_parameters={"NOTIFY": notify})
        await until_states(spool)
    assert backend.delivered == []
    assert "the sender has asked not to be notified" in caplog.text


@pytest.mark.parametrize("step", ["sender", "recipient", "before_dot"])
async def test_a_backend_that_refuses_the_null_reverse_path(tmp_path: Path, step: str) -> None:
    verdicts = iter([PERMANENT, Refused(550, "5.7.60", "SendAsDenied")])
    backend = Backend(**{step: raises(verdicts)})  # type: ignore[arg-type]
    async with spooling(backend, tmp_path, SPOOL_NOTIFY_SENDER="proxy@firm.test") as spool:
        await send(spool)
        await until_states(spool)
    (told,) = backend.delivered
    assert (told.reverse_path, told.forward_paths) == ("proxy@firm.test", (SENDER,))
    assert b"\r\nAuto-Submitted: auto-replied\r\n" in told.content
    assert backend.tried == [SENDER, "", "proxy@firm.test"]


@pytest.mark.parametrize(
    ("variables", "used"),
    [
        ({"BACKEND_SMTP_USER": "me@provider.test"}, "me@provider.test"),
        ({"BACKEND_SMTP_USER": "me@provider.test", "SMTP_SENDER": "us@firm.test"}, "us@firm.test"),
        ({"BACKEND_SMTP_USER": "me"}, None),
    ],
)
async def test_what_else_a_notification_comes_from(tmp_path: Path, variables: dict[str, str], used: str | None) -> None:
    backend = Backend(recipient=raises(iter([PERMANENT, PERMANENT])))
    async with spooling(backend, tmp_path, **variables) as spool:
        await send(spool)
        await until_states(spool, *([] if used else ["dead"]))
    assert [each.reverse_path for each in backend.delivered] == ([used] if used else [])


@pytest.mark.fault("D21")
async def test_a_notification_that_nobody_takes_is_not_answered_by_another(tmp_path: Path, clock: Clock) -> None:
    """Refused for good under both reverse-paths; one that is only late under the second is tried again with both."""
    verdicts = iter([PERMANENT, PERMANENT, TEMPORARY, PERMANENT, PERMANENT])
    backend = Backend(recipient=raises(verdicts))
    async with spooling(backend, tmp_path, SPOOL_NOTIFY_SENDER="proxy@firm.test") as spool:
        await send(spool)
        await until(lambda: len(backend.tried) == 3)
        await until_states(spool, "notifying", "queued")
        tick(spool, clock, 61)
        await until_states(spool, "dead")
    assert backend.tried == [SENDER, *["", "proxy@firm.test"] * 2]
    assert backend.delivered == []


@pytest.mark.fault("D21")
async def test_no_notification_for_the_null_reverse_path(tmp_path: Path) -> None:
    backend = Backend(recipient=raises([PERMANENT]))
    async with spooling(backend, tmp_path) as spool:
        await send(spool, reverse_path="")
        (item,) = await until_states(spool, "dead")
        assert backend.delivered == []
        assert item["recipients"][0]["reply"] == "550 5.1.1 no such user"
        await operate(spool, "retry", item["number"])
        await until_states(spool)
    assert backend.contents == [CONTENT]


async def test_a_message_whose_notification_fails_is_kept(tmp_path: Path) -> None:
    backend = Backend(recipient=raises([PERMANENT, Refused(550, "5.1.1", "nor the sender")]))
    async with spooling(backend, tmp_path) as spool:
        await send(spool, content=LARGE)
        (item,) = await until_states(spool, "dead")
        assert item["sender"] == SENDER
        exported = b"".join(await operate(spool, "export", item["number"]))
        assert exported == LARGE
    assert backend.delivered == []
    async with spooling(Backend(), tmp_path) as spool:
        await until_states(spool, "dead")


async def test_a_message_is_kept_until_its_notification_is_taken(tmp_path: Path, clock: Clock) -> None:
    backend = Backend(recipient=raises([PERMANENT, TEMPORARY]))
    async with spooling(backend, tmp_path) as spool:
        await send(spool)
        await until(lambda: len(backend.tried) == 2)
        await until_states(spool, "notifying", "queued")
        tick(spool, clock, 61)
        await until_states(spool)
    assert len(backend.delivered) == 1


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"SPOOL_POSTMASTER": "pm@example.test"}, (SENDER, "pm@example.test")),
        ({"SPOOL_POSTMASTER": "pm@example.test", "SPOOL_NOTIFY": "postmaster"}, ("pm@example.test",)),
        ({"SPOOL_POSTMASTER": "pm@example.test", "SPOOL_NOTIFY": "sender"}, (SENDER,)),
        ({"SPOOL_POSTMASTER": SENDER}, (SENDER,)),
    ],
)
async def test_who_is_told(tmp_path: Path, variables: dict[str, str], told: tuple[str, ...]) -> None:
    backend = Backend(recipient=raises([PERMANENT]))
    async with spooling(backend, tmp_path, **variables) as spool:
        await send(spool)
        await until_states(spool)
    (notice,) = backend.delivered
    assert notice.forward_paths == told


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"BACKEND_SMTP_USER": "user@provider.test"}, "user@provider.test"),
        ({"BACKEND_SMTP_USER": "user@provider.test", "SPOOL_POSTMASTER": "pm@example.test"}, "pm@example.test"),
        ({"SMTP_SENDER": "only@provider.test", "SPOOL_POSTMASTER": "pm@example.test"}, "only@provider.test"),
    ],
)
async def test_in_whose_name(tmp_path: Path, variables: dict[str, str], name: str) -> None:
    backend = Backend(recipient=raises([PERMANENT]))
    async with spooling(backend, tmp_path, **variables) as spool:
        await send(spool)
        await until_states(spool)
    (notice,) = backend.delivered
    assert email.message_from_bytes(notice.content)["From"] == f"Mail delivery system <{name}>"


@pytest.mark.fault("D21")
async def test_given_up_after_its_time(tmp_path: Path, clock: Clock) -> None:
    backend = Backend(recipient=raises([TEMPORARY] * 4))
    async with spooling(backend, tmp_path, SPOOL_GIVE_UP_SECONDS="400") as spool:
        await send(spool)
        for number, seconds in enumerate((60, 300, 40), 1):
            await until(lambda number=number: len(backend.tried) == number)  # type: ignore[misc]
            await until_tries(spool, number)
            tick(spool, clock, seconds)
        await until_states(spool)
    (notice,) = backend.delivered
    assert b"Status: 4.2.1\r\n" in notice.content
    assert b"450 4.2.1 not now" in notice.content


@pytest.mark.fault("D7")
@pytest.mark.parametrize("wrong", [100_000.0, 4_000_000_000.0], ids=["1970", "2096"])
@pytest.mark.parametrize("tries", [0, 1])
async def test_a_start_before_the_clock_was_set_ages_no_mail(
    tmp_path: Path, clock: Clock, wrong: float, tries: int
) -> None:
    right, clock.now = clock.now, wrong
    variables = {"SPOOL_GIVE_UP_SECONDS": "400", "SPOOL_RETRY_SECONDS": "60"}
    stuck = Backend(before_dot=lambda _: anyio.sleep_forever(), recipient=raises([TEMPORARY] * tries))
    async with spooling(stuck, tmp_path, **variables) as spool:
        await send(spool)
        await until(lambda: stuck.tried)
        await until_tries(spool, tries)
    clock.now = right
    backend = Backend(recipient=raises([TEMPORARY] * 3))
    async with spooling(backend, tmp_path, **variables) as spool:
        tick(spool, clock, 100)
        await until_tries(spool, tries + 1)
        tick(spool, clock, 200)
        await until_tries(spool, tries + 2)
        # From here on it is known to have been tried for 200 seconds.
        tick(spool, clock, 200)
        await until_states(spool)
    assert len(backend.tried) == 4
    (notice,) = backend.delivered
    assert b"Status: 4.2.1\r\n" in notice.content


async def test_the_time_between_tries_counts_over_restarts_and_that_of_no_service_does_not(
    tmp_path: Path, clock: Clock
) -> None:
    backend = Backend(recipient=raises([TEMPORARY] * 6))
    variables = {"SPOOL_GIVE_UP_SECONDS": "400", "SPOOL_RETRY_SECONDS": "60,60,300,3600"}
    async with spooling(backend, tmp_path, **variables) as spool:
        await send(spool)
        await until_tries(spool, 1)
        tick(spool, clock, 60)
        await until_tries(spool, 2)
    clock.now += 7 * 86400
    async with spooling(backend, tmp_path, **variables) as spool:
        # The first try of a start shows nothing but that it is still there.
        await until_tries(spool, 3)
        tick(spool, clock, 300)
        await until_tries(spool, 4)
    clock.now += 7 * 86400
    async with spooling(backend, tmp_path, **variables) as spool:
        assert (await until_tries(spool, 5))["due"] == clock.now + 40
        tick(spool, clock, 40)
        await until_states(spool)
    (notice,) = backend.delivered
    assert b"Status: 4.2.1\r\n" in notice.content


async def test_what_was_held_has_all_its_time_before_it_when_it_is_released(tmp_path: Path, clock: Clock) -> None:
    backend = Backend(recipient=raises([TEMPORARY]))
    async with spooling(backend, tmp_path, SPOOL_GIVE_UP_SECONDS="400") as spool:
        spool._delivery._gate.failed(Unreachable("away"))  # type: ignore[union-attr]
        await send(spool)
        ((number, state),) = [(each["number"], each["state"]) for each in await listed(spool)]
        assert state == "queued"
        await operate(spool, "hold", number)
        tick(spool, clock, 1000)
        await operate(spool, "release", number)
        await until_tries(spool, 1)
        await until_states(spool, "queued")
        tick(spool, clock, 61)
        await until_states(spool)
    assert backend.contents == [CONTENT]


async def test_told_once_that_it_is_late(tmp_path: Path, clock: Clock) -> None:
    backend = Backend(recipient=lambda path: raises([TEMPORARY])(path) if path != SENDER else None)
    async with spooling(backend, tmp_path, SPOOL_WARN_SECONDS="300") as spool:
        await send(spool)
        for number in range(1, 6):
            await until(lambda number=number: backend.tried.count(SENDER) == number)  # type: ignore[misc]
            await until_tries(spool, number)
            tick(spool, clock, 3600)
        await until_states(spool, "queued")
        backend.recipient = lambda _: None
        tick(spool, clock, 3600)
        await until_states(spool)
    warning, original = backend.delivered
    assert original.content == CONTENT
    assert b"Action: delayed\r\n" in warning.content
    assert b"Will-Retry-Until: " in warning.content
    assert warning.forward_paths == (SENDER,)


@pytest.mark.fault("B16")
async def test_an_ambiguous_end_is_told(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    backend = Backend(after_dot=raises([Disconnected("no answer to the final dot")]))
    async with spooling(backend, tmp_path) as spool:
        await send(spool)
        await until(lambda: "message may have been delivered: it is tried again" in caplog.text)
        await until_tries(spool, 1)
        tick(spool, clock, 61)
        await until_states(spool)
    assert backend.contents == [CONTENT, CONTENT]


@pytest.mark.parametrize(
    "failure", [Unreachable("away"), Unverified("x"), CredentialsRefused("535"), Overloaded("busy"), Unusable("x")]
)
async def test_a_backend_that_is_down_is_tried_by_one_message_at_a_time(
    tmp_path: Path, clock: Clock, failure: Exception
) -> None:
    down = True

    def sender(_: str) -> None:
        if down:
            raise failure

    backend = Backend(sender=sender)
    async with spooling(backend, tmp_path, BACKEND_SMTP_MAX_CONNECTIONS="3") as spool:
        await send(spool, reverse_path="first@example.test")
        await until(lambda: backend.tried)
        delivery: Any = spool._delivery
        await until(lambda: delivery._gate.closed)
        for number in range(200):
            clock.now += 0.001
            await send(spool, reverse_path=f"{number}@example.test")
        for number in range(2, 5):
            tick(spool, clock, 3600)
            await until(lambda number=number: len(backend.tried) == number)  # type: ignore[misc]
            await until(lambda: not delivery._busy)
        down = False
        tick(spool, clock, 3600)
        await until_states(spool)
        assert len(backend.tried) == 4 + 201
        assert backend.most_at_once <= 3
        order = [each.reverse_path for each in backend.delivered]
    # Those that were not tried yet first, as they came; within the three that go at once, any order is right.
    places = [order.index(f"{number}@example.test") for number in range(3, 200)]
    assert all(abs(place - number) <= 8 for number, place in enumerate(places))


@pytest.mark.fault("D22")
async def test_a_message_that_crashes_the_relay_is_set_aside(tmp_path: Path, clock: Clock) -> None:
    def recipient(path: str) -> None:
        if path == "poison@example.test":
            raise ZeroDivisionError

    backend = Backend(recipient=recipient)
    async with spooling(backend, tmp_path, SPOOL_POISON_TRIES="3") as spool:
        await send(spool, "poison@example.test")
        for number in range(1, 4):
            await send(spool)
            await until(lambda number=number: len(backend.delivered) == number)  # type: ignore[misc]
            await until_tries(spool, number)
            tick(spool, clock, 3600)
        (item,) = await until_states(spool, "set aside")
        assert "ZeroDivisionError" in item["reason"]
        backend.recipient = lambda _: None
        await operate(spool, "retry", item["number"])
        await until_states(spool)


class Unspeakable(Exception):
    """Its words are such as a file name can have, and no database takes."""

    def __repr__(self) -> str:
        return f"Unspeakable({self})"


async def test_no_words_of_a_relay_keep_its_message_from_being_written_down(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "legacy_email_proxy")  # nor can xdist hand them on, in what was logged
    backend = Backend(sender=raises([Unspeakable("no \udcff \0 file")] * 2))
    async with spooling(backend, tmp_path, SPOOL_POISON_TRIES="2") as spool:
        await send(spool)
        item = await until_tries(spool, 1)
        assert (item["state"], item["recipients"][0]["reply"]) == ("queued", r"no \udcff \x00 file")
        tick(spool, clock, 3600)
        (item,) = await until_states(spool, "set aside")
        assert item["reason"].endswith(r"Unspeakable(no \udcff \x00 file)")


@pytest.mark.parametrize("failure", [Overloaded("disk"), ZeroDivisionError("a bug")], ids=["known", "unexpected"])
async def test_what_was_done_but_can_not_be_written_down_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    monkeypatch.setattr(delivery_module, "_TROUBLE_SECONDS", 0.01)
    backend = Backend()
    async with spooling(backend, tmp_path) as spool:
        record, failures = spool._spool.store.record, [failure] * 5

        async def failing(outcome: Any) -> None:
            if failures:
                raise failures.pop()
            await record(outcome)

        monkeypatch.setattr(spool._spool.store, "record", failing)
        await send(spool)
        await until_states(spool)
    assert len(backend.tried) == 1


@pytest.mark.long
@pytest.mark.fault("D20")
async def test_thousands_wait_for_a_backend_without_a_storm_and_go_in_order(tmp_path: Path, clock: Clock) -> None:
    count, connections, down = 5000, 10, True
    async with spooling(Backend(), tmp_path):
        pass
    _fill(tmp_path, count)

    def sender(_: str) -> None:
        if down:
            raise Unreachable("away")

    # Each takes a moment, so that others come meanwhile.
    backend = Backend(sender=sender, before_dot=lambda _: anyio.lowlevel.checkpoint(), keep=False)
    async with spooling(backend, tmp_path, SPOOL_GIVE_UP_SECONDS="9e9") as spool:
        delivery: Any = spool._delivery
        await until(lambda: delivery._gate.closed and not delivery._busy)
        # What was on its way when it showed; from then on one a minute, however many are due.
        assert len(backend.tried) <= connections
        before = len(backend.tried)
        for number in range(1, 31):
            tick(spool, clock, 61)
            await until(lambda number=number: len(backend.tried) == before + number)  # type: ignore[misc]
            await until(lambda: not delivery._busy)
        down = False
        tick(spool, clock, 61)
        await until(lambda: len(backend.delivered) > 100)
        assert len(delivery._busy) <= 3 * connections
        await until(lambda: len(backend.delivered) == count, 30)
        assert len(backend.tried) == before + 30 + count
        assert backend.most_at_once == connections
    order = [int(each.reverse_path.partition("@")[0]) for each in backend.delivered]
    # Those that were tried in vain come when they are due again, and the first that came through was the last probe.
    first = [number for number in order if number >= before + 31]
    assert all(abs(place - number) <= 3 * connections for place, number in enumerate(first, before + 31))


@SQLITE  # with the other one, any proxy's notification makes us ask for what is due
@pytest.mark.parametrize(("octets", "read"), [(100, False), (60_000, True)])
async def test_new_messages_wait_in_memory_while_they_are_few_and_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, octets: int, read: bool
) -> None:
    count, open_ = 120, anyio.Event()
    backend = Backend(before_dot=lambda _: open_.wait())
    async with spooling(backend, tmp_path) as spool:
        delivery: Any = spool._delivery
        await until(lambda: not delivery._more_in_store)
        store, leased = spool._spool.store, 0
        lease = store.lease

        async def counted(*arguments: Any) -> Any:
            nonlocal leased
            messages = await lease(*arguments)
            leased += len(messages)
            return messages

        monkeypatch.setattr(store, "lease", counted)
        for number in range(count):
            await send(spool, content=b"%d\r\n" % number + b"x" * octets)
        assert sum(len(message) for message in backend.contents) == 0
        assert delivery._octets <= delivery_module._OFFERED_OCTETS + octets + 10
        open_.set()
        await until(lambda: len(backend.delivered) == count)
        assert sorted(int(each.partition(b"\r")[0]) for each in backend.contents) == [*range(count)]
        assert (leased > 0) == read
        await until_states(spool)
        await until(lambda: not delivery._busy)
        assert delivery._octets == 0


def _fill(state_dir: Path, count: int) -> None:
    columns, values = support.store.message_columns
    support.store.execute(
        state_dir,
        "INSERT INTO message (number, account, state, received, since, due, client, reverse_path, parameters,"
        f" octets{columns}) VALUES (?, '', 'queued', 1, 1, ?, '[\"\", \"\", \"\", \"\", 0]', ?, '{{}}', 3{values})",
        *[(number + 1, number, f"{number}@example.test") for number in range(count)],
    )
    support.store.execute(
        state_dir,
        "INSERT INTO recipient (message, number, forward_path, parameters)"
        " SELECT number, 0, 'x@example.test', '{}' FROM message",
    )
    support.store.execute(state_dir, "INSERT INTO content SELECT number, x'610d0a' FROM message")


DAMAGE = {
    "client": "UPDATE message SET client = 'x' WHERE number = 1",
    "parameters": "UPDATE message SET parameters = '[]' WHERE number = 1",
    "state of a recipient": "UPDATE recipient SET fate = 'lost' WHERE message = 1",
    "no recipient": "DELETE FROM recipient WHERE message = 1",
    "no content": "DELETE FROM content WHERE message = 1",
    "content cut": "UPDATE content SET octets = x'61' WHERE message = 1",
    "foreign body": "UPDATE message SET body = '../../etc/passwd' WHERE number = 1",
    "no body": f"UPDATE message SET body = '{'0' * 32}' WHERE number = 1",
}
# What PostgreSQL has types against.
LOOSE_DAMAGE = {
    "text for content": "UPDATE content SET octets = 'text' WHERE message = 1",
    "blob for a path": "UPDATE message SET reverse_path = x'ff' WHERE number = 1",
    "no UTF-8": "UPDATE message SET reason = CAST(x'ff' AS TEXT) WHERE number = 1",
}


@pytest.mark.fault("D5")
@pytest.mark.parametrize("damage", DAMAGE)
async def test_what_can_not_be_read_stops_nobody(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    await _damaged(tmp_path, DAMAGE[damage], caplog)


@SQLITE
@pytest.mark.parametrize("damage", LOOSE_DAMAGE)
async def test_what_has_the_wrong_type_stops_nobody(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    await _damaged(tmp_path, LOOSE_DAMAGE[damage], caplog)


async def _damaged(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    async with spooling(Backend(before_dot=lambda _: anyio.sleep_forever()), tmp_path) as spool:
        await send(spool, reverse_path="one@example.test")
        await send(spool, reverse_path="two@example.test")
    support.store.execute(tmp_path, damage)
    backend = Backend()
    async with spooling(backend, tmp_path) as spool:
        await until(lambda: backend.delivered)
        (item,) = await until_states(spool, "set aside")
        assert item["number"] == 1
        assert item["reason"]
        assert "set aside" in caplog.text
        assert [each.reverse_path for each in backend.delivered] == ["two@example.test"]
        await operate(spool, "drop", 1)
        await until_states(spool)


@SQLITE
async def test_a_file_with_broken_pages_is_kept_and_a_new_one_begun(tmp_path: Path) -> None:
    async with spooling(Backend(before_dot=lambda _: anyio.sleep_forever()), tmp_path) as spool:
        await send(spool)
    with sqlite3.connect(tmp_path / "spool.db") as database:
        (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'message'").fetchone()
    database.close()
    with (tmp_path / "spool.db").open("r+b") as file:
        file.seek(4096 * (page - 1))
        file.write(b"\xff" * 4096)
    backend = Backend()
    async with spooling(backend, tmp_path) as spool:
        await send(spool)
        await until(lambda: backend.contents == [CONTENT])
    assert len(unreadable(tmp_path)) == 1


@SQLITE
async def test_a_message_in_a_broken_page_stops_nobody(tmp_path: Path) -> None:
    contents = [b"".join(b"%d %d\r\n" % (number, line) for line in range(2000)) for number in range(6)]
    async with spooling(Backend(sender=raises([Unreachable("away")] * 100)), tmp_path) as spool:
        for content in contents:
            await send(spool, content=content)
        await until_tries(spool, 1)
    octets = bytearray((tmp_path / "spool.db").read_bytes())
    page = octets.index(b"\r\n3 1000\r\n") // 4096 * 4096
    octets[page : page + 4096] = b"\xff" * 4096
    (tmp_path / "spool.db").write_bytes(octets)
    backend = Backend()
    async with spooling(backend, tmp_path) as spool:
        await operate(spool, "retry", 1)
        (item,) = await until_states(spool, "set aside")
        assert item["number"] == 4
        assert item["reason"] == "it lies in a broken part of the file: database disk image is malformed"
        assert sorted(backend.contents) == [*contents[:3], *contents[4:]]


@pytest.mark.fault("D5")
@SQLITE
@pytest.mark.parametrize("content", [b"no database at all" * 1000, b"", b"SQLite format 3\0" + b"\xff" * 8000])
async def test_an_unreadable_file_is_kept_and_a_new_one_begun(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "spool.db").write_bytes(content)
    backend = Backend()
    async with spooling(backend, tmp_path) as spool:
        await send(spool)
        await until(lambda: backend.delivered)
    if content:
        (kept,) = unreadable(tmp_path)
        assert kept.read_bytes() == content
        assert "can not be read" in caplog.text


def unreadable(folder: Path) -> list[Path]:
    return sorted(folder.glob("spool.db.unreadable-*"))


@pytest.mark.fault("D5")
@SQLITE
async def test_a_later_version_is_left_alone(tmp_path: Path) -> None:
    async with spooling(Backend(), tmp_path):
        pass
    with sqlite3.connect(tmp_path / "spool.db") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(SettingsMistake, match="version 99"):
        async with spooling(Backend(), tmp_path):
            pass


@pytest.mark.fault("D5")
@SQLITE
async def test_a_truncated_body_is_set_aside_and_foreign_files_are_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with spooling(Backend(before_dot=lambda _: anyio.sleep_forever()), tmp_path) as spool:
        await send(spool, content=LARGE)
    (body,) = bodies(tmp_path)
    body.write_bytes(LARGE[:-1])
    (body.parent / "notes.txt").write_text("mine")
    (body.parent / ("f" * 32)).write_text("left by a crash")
    backend = Backend()
    async with spooling(backend, tmp_path) as spool:
        (item,) = await until_states(spool, "set aside")
        assert "octets instead of" in item["reason"]
    assert backend.delivered == []
    assert {file.name for file in bodies(tmp_path)} == {body.name, "notes.txt"}
    assert "notes.txt" in caplog.text
