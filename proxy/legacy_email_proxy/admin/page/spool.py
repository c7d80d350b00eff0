"""What waits in the spool and why, dead mail, and what an operator can do with it.

The queue is asked for one page at a time, so it makes no difference how much it holds. A queue in a database that
several proxies share is shown for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...contracts import Failure, Queue, QueueAction, QueueFilter
from .forms import Form
from .site import Site, query_of, visitor_of

__all__ = ("NAME", "PER_PAGE", "routes")

NAME = "spool"

PER_PAGE = 50
STATES = ("queued", "held", "notifying", "dead", "set aside")
_ACTIONS = ("retry", "hold", "release", "drop")
_ANSWER_SECONDS = 10.0
_WORK_SECONDS = 30.0
"""How long the work for one click may take; what is left then is told."""


def routes(site: Site) -> list[Route]:
    """The list, one message, and what can be done."""
    pages = _SpoolPages(site)
    return [
        site.get("/spool", pages.listing),
        site.get("/spool/message/{number:int}", pages.message),
        site.post("/spool/do", pages.do),
        site.post("/spool/export", pages.export),
    ]


@dataclass(frozen=True)
class _View:
    """Which spool is looked at, and what of it; kept in the address of each page."""

    queue: Queue
    queues: Sequence[Queue]
    state: str = ""
    account: str = ""
    address: str = ""
    after: int = 0

    @property
    def wanted(self) -> QueueFilter:
        """One message more than a page holds, to know whether there is another page."""
        states = (self.state,) if self.state else ()
        return QueueFilter(states, self.account or None, self.address, self.after, PER_PAGE + 1)

    @property
    def fields(self) -> Mapping[str, str]:
        """As the fields of a form, without those that say nothing."""
        spool = self.queue.queue_name if len(self.queues) > 1 else ""
        after = str(self.after) if self.after else ""
        every = {
            "spool": spool, "state": self.state, "account": self.account, "address": self.address, "after": after,
        }  # fmt: skip
        return {name: value for name, value in every.items() if value}

    def link(self, **changed: Any) -> str:
        """The query of a page that shows something else of it."""
        fields = {**self.fields, **{name: str(value) for name, value in changed.items()}}
        query = urlencode({name: value for name, value in fields.items() if value})
        return f"?{query}" if query else "?"


class _SpoolPages:
    def __init__(self, site: Site) -> None:
        self._site = site

    # Showing

    async def listing(self, request: Request) -> Response:
        query = query_of(request)
        view = self._view(query)
        accounts = sorted(account.name for account in self._site.sources.composition.accounts if account.name)
        common: dict[str, Any] = {
            "view": view,
            "accounts": accounts,
            "states": STATES,
            "left": query.whole("left") or 0,
        }
        if view is None:
            return self._site.render(request, "spool_off.html", **common)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                counts = await view.queue.counted()
                found = await _read(view.queue, view.wanted)
        except (Failure, TimeoutError) as error:
            trouble = str(error) if isinstance(error, Failure) else ""
            return self._site.render(request, "spool_trouble.html", 503, trouble=trouble, **common)
        page = found[:PER_PAGE]
        return self._site.render(
            request, "spool.html", counts=_by_state(counts, view.account), messages=page, why=_why,
            following=page[-1]["number"] if len(found) > PER_PAGE else None, **common,
        )  # fmt: skip

    async def message(self, request: Request) -> Response:
        view = self._view(query_of(request))
        item = None if view is None else await _message(view.queue, request.path_params["number"])
        if item is None:
            raise HTTPException(404)
        left = query_of(request).whole("left") or 0
        return self._site.render(request, "spool_message.html", view=view, message=item, why=_why, left=left)

    # Changing

    async def do(self, request: Request, form: Form) -> Response:
        view, action = self._view(form), form.get("action")
        numbers = _numbers(form)
        if view is None or action not in _ACTIONS or numbers is None:
            raise HTTPException(400)
        if not numbers:
            return self._site.redirect(request, "spool", **view.fields, done="spool_none")
        if action == "drop" and form.get("confirmed") != "yes":
            items = [await _message(view.queue, number) for number in numbers[:PER_PAGE]]
            told = [item for item in items if item is not None]
            return self._site.render(request, "spool_drop.html", view=view, numbers=numbers, messages=told)
        visitor = visitor_of(request)
        done = await _each(view.queue, cast(QueueAction, action), numbers, visitor.by)
        if done:
            visitor.changed(f"spool {action}", messages=done)
        result = {"done": f"spool_{action}", "count": len(done), "left": len(numbers) - len(done)}
        back = form.whole("back")
        target = f"spool/message/{back}" if back is not None and action != "drop" else "spool"
        return self._site.redirect(request, target, **view.fields, **result)

    async def export(self, request: Request, form: Form) -> Response:
        """The one place where content leaves the proxy for the operator."""
        view, number = self._view(form), form.whole("number")
        if view is None or number is None:
            raise HTTPException(400)
        visitor = visitor_of(request)
        content = view.queue.administer("export", [number], visitor.by)
        try:
            first = await anext(content, b"")
        except Failure:
            raise HTTPException(404) from None
        visitor.changed("spool export", messages=[number])

        async def pieces() -> AsyncGenerator[bytes, None]:
            async with aclosing(content):
                yield cast(bytes, first)
                async for piece in content:
                    yield cast(bytes, piece)

        response = self._site.stream(request, pieces(), "message/rfc822")
        response.headers["Content-Disposition"] = f'attachment; filename="message-{number}.eml"'
        return response

    def _view(self, form: Form) -> _View | None:
        """What the reader looks at; ``None`` where no account has a spool."""
        accounts = self._site.sources.composition.accounts
        queues = {account.queue.queue_name: account.queue for account in accounts if account.queue is not None}
        if not queues:
            return None
        every = list(queues.values())
        state = form.get("state")
        return _View(
            queues.get(form.get("spool"), every[0]), every, state if state in STATES else "", form.get("account"),
            form.get("address")[:320], form.whole("after") or 0,
        )  # fmt: skip


async def _read(queue: Queue, wanted: QueueFilter) -> list[Mapping[str, Any]]:
    async with aclosing(queue.listed(wanted)) as messages:
        return [message async for message in messages]


async def _message(queue: Queue, number: int) -> Mapping[str, Any] | None:
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            found = await _read(queue, QueueFilter(after=number - 1, limit=1))
    except (Failure, TimeoutError):
        return None
    return next((item for item in found if item["number"] == number), None)


async def _each(queue: Queue, action: QueueAction, numbers: Sequence[int], by: str) -> list[int]:
    """Act on each message by itself: one that was delivered meanwhile keeps nobody from the others."""
    done: list[int] = []
    try:
        async with asyncio.timeout(_WORK_SECONDS):
            for number in numbers:
                try:
                    async with aclosing(queue.administer(action, [number], by)) as answers:
                        async for _ in answers:
                            pass
                except Failure:
                    continue
                done.append(number)
    except TimeoutError:
        pass
    return done


def _numbers(form: Form) -> list[int] | None:
    """The messages that were ticked; ``None`` where one is no number."""
    given = form.all("number")
    if any(not each.isascii() or not each.isdigit() or len(each) > 18 for each in given):
        return None
    return sorted({int(each) for each in given})


def _by_state(counts: Sequence[Mapping[str, Any]], account: str) -> Mapping[str, int]:
    """How many there are in each state, of one account or of all."""
    found = dict.fromkeys(STATES, 0)
    for one in counts:
        if account in ("", one["account"]):
            found[one["state"]] = found.get(one["state"], 0) + one["messages"]
    return found


def _why(message: Mapping[str, Any]) -> str:
    """Why it is still there: the reason of its state, or the last reply about a recipient who has not got it."""
    if message["reason"]:
        return str(message["reason"])
    replies = {each["fate"]: each["reply"] for each in reversed(message.get("recipients", ())) if each["reply"]}
    replies.pop("delivered", None)
    return str(replies.get("waiting") or next(iter(replies.values()), ""))
