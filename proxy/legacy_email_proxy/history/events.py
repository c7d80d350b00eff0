"""What the history keeps of each event of the log: which rows it makes, and which it changes.

An event is known by its words, as the table in ``proxy/docs/operating.md`` has them. The spool's events of a message
are joined to ``message spooled`` by the message's number there and by the session.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

from .entries import Entries, Entry
from .facts import Event, address, addresses, said, text, text_or_none, whole, whole_or_none
from .sums import Sums

__all__ = ("FAILED_FOR_GOOD", "NOTIFICATION_FAILED", "WORDS", "State", "Writing")

_MOST_LOGINS = 1000
"""So many sessions with a failed login are remembered until they end."""

FAILED_FOR_GOOD = (
    "recipient failed for good, the sender is notified",
    "recipient failed for good, nobody can be notified: the message is kept",
    "recipient failed for good, and the sender has asked not to be notified",
)
"""The spool's words for a recipient that the provider refused, or for which it was tried for too long."""

NOTIFICATION_FAILED = "notification failed for good"


class State:
    """Where a message is, or its recipient. The words are shown to people and stand in JSON."""

    RELAYED = "relayed"
    SPOOLED = "spooled"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    REFUSED = "refused"
    FAILED = "failed"
    PARTLY_FAILED = "partly failed"
    SET_ASIDE = "set aside"
    HELD = "held"
    DROPPED = "dropped"


_WAITING = (State.SPOOLED, State.DELAYED)
_GOOD = (State.RELAYED, State.SPOOLED, State.DELIVERED, State.HELD)
_OF_ACTION = {"hold": State.HELD, "drop": State.DROPPED}


