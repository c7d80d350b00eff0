"""An entry of the history as the pages show it: what became of it in a word, what it is about, the last word on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .texts import text

__all__ = ("Shown", "like", "shown", "state_of", "tone_of")

_GOOD = ("relayed", "delivered", "quit")
_WAITING = ("spooled", "delayed", "held")
_MOST_RECIPIENTS = 3
"""So many are named in a list; one message's own page has all."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A row of a list."""

    id: int
    time: float
    client: str
    account: str
    state: str
    tone: str
    about: str
    said: str
    advice: str
    octets: int | None
    times: int


def shown(entry: Mapping[str, Any]) -> Shown:
    """What stands in a list for this entry."""
    return Shown(
        id=entry["id"],
        time=entry["time"],
        client=entry["client"],
        account=entry["account"],
        state=state_of(entry),
        tone=tone_of(entry),
        about=_about(entry),
        said=_said(entry),
        advice=entry.get("advice", ""),
        octets=entry.get("octets") if entry["kind"] == "message" else None,
        times=entry["times"],
    )


def state_of(entry: Mapping[str, Any]) -> str:
    """What became of it, in words."""
    if entry["kind"] == "pop3":
        return text("state.read") if entry["state"] == "quit" else text("state.read_not", end=entry["state"])
    key = f"state.{entry['state']}"
    words = text(key) if text.has(key) else str(entry["state"])
    return f"POP3: {words}" if entry["leg"] == "pop3" else words


def like(state: str) -> Mapping[str, Any]:
    """A recipient's state as if it were a message's."""
    return {"kind": "message", "leg": "smtp", "state": state, "trouble": state in ("failed", "refused")}


def tone_of(entry: Mapping[str, Any]) -> str:
    """``good``, ``wait`` or ``bad``."""
    if entry["state"] in _WAITING:
        return "wait"
    if entry["trouble"]:
        return "bad"
    return "good" if entry["state"] in _GOOD else ""


def _about(entry: Mapping[str, Any]) -> str:
    if entry["kind"] == "pop3":
        counts = {"read": entry.get("retrieved", 0), "deleted": entry.get("deleted", 0)}
        return text("entry.pop3", user=entry.get("login") or text("none"), **counts)
    parts = []
    if "sender" in entry:
        recipients = [each["address"] for each in entry.get("recipients", ())]
        names = ", ".join(recipients[:_MOST_RECIPIENTS])
        if len(recipients) > _MOST_RECIPIENTS:
            names = text("entry.more", names=names, count=len(recipients) - _MOST_RECIPIENTS)
        parts.append(text("entry.envelope", sender=entry["sender"] or "<>", recipients=names or text("none")))
    if "command" in entry:
        parts.append(str(entry["command"]))
    if entry.get("login"):
        parts.append(text("entry.user", user=entry["login"]))
    return " · ".join(parts)


def _said(entry: Mapping[str, Any]) -> str:
    for name in ("cause", "backend", "reply") if entry["trouble"] else ("backend", "cause", "reply"):
        if entry.get(name):
            return str(entry[name])
    return ""
