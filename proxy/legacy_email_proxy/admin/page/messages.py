"""The messages: the history searched by device, address, time and verdict, and one entry with its whole story."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...access import canonical
from ...history.queries import Entry, Filter, entry, of_session, search
from .entries import like, shown, state_of, tone_of
from .forms import Form
from .site import Site, query_of
from .texts import text

__all__ = ("NAME", "routes")

NAME = "messages"

PAGE = 50

VERDICTS: Mapping[str, Mapping[str, Any]] = {
    "": {},
    "trouble": {"trouble": True},
    "messages": {"kind": "message"},
    **{
        state: {"kind": "message", "state": state}
        for state in ("relayed", "delivered", "spooled", "delayed", "held", "refused", "failed", "partly failed")
    },
    **{state: {"kind": "message", "state": state} for state in ("set aside", "dropped")},
    "refusals": {"kind": "refusal"},
    "read": {"kind": "pop3"},
}
"""What can be chosen → the filter of the history."""

_FIELDS = ("device", "recipient", "sender", "from", "until", "zone", "verdict", "account")
_MOST_MINUTES = 14 * 60


def routes(site: Site) -> list[Route]:
    """The search, and one entry."""
    pages = _Messages(site)
    return [site.get("/messages", pages.search), site.get("/messages/{number:int}", pages.one)]


@dataclass(frozen=True, slots=True)
class _Step:
    """A moment of a message's story."""

    time: float
    title: str
    said: str = ""
    tone: str = ""
    id: int | None = None


class _Messages:
    def __init__(self, site: Site) -> None:
        self._site = site

    async def search(self, request: Request) -> Response:
        query, sources = query_of(request), self._site.sources
        which, before = _filter(query), query.whole("before")
        found = await sources.history(lambda connection: search(connection, which, before=before, limit=PAGE + 1))
        asked = {name: query.get(name) for name in _FIELDS}
        again = {name: value for name, value in asked.items() if value}
        return self._site.render(
            request,
            "messages.html",
            entries=[shown(each) for each in found[:PAGE]],
            asked=asked,
            searched=bool(again.keys() - {"zone"}),
            verdicts=VERDICTS,
            accounts=[account.name for account in sources.composition.accounts if account.name],
            newer=f"?{urlencode(again)}" if before else "",
            older=f"?{urlencode({**again, 'before': found[PAGE - 1]['id']})}" if len(found) > PAGE else "",
        )

    async def one(self, request: Request) -> Response:
        number = request.path_params["number"]
        found, others = (
            await self._site.sources.history(
                lambda connection: ((one := entry(connection, number)), of_session(connection, one) if one else [])
            )
            if number < 1 << 63
            else (None, [])
        )
        if found is None:
            raise HTTPException(404)
        waiting = await self._waiting(found)
        return self._site.render(
            request,
            "message.html",
            entry=found,
            shown=shown(found),
            recipients=_recipients(found, waiting),
            story=_story(found, others),
            waiting=waiting,
        )

    async def _waiting(self, found: Entry) -> Mapping[str, Any] | None:
        """What the spool says of it, where it is still there."""
        if "queue_id" not in found or "settled" in found or not str(found["queue_id"]).isdigit():
            return None
        account = next((one for one in self._site.sources.composition.accounts if one.name == found["account"]), None)
        if account is None or account.queue is None:
            return None
        try:
            async for answer in account.queue.administer("show", [int(found["queue_id"])]):
                # The numbers of another spool may be the same.
                if isinstance(answer, Mapping) and answer.get("sender") == found.get("sender"):
                    return answer
        except Exception:
            # It was delivered, or the spool can not say it now. What the history knows stands there all the same.
            return None
        return None


def _recipients(found: Entry, waiting: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Each recipient with its last reply; the spool knows it better, while it still has the message."""
    live = {each["address"]: each for each in waiting["recipients"]} if waiting else {}
    rows = []
    for each in found.get("recipients", ()):
        now = live.get(each["address"], {})
        state = like(each["state"])
        rows.append(
            {
                "address": each["address"],
                "state": state_of(state),
                "tone": tone_of(state),
                "said": now.get("reply") or each["said"],
                "time": now.get("tried") or each["time"],
            }
        )
    return rows


def _story(found: Entry, others: list[Entry]) -> list[_Step]:
    """What happened, in the order of time: other entries of the session, the message itself, its recipients."""
    steps = [
        _Step(each["time"], shown(each).about or state_of(each), _told(each), tone_of(each), each["id"])
        for each in others
    ]
    begun = "story.taken" if found["kind"] == "message" and found["state"] != "refused" else f"story.{found['kind']}"
    steps.append(_Step(found["time"], text(begun, state=state_of(found)), found.get("reply", ""), tone_of(found)))
    words: dict[tuple[float, str, str], list[str]] = {}
    for each in found.get("recipients", ()):
        if each["time"] > found["time"]:
            words.setdefault((each["time"], each["state"], each["said"]), []).append(each["address"])
    for (moment, state, said), addresses in words.items():
        one = like(state)
        names = ", ".join(addresses[:3]) + (f" (+{len(addresses) - 3})" if len(addresses) > 3 else "")
        steps.append(_Step(moment, text("story.recipients", state=state_of(one), names=names), said, tone_of(one)))
    if "settled" in found and found["settled"] > max(
        (each["time"] for each in found.get("recipients", ())), default=0.0
    ):
        steps.append(_Step(found["settled"], text("story.settled", state=state_of(found)), "", tone_of(found)))
    return sorted(steps, key=lambda step: step.time)


def _told(each: Entry) -> str:
    row = shown(each)
    return " · ".join(filter(None, (row.state, row.said)))


def _filter(query: Form) -> Filter:
    device = canonical(query.get("device"))
    zone = _zone(query.get("zone"))
    verdict = VERDICTS.get(query.get("verdict"), {})
    return Filter(
        client=str(device) if device is not None else query.get("device") or None,
        recipient=query.get("recipient") or None,
        sender="" if query.get("sender") == "<>" else query.get("sender") or None,
        account=query.get("account") or None,
        since=_midnight(query.get("from"), zone, 0),
        until=_midnight(query.get("until"), zone, 1),
        **verdict,
    )


def _zone(given: str) -> timezone:
    """The reader's, from the minutes by which the script says that it is ahead of UTC."""
    sign, digits = (-1, given[1:]) if given.startswith("-") else (1, given)
    minutes = sign * int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 4 else 0
    return timezone(timedelta(minutes=max(-_MOST_MINUTES, min(_MOST_MINUTES, minutes))))


def _midnight(given: str, zone: timezone, days: int) -> float | None:
    try:
        day = date.fromisoformat(given)
        return (datetime(day.year, day.month, day.day, tzinfo=zone) + timedelta(days=days)).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        return None