class Writing:
    """Writes events into the open file, batch after batch."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._failed_logins: dict[str, None] = {}
        self._sums = Sums()
        self._refusals: dict[tuple[object, ...], Entry] = {}
        self._entries = Entries(connection)

    def write(self, events: Collection[Event]) -> None:
        """Write a batch, all of it or nothing. Raises ``sqlite3.Error``."""
        self._sums = Sums()
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._entries.begin({_queue_id(event) for event in events if event.words in _OF_THE_SPOOL})
            for event in events:
                _HANDLERS[event.words](self, event)
            self._entries.write()
            self._sums.write(self._connection)
            self._connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise
        finally:
            # The next event may come hours later, and a batch may have thousands of them.
            self._refusals.clear()
            self._entries.clear()

    # Messages

    def _message(self, event: Event) -> None:
        facts = event.facts
        state = {"message relayed": State.RELAYED, "message spooled": State.SPOOLED}.get(event.words, State.REFUSED)
        self._sums.count(event, state, octets=whole(facts.get("octets")))
        device = self._sums.device(event)
        if device is not None and state != State.REFUSED:
            # A message in the spool may still fail.
            if state == State.RELAYED:
                device.success = event.time
            device.messages += 1
            device.octets += whole(facts.get("octets"))
        elif device is not None:
            device.refusals += 1
            self._sums.trouble(event, "its message was refused")
        # The spool may have delivered it before the session came to say that it is there.
        entry = self._find(event) if state == State.SPOOLED else None
        if entry is not None:
            entry.client, entry.time, entry.octets = text(facts.get("client")), event.time, whole(facts.get("octets"))
            self._entries.change(entry)
            return
        settled = None if state == State.SPOOLED else event.time
        entry = self._add(event, "message", state, queue_id=facts.get("queue_id"), settled=settled)
        self._recipients(entry, event, state)

    def _delivered(self, event: Event) -> None:
        self._sums.count(event, State.DELIVERED, octets=whole(event.facts.get("octets")))
        if (device := self._sums.device(event)) is not None:
            device.success = event.time
        self._outcome(event, State.DELIVERED)

    def _not_delivered(self, event: Event) -> None:
        self._outcome(event, State.DELAYED)

    def _recipients_refused(self, event: Event) -> None:
        # An event without their names can not say which of them it is about.
        if addresses(event.facts):
            self._outcome(event, State.FAILED)

    def _failed(self, event: Event) -> None:
        self._sums.count(event, State.FAILED)
        self._outcome(event, State.FAILED)

    def _outcome(self, event: Event, state: str) -> None:
        """What became of some recipients of a message in the spool, or of all that it still had."""
        facts = event.facts
        entry = self._find(event)
        if entry is None:
            # It was spooled before the history began.
            entry = self._add(event, "message", state, queue_id=facts.get("message"))
        last_word = said(facts)
        still_there = [name for name, each in entry.recipients.items() if each.state in _WAITING]
        for each in addresses(facts) or still_there:
            entry.tell(each, state, last_word, event.time)
        self._conclude(entry, event, state)
        if state != State.DELIVERED:
            self._sums.trouble(
                event, "its message was not delivered" if state == State.FAILED else "its message is delayed"
            )

    def _conclude(self, entry: Entry, event: Event, state: str) -> None:
        """The message's state follows from its recipients' states."""
        found = entry.states
        settled = None
        if State.DELAYED in found:
            state = State.DELAYED
        elif State.SPOOLED in found:
            state = State.SPOOLED
        elif found:
            settled = event.time
            state = State.DELIVERED if State.FAILED not in found else State.FAILED
            if len(found) > 1:
                state = State.PARTLY_FAILED
        entry.state, entry.trouble, entry.settled = state, state not in _GOOD, settled
        if event.words == "message delivered":
            entry.backend = said(event.facts)
        else:
            entry.cause = said(event.facts)
        self._entries.change(entry)

    def _set_aside(self, event: Event) -> None:
        self._sums.count(event, State.FAILED)
        entry = self._find(event)
        if entry is None:
            entry = self._add(event, "message", State.SET_ASIDE, queue_id=event.facts.get("message"))
        self._mark(entry, State.SET_ASIDE, said(event.facts))
        self._sums.trouble(event, "its message was set aside")

    def _done_by_operator(self, event: Event) -> None:
        facts = event.facts
        entry = self._find(event)
        action = str(facts.get("action"))
        if entry is None or action == "export":
            return
        # What the operator made possible may have happened before this is told: then it is the last word.
        if entry.settled is None and (action in _OF_ACTION or entry.state in (State.HELD, State.SET_ASIDE)):
            by = f" by {facts['by']}" if facts.get("by") else ""
            self._mark(entry, _OF_ACTION.get(action, State.SPOOLED), text(f"{action}{by}"))

    def _mark(self, entry: Entry, state: str, cause: str) -> None:
        entry.state, entry.trouble, entry.cause = state, state not in _GOOD, cause
        self._entries.change(entry)

    def _find(self, event: Event) -> Entry | None:
        """The message in the spool that the event is about."""
        return self._entries.find(_queue_id(event), text(event.facts.get("session")))

    def _recipients(self, entry: Entry, event: Event, state: str) -> None:
        last_word = said(event.facts)
        for each in addresses(event.facts):
            entry.tell(each, state, last_word, event.time)

    # Refusals and sessions

    def _refusal(self, event: Event) -> None:
        leg, _, refused = event.words.partition(" ")
        if refused == "login failed":
            self._failed_logins[text(event.facts.get("session"))] = None
            if len(self._failed_logins) > _MOST_LOGINS:
                del self._failed_logins[next(iter(self._failed_logins))]
        self._refused(event, leg, refused)

    def _refused(self, event: Event, leg: str, what: str, cause: str | None = None) -> None:
        facts = event.facts
        self._sums.count(event, "refusal")
        self._sums.trouble(event, _IN_WORDS.get(what, what))
        if (device := self._sums.device(event)) is not None:
            device.refusals += 1
        # Who tries a thousand times in a second gets one row for it.
        asked = [facts.get(name) for name in ("client", "command", "sender", "recipient", "reply", "user")]
        key = (leg, what, said(facts), *map(str, asked))
        entry = self._refusals.get(key)
        if entry is not None:
            entry.times += 1
            return
        self._refusals[key] = entry = self._add(event, "refusal", what, leg=leg, cause=cause)
        self._recipients(entry, event, State.REFUSED)

    def _smtp_ended(self, event: Event) -> None:
        facts = event.facts
        if (device := self._sums.device(event)) is not None:
            device.helo = text(facts.get("helo"))[:255] or device.helo
        if event.level >= logging.WARNING:
            self._refused(event, "smtp", "session ended", text(facts.get("verdict")))

    def _pop3_ended(self, event: Event) -> None:
        facts = event.facts
        verdict = str(facts.get("verdict", ""))
        failed = event.level >= logging.WARNING or verdict == "failed" or bool(facts.get("failed"))
        login_failed = self._failed_logins.pop(text(facts.get("session")), 0) is None
        self._sums.count(event, "pop3", octets=whole(facts.get("octets")))
        for what in ("retrieved", "deleted"):
            self._sums.count(event, what, whole(facts.get(what)))
        if (device := self._sums.device(event)) is not None:
            device.pop3_sessions += 1
            device.retrieved += whole(facts.get("retrieved"))
            device.deleted += whole(facts.get("deleted"))
            if failed:
                self._sums.trouble(event, "its POP3 session went wrong")
            elif facts.get("retrieved") or (verdict == "quit" and facts.get("user") is not None and not login_failed):
                device.success = event.time
        self._add(event, "pop3", verdict, leg="pop3", trouble=failed)

    # Figures

    def _figures(self, event: Event) -> None:
        for what, measured in event.facts.items():
            if what in _SAMPLED and isinstance(measured, tuple):
                self._sums.sample(event, what, *measured)

    # What they share

    def _add(
        self,
        event: Event,
        kind: str,
        state: str,
        *,
        leg: str = "smtp",
        trouble: bool | None = None,
        cause: object = None,
        queue_id: object = None,
        settled: float | None = None,
    ) -> Entry:
        facts = event.facts
        if trouble is None:
            trouble = kind == "refusal" or state not in _GOOD
        number, changed = self._entries.numbers()
        entry = Entry(
            number, changed, kind, leg, event.time, state, trouble,
            text(facts.get("client")), text(facts.get("session")), text(facts.get("account")),
            address(facts.get("sender")), whole_or_none(facts.get("octets")),
            text_or_none(facts.get("command")), text_or_none(facts.get("user")), text_or_none(facts.get("reply")),
            text_or_none(cause or facts.get("cause") or facts.get("reason")),
            text_or_none(facts.get("advice")), text_or_none(facts.get("backend")), text_or_none(queue_id),
            settled, whole_or_none(facts.get("retrieved")), whole_or_none(facts.get("deleted")),
        )  # fmt: skip
        self._entries.add(entry)
        return entry


def _queue_id(event: Event) -> str:
    """The message's number in the spool, for the words in :data:`_OF_THE_SPOOL`."""
    return text(event.facts.get("queue_id" if event.words == "message spooled" else "message"))


