"""One try of a message, without a store: what each recipient's result is, whatever the relay does."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any

import anyio
import pytest

from legacy_email_proxy.contracts import (
    Client,
    Disconnected,
    Failure,
    Parameters,
    Receipt,
    Recipient,
    Refused,
    Relay,
    Transaction,
    Unreachable,
)
from legacy_email_proxy_plugins.spool import attempt as module
from legacy_email_proxy_plugins.spool.attempt import Attempt, attempt
from legacy_email_proxy_plugins.spool.message import Fate, SpooledMessage, State
from legacy_email_proxy_plugins.spool.message import Recipient as Spooled

CONTENT = b"Subject: x\r\n\r\ntext\r\n"
NO, LATER = Refused(550, "5.1.1", "nobody"), Refused(451, "4.3.0", "not now")


async def read(content: AsyncIterator[bytes]) -> Receipt:
    return Receipt(str(len(b"".join([piece async for piece in content]))))


class Scripted:
    """A relay with pipelining that does what a test says, and tells what it was asked."""

    def __init__(
        self,
        verdicts: Mapping[str, Refused] | None = None,
        send: Callable[[AsyncIterator[bytes]], Awaitable[Any]] = read,
        leave: Exception | None = None,
        sender: Exception | None = None,
    ) -> None:
        self._verdicts = verdicts or {}
        self._send = send
        self._leave = leave
        self._sender = sender
        self.asked: list[tuple[list[str], bool]] = []
        self.client: Client
        self.parameters: Parameters
        self.reverse_path = ""
        self.sent = 0

    @asynccontextmanager
    async def transaction(
        self, client: Client, reverse_path: str, parameters: Parameters
    ) -> AsyncIterator[Transaction]:
        self.client, self.reverse_path, self.parameters = client, reverse_path, parameters
        if self._sender is not None:
            raise self._sender
        yield self  # type: ignore[misc]
        if self._leave is not None:
            raise self._leave

    async def add_recipients(
        self, recipients: Sequence[Recipient], *, content_follows: bool
    ) -> Sequence[Refused | None]:
        self.asked.append(([each.forward_path for each in recipients], content_follows))
        return [self._verdicts.get(each.forward_path) for each in recipients]

    async def send(self, content: AsyncIterator[bytes]) -> Any:
        self.sent += 1
        return await self._send(content)


def spooled(*paths: str, octets: int = len(CONTENT), done: Sequence[str] = ()) -> SpooledMessage:
    recipients = [
        Spooled(number, path, {"NOTIFY": "NEVER"}, Fate.DELIVERED if path in done else Fate.WAITING)
        for number, path in enumerate(paths)
    ]
    return SpooledMessage(
        number=7, account="", state=State.QUEUED, received=0, since=0, due=0, tries=0, unfinished=0, warned=False,
        notice=False, reason="", client=Client("192.0.2.1", "s1"), reverse_path="a@x", parameters={"BODY": "8BITMIME"},
        octets=octets, body=None, recipients=recipients,
    )  # fmt: skip


class Stored:
    """The content as the store gives it; ``error`` comes behind it."""

    def __init__(self, *pieces: bytes, error: Exception | None = None) -> None:
        self._pieces = pieces or (CONTENT,)
        self._error = error
        self.closed = False

    async def read(self) -> AsyncGenerator[bytes, None]:
        try:
            for piece in self._pieces:
                yield piece
            if self._error is not None:
                raise self._error
        finally:
            self.closed = True


async def tried(relay: Scripted, message: SpooledMessage, stored: Stored | None = None) -> Attempt:
    stored = stored or Stored()
    content = stored.read()
    made = await attempt(_relay(relay), message, content)
    with pytest.raises(StopAsyncIteration):
        await anext(content)  # it was closed
    return made


def _relay(relay: Any) -> Relay:
    return relay  # type: ignore[no-any-return]


def delivered(made: Attempt) -> list[str]:
    return [each.forward_path for each in made.delivered]


def refused(made: Attempt) -> dict[str, Refused]:
    return {each.forward_path: refusal for each, refusal in made.refused}


async def test_only_who_waits_is_tried_and_each_has_a_result() -> None:
    relay = Scripted({"b@y": NO, "d@y": LATER})
    made = await tried(relay, spooled("a@y", "b@y", "c@y", "d@y", done=["c@y"]))
    assert relay.asked == [(["a@y", "b@y", "d@y"], True)]
    assert (relay.client.spooled, relay.reverse_path) == (True, "a@x")
    assert relay.parameters == {"BODY": "8BITMIME", "SIZE": str(len(CONTENT))}
    assert (delivered(made), refused(made)) == (["a@y"], {"b@y": NO, "d@y": LATER})
    assert (made.failure, made.ambiguous, made.detail) == (None, False, str(len(CONTENT)))


async def test_nothing_is_sent_where_nobody_is_accepted() -> None:
    relay = Scripted({"a@y": NO})
    made = await tried(relay, spooled("a@y"))
    assert relay.sent == 0
    assert (delivered(made), refused(made), made.failure) == ([], {"a@y": NO}, None)


async def test_many_recipients_go_in_groups_and_only_the_last_says_that_content_follows() -> None:
    paths = [f"{number}@y" for number in range(200)]
    relay = Scripted()
    made = await tried(relay, spooled(*paths))
    assert relay.asked == [(paths[:100], False), (paths[100:], True)]
    assert delivered(made) == paths
    relay = Scripted()
    await tried(relay, spooled(*paths, "last@y"))
    assert [(len(group), last) for group, last in relay.asked] == [(100, False), (100, False), (1, True)]


async def test_a_refused_sender_is_the_result_of_all() -> None:
    made = await tried(Scripted(sender=NO), spooled("a@y", "b@y", "c@y", done=["b@y"]))
    assert (refused(made), made.failure) == ({"a@y": NO, "c@y": NO}, None)


async def test_a_refused_content_is_the_result_of_those_who_had_none() -> None:
    async def refuse(content: AsyncIterator[bytes]) -> Receipt:
        await read(content)
        raise LATER

    made = await tried(Scripted({"b@y": NO}, refuse), spooled("a@y", "b@y"))
    assert (delivered(made), refused(made), made.failure) == ([], {"b@y": NO, "a@y": LATER}, None)
    assert len(made.refused) == 2


@pytest.mark.parametrize("read_all", [False, True])
async def test_a_failure_is_ambiguous_only_where_the_relay_had_everything(read_all: bool) -> None:
    async def fail(content: AsyncIterator[bytes]) -> Receipt:
        if read_all:
            await read(content)
        else:
            await anext(content)
        raise Disconnected("gone")

    made = await tried(Scripted({"b@y": NO}, fail), spooled("a@y", "b@y"))
    assert (delivered(made), refused(made)) == ([], {"b@y": NO})
    assert isinstance(made.failure, Disconnected)
    assert made.ambiguous is read_all


async def test_what_goes_wrong_after_the_verdict_changes_nothing() -> None:
    for error in (Disconnected("at QUIT"), Refused(421, "4.3.2", "bye"), ZeroDivisionError()):
        made = await tried(Scripted({"b@y": LATER}, leave=error), spooled("a@y", "b@y"))
        assert (delivered(made), refused(made)) == (["a@y"], {"b@y": LATER})
        assert (made.failure, made.ambiguous) == (None, False)


async def test_a_relay_that_did_not_read_everything_has_not_delivered() -> None:
    async def half(content: AsyncIterator[bytes]) -> Receipt:
        await anext(content)
        return Receipt("fine")

    made = await tried(Scripted(send=half), spooled("a@y"), Stored(b"one\r\n", b"two\r\n"))
    assert delivered(made) == []
    assert "before it had read the whole message" in str(made.failure)
    assert not made.ambiguous


async def test_an_empty_message_need_not_be_read() -> None:
    async def unread(content: AsyncIterator[bytes]) -> Receipt:
        return Receipt("fine")

    assert delivered(await tried(Scripted(send=unread), spooled("a@y", octets=0))) == ["a@y"]


async def test_a_relay_without_a_receipt_has_not_delivered() -> None:
    async def none(content: AsyncIterator[bytes]) -> None:
        await read(content)

    made = await tried(Scripted(send=none), spooled("a@y"))
    assert delivered(made) == []
    assert "no Receipt" in str(made.failure)
    assert made.ambiguous


@pytest.mark.parametrize("swallows", [False, True])
async def test_a_store_that_can_not_be_read_is_not_the_relays_failure(swallows: bool) -> None:
    async def careless(content: AsyncIterator[bytes]) -> Receipt:
        with suppress(OSError) if swallows else nullcontext():
            return await read(content)
        return Receipt("fine")

    stored = Stored(error=OSError("disk"))
    with pytest.raises(OSError, match="disk"):
        await attempt(_relay(Scripted(send=careless)), spooled("a@y"), stored.read())
    assert stored.closed


async def test_a_relay_without_progress_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROGRESS_SECONDS", 0.01)

    async def hang(content: AsyncIterator[bytes]) -> Receipt:
        await read(content)
        await anyio.sleep_forever()
        raise AssertionError

    made = await tried(Scripted(send=hang), spooled("a@y"))
    assert "no progress for 0.01 s" in str(made.failure)
    assert (delivered(made), made.ambiguous) == ([], True)


async def test_each_verdict_and_each_piece_is_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count(anyio.current_time())
    monkeypatch.setattr(anyio, "current_time", lambda: next(seconds))
    deadlines: list[float] = []

    class Noting(Scripted):
        async def add_recipients(
            self, recipients: Sequence[Recipient], *, content_follows: bool
        ) -> Sequence[Refused | None]:
            deadlines.append(anyio.current_effective_deadline())
            return await super().add_recipients(recipients, content_follows=content_follows)

    async def send(content: AsyncIterator[bytes]) -> Receipt:
        deadlines.append(anyio.current_effective_deadline())
        async for _ in content:
            deadlines.append(anyio.current_effective_deadline())
        deadlines.append(anyio.current_effective_deadline())
        return Receipt("")

    await tried(Noting(send=send), spooled(*(f"{number}@y" for number in range(101))), Stored(b"one", b"two", b"three"))
    assert len(deadlines) == 7
    assert deadlines == sorted(set(deadlines)), "each of them puts the end off"
    assert deadlines[0] > anyio.current_time() + module.PROGRESS_SECONDS - 60


US, THEM = Unreachable("down"), Failure("of this message", about_us=False)
OURS = Refused(535, "5.7.8", "our login")


@pytest.mark.parametrize(
    ("made", "about_us"),
    [
        (Attempt(failure=US), US),
        (Attempt(failure=THEM), None),
        (Attempt(failure=ZeroDivisionError()), None),
        (Attempt(), None),
        (Attempt(refused=[(Spooled(0, "a@y", {}), OURS)]), OURS),
        (Attempt(refused=[(Spooled(0, "a@y", {}), OURS), (Spooled(1, "b@y", {}), NO)]), None),
        (Attempt(refused=[(Spooled(0, "a@y", {}), OURS)], delivered=[Spooled(1, "b@y", {})]), None),
        (Attempt(refused=[(Spooled(0, "a@y", {}), NO)]), None),
    ],
)
def test_what_any_other_message_would_have_met_too(made: Attempt, about_us: Failure | None) -> None:
    assert made.about_us is about_us


def test_a_second_attempt_replaces_what_was_refused_for_good() -> None:
    one, two, three = (Spooled(number, f"{number}@y", {}) for number in range(3))
    first = Attempt([], [(one, NO), (two, LATER)], detail="")
    first.amend(Attempt([one], [(three, NO)], None, False, "taken"))
    assert (first.delivered, first.refused) == ([one], [(two, LATER), (three, NO)])
    assert (first.failure, first.ambiguous, first.detail) == (None, False, "taken")
    first.amend(Attempt([], [], US, True, "again"))
    assert (first.failure, first.ambiguous, first.detail) == (US, True, "taken")
    first.amend(Attempt([], [], THEM))
    assert (first.failure, first.ambiguous) == (US, True)
