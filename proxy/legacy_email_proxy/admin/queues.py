"""The `spool` command's requests, answered by the service that has the queue open.

A file that a queue is kept in can be open in one process only. So the command asks the service first, and works on the
queue itself only where no service runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, cast

from ..contracts import BackedUpQueue, Failure, Queue, QueueAction
from .socket import NOBODY_THERE, Answers, Handler, ask

__all__ = ("administered", "answered_by_service", "queues")


def queues(current: Callable[[], Iterable[Queue]]) -> Handler:
    """A handler for requests about one of the queues that the service has now."""

    async def administer(request: Mapping[str, Any], by: str) -> Answers:
        queue = next((each for each in current() if each.queue_name == request.get("queue")), None)
        if queue is None:
            yield {"unknown": True}
            return
        action = request.get("action")
        if action == "backup":
            yield await cast(BackedUpQueue, queue).back_up(Path(_text(request, "folder")))
            return
        async with aclosing(queue.administer(cast(QueueAction, action), _numbers(request), by)) as answers:
            async for answer in answers:
                yield answer

    return administer


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


def _numbers(request: Mapping[str, Any]) -> list[int]:
    try:
        return [int(number) for number in request["numbers"]]
    except (ValueError, TypeError, LookupError, OverflowError):
        raise Failure("that is no request of the spool command") from None


def _text(request: Mapping[str, Any], name: str) -> str:
    text = request.get(name)
    if not isinstance(text, str) or "\0" in text or not text.isprintable():
        raise Failure("that is no request of the spool command")
    return text