_IN_WORDS = {
    "sender refused": "its sender was refused",
    "recipient refused": "a recipient was refused",
    "command refused": "a command was refused",
    "connection refused": "it may not connect",
    "login failed": "its login failed",
    "session ended": "its session was ended",
}


_SAMPLED = ("spool", "smtp_seconds", "pop3_seconds")
"""Facts of ``figures`` that are kept: each is how often it was measured, the total and the highest."""

_HANDLERS: Mapping[str, Callable[[Writing, Event], None]] = {
    **dict.fromkeys(("message relayed", "message spooled", "message refused"), Writing._message),
    "message delivered": Writing._delivered,
    **dict.fromkeys(
        (
            *("recipients not taken for now", "message not delivered", "message not handled"),
            "message may have been delivered: it is tried again, and may arrive twice",
        ),
        Writing._not_delivered,
    ),
    "recipients refused": Writing._recipients_refused,
    **dict.fromkeys((*FAILED_FOR_GOOD, NOTIFICATION_FAILED), Writing._failed),
    "message set aside": Writing._set_aside,
    "done by the operator": Writing._done_by_operator,
    **dict.fromkeys(
        (
            *("smtp sender refused", "smtp recipient refused", "smtp command refused", "smtp connection refused"),
            *("smtp login failed", "pop3 login failed", "pop3 command refused", "pop3 connection refused"),
        ),
        Writing._refusal,
    ),
    "smtp session ended": Writing._smtp_ended,
    "pop3 session ended": Writing._pop3_ended,
    "figures": Writing._figures,
}

_OF_THE_SPOOL = frozenset(
    words
    for words, handler in _HANDLERS.items()
    if handler
    in (Writing._delivered, Writing._not_delivered, Writing._recipients_refused, Writing._failed, Writing._set_aside)
) | {"message spooled", "done by the operator"}
"""Those that are about a message in a spool, which may have an entry already."""

WORDS = frozenset(_HANDLERS)
"""The events that the history is about."""
