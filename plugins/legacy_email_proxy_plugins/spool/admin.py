"""What an operator can do with the spool. The answers are mappings that JSON can hold, or octets of a message."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from legacy_email_proxy.contracts import QUEUE_ACTIONS, Failure, QueueAction, QueueFilter

from .message import SpooledMessage, State
from .store import Copied, Store, Unreadable

__all__ = ("Administration", "backed_up")

_LARGEST = 2**63 - 1
"""The largest number that a database can store."""
_RECIPIENTS_TOLD = 20
"""So many stand in the log: a notification of PostgreSQL, by which other proxies are told, has 8000 octets."""
_AT_ONCE = 100
"""So many messages of a list are read in one transaction."""
_MOVES = {"retry": State.QUEUED, "release": State.QUEUED, "hold": State.HELD}


class Administration:
    """Does the operator's work on an open store. ``wake`` is called when a message may have become due."""

    def __init__(self, store: Store, clock: Callable[[], float], wake: Callable[[], None]) -> None:
        self._store = store
        self._clock = clock
        self._wake = wake

    async def do(
        self, action: QueueAction, numbers: Sequence[int], by: str
    ) -> AsyncGenerator[Mapping[str, Any] | bytes, None]:
        """See :meth:`contracts.Queue.administer`. ``by`` says who asked for it, for the log."""
        if action not in QUEUE_ACTIONS:
            raise Failure(f"the spool knows no {action!r}")
        if action == "migrate":
            # This was done when the store was opened.
            yield {"done": action, "version": self._store.version}
            return
        for number in numbers:
            if not 0 < number <= _LARGEST:
                raise Failure(f"there is no message {number}")
        for number in numbers:
            if action == "export":
                message = await self._message(number)
                await self._store.announce({"action": action, "by": by, "message": number, **_facts(message)})
                try:
                    async with aclosing(self._store.content(message)) as pieces:
                        async for piece in pieces:
                            yield piece
                except Unreadable as error:
                    raise Failure(f"message {number}: {error}") from None
            else:
                yield await self._one(action, number, by)
        self._wake()

    async def listed(self, wanted: QueueFilter) -> AsyncGenerator[Mapping[str, Any], None]:
        """See :meth:`contracts.Queue.listed`."""
        after: int | None = min(wanted.after, _LARGEST)
        left = wanted.limit
        while after is not None:
            numbers, after = await self._store.search(wanted, after)
            numbers = numbers[:left]
            for start in range(0, len(numbers), _AT_ONCE):
                part = numbers[start : start + _AT_ONCE]
                found = await self._store.read(part)
                # One that was delivered after its number was read is missing.
                for number in (each for each in part if each in found):
                    yield _shown(number, found[number])
            if left is not None:
                left -= len(numbers)
                if not left:
                    return

    async def counted(self) -> Sequence[Mapping[str, Any]]:
        """See :meth:`contracts.Queue.counted`."""
        return [
            {"account": one.account, "state": one.state.value, "messages": one.messages, "oldest": one.oldest}
            for one in await self._store.counts()
        ]

    async def back_up(self, folder: Path) -> Mapping[str, Any]:
        """See :meth:`contracts.BackedUpQueue.back_up`."""
        return backed_up("backup", folder, await self._store.back_up(folder))

    async def _one(self, action: QueueAction, number: int, by: str) -> Mapping[str, Any]:
        if action == "show":
            return _described(await self._message(number))
        if action == "release" and (await self._message(number)).state is not State.HELD:
            raise Failure(f"message {number} is not held")
        what = await self._known(number)
        now = self._clock()
        done = await (
            self._store.drop(number, now) if action == "drop" else self._store.move(number, _MOVES[action], now)
        )
        if not done:
            raise Failure(f"there is no message {number}")
        await self._store.announce({"action": action, "by": by, "message": number, **what})
        return {"number": number, "done": action}

    async def _known(self, number: int) -> Mapping[str, Any]:
        try:
            message = await self._store.get(number)
        except Unreadable:
            message = None
        return {} if message is None else _facts(message)

    async def _message(self, number: int) -> SpooledMessage:
        try:
            message = await self._store.get(number)
        except Unreadable as error:
            raise Failure(f"message {number}: {error}") from None
        if message is None:
            raise Failure(f"there is no message {number}")
        return message


def backed_up(action: str, folder: Path, copied: Copied) -> Mapping[str, Any]:
    """The answer to a backup or a restore."""
    return {
        "done": action, "folder": str(folder), "messages": copied.messages, "missing": list(copied.missing),
        "aside": copied.aside,
    }  # fmt: skip


def _facts(message: SpooledMessage) -> Mapping[str, Any]:
    """What the log says of a message."""
    return {
        "state": message.state.value, "session": message.client.session, "sender": message.reverse_path,
        "recipients": [each.forward_path for each in message.recipients[:_RECIPIENTS_TOLD]],
        "octets": message.octets, **({"account": message.account} if message.account else {}),
    }  # fmt: skip


def _shown(number: int, found: SpooledMessage | Unreadable) -> Mapping[str, Any]:
    if isinstance(found, Unreadable):
        return {"number": number, "account": None, "state": State.SET_ASIDE.value, "reason": str(found)}
    return _described(found)


def _described(message: SpooledMessage) -> dict[str, Any]:
    return {
        "number": message.number,
        "account": message.account,
        "state": message.state.value,
        "received": message.received,
        "due": message.due if message.state is State.QUEUED else None,
        "tries": message.tries,
        "reason": message.reason,
        "sender": message.reverse_path,
        "client": message.client.address,
        "octets": message.octets,
        "notification": message.notice,
        "recipients": [
            {
                "address": each.forward_path,
                "fate": each.fate.value,
                "tried": each.verdict.time if each.verdict else None,
                "reply": f"{each.verdict.code or ''} {each.verdict.enhanced} {each.verdict.text}".strip()
                if each.verdict
                else "",
            }
            for each in message.recipients
        ],
    }
