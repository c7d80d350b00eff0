"""Requests about a queue, answered by the service that has the queue open.

A file that a queue is kept in can be open in one process only. So the `spool` command asks the service first, and works
on the queue itself only where no service runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from ..contracts import BackedUpQueue, Failure, Queue, QueueAction, QueueFilter
from .socket import NOBODY_THERE, Answers, Handler, ask

__all__ = ("administered", "answered_by_service", "counted", "listed", "queues")


def queues(current: Callable[[], Iterable[Queue]]) -> Handler:
    """A handler for requests about one of the queues that the service has now."""

    async def administer(request: Mapping[str, Any], by: str) -> Answers:
        queue = next((each for each in current() if each.queue_name == request.get("queue")), None)
        if queue is None:
            yield {"unknown": True}
            return
        async with aclosing(_answers(queue, request, by)) as answers:
            async for answer in answers:
                yield answer

    return administer


async def _answers(queue: Queue, request: Mapping[str, Any], by: str) -> Answers:
    action = request.get("action")
    if action == "backup":
        yield await cast(BackedUpQueue, queue).back_up(Path(_text(request, "folder")))
    elif action == "count":
        for one in await queue.counted():
            yield one
    elif action == "list":
        async with aclosing(queue.listed(_filter(request))) as messages:
            async for message in messages:
                yield message
    else:
        async with aclosing(queue.administer(cast(QueueAction, action), _numbers(request), by)) as answers:
            async for answer in answers:
                yield answer


async def answered_by_service(state_dir: Path, queue: Queue, action: str, **request: Any) -> Answers:
    """What the running service answers. Raises one of :data:`NOBODY_THERE` where none has this queue."""
    async with aclosing(ask(state_dir, "spool", queue=queue.queue_name, action=action, **request)) as answers:
        async for answer in answers:
            if isinstance(answer, Mapping) and "unknown" in answer:
                raise NOBODY_THERE[0]
            yield answer


async def administered(state_dir: Path, queue: Queue, action: QueueAction, numbers: Sequence[int] = ()) -> Answers:
    """See :meth:`Queue.administer`: by the service that has the queue open, or by ourselves where none does."""
    with suppress(*NOBODY_THERE):
        async for answer in answered_by_service(state_dir, queue, action, numbers=list(numbers)):
            yield answer
        return
    async for answer in queue.administer(action, numbers):
        yield answer


async def listed(state_dir: Path, queue: Queue, wanted: QueueFilter) -> Answers:
    """See :meth:`Queue.listed`; by whom, as above."""
    with suppress(*NOBODY_THERE):
        async for answer in answered_by_service(state_dir, queue, "list", **asdict(wanted)):
            yield answer
        return
    async for answer in queue.listed(wanted):
        yield answer


async def counted(state_dir: Path, queue: Queue) -> Sequence[Mapping[str, Any]]:
    """See :meth:`Queue.counted`; by whom, as above."""
    with suppress(*NOBODY_THERE):
        answers = answered_by_service(state_dir, queue, "count")
        return [answer async for answer in answers if isinstance(answer, Mapping)]
    return await queue.counted()


_NO_REQUEST = "that is no request of the spool command"


def _numbers(request: Mapping[str, Any]) -> list[int]:
    try:
        return [int(number) for number in request["numbers"]]
    except (ValueError, TypeError, LookupError, OverflowError):
        raise Failure(_NO_REQUEST) from None


def _text(request: Mapping[str, Any], name: str) -> str:
    text = request.get(name)
    if not isinstance(text, str) or "\0" in text or not text.isprintable():
        raise Failure(_NO_REQUEST)
    return text


def _filter(request: Mapping[str, Any]) -> QueueFilter:
    states, account, limit = request.get("states", []), request.get("account"), request.get("limit")
    if not isinstance(states, list):
        raise Failure(_NO_REQUEST)
    return QueueFilter(
        states=tuple(_text({"state": state}, "state") for state in states),
        account=None if account is None else _text(request, "account"),
        address=_text({"address": "", **request}, "address"),
        after=_number(request.get("after", 0)),
        limit=None if limit is None else _number(limit),
    )


def _number(given: object) -> int:
    if not isinstance(given, int) or not 0 <= given < 2**63:
        raise Failure(_NO_REQUEST)
    return given
