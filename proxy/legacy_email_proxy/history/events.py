"""What the history keeps of each event of the log: which rows it makes, and which it changes.

An event is known by its words, as the table in ``proxy/docs/operating.md`` has them. The spool's events of a message
are joined to ``message spooled`` by the message's number there and by the session.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

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


_COLUMNS = (
    *("id", "changed", "kind", "leg", "time", "state", "trouble", "client", "session", "account", "sender", "octets"),
    *("command", "login", "reply", "cause", "advice", "backend", "queue_id", "settled", "retrieved", "deleted"),
)
_ENTRIES, _RECIPIENTS = f"INSERT INTO entries ({', '.join(_COLUMNS)})", "INSERT OR REPLACE INTO recipients"

_ROWS = (32, 4, 1)
"""How many rows one statement may insert. For each statement the thread lets go of Python's lock and has to get it back
from the sessions, which costs them more than the row."""


class Writing:
    """Writes events into the open file, batch after batch."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._failed_logins: dict[str, None] = {}
        self._last = self._changed = 0
        self._sums = Sums()
        self._refusals: dict[tuple[object, ...], int] = {}
        # Rows that are not yet in the file; see _execute.
        self._of_entries: list[tuple[object, ...]] = []
        self._of_recipients: list[tuple[object, ...]] = []

    def write(self, events: Iterable[Event]) -> None:
        """Write a batch, all of it or nothing. Raises ``sqlite3.Error``."""
        self._sums = Sums()
        for former in (self._refusals, self._of_entries, self._of_recipients):
            former.clear()
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._last, self._changed = self._connection.execute(
                "SELECT coalesce(max(id), 0), coalesce(max(changed), 0) FROM entries"
            ).fetchone()
            for event in events:
                _HANDLERS[event.words](self, event)
            self._insert_all()
            self._sums.write(self._connection)
            self._connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise

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
        entry = self._find(facts, text(facts.get("queue_id"))) if state == State.SPOOLED else None
        if entry is not None:
            self._execute(
                "UPDATE entries SET client = ?, time = ?, octets = ?, changed = ? WHERE id = ?",
                (text(facts.get("client")), event.time, whole(facts.get("octets")), self._next(), entry),
            )
            return
        settled = None if state == State.SPOOLED else event.time
        entry = self._insert(event, "message", state, queue_id=facts.get("queue_id"), settled=settled)
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
        entry = self._find(facts, text(facts.get("message")))
        if entry is None:
            # It was spooled before the history began.
            entry = self._insert(event, "message", state, queue_id=facts.get("message"))
        last_word = said(facts)
        named = addresses(facts)
        if named:
            self._insert_all()
            self._connection.executemany(
                "INSERT INTO recipients SELECT id, ?, time, ?, ?, ? FROM entries WHERE id = ?"
                " ON CONFLICT (entry, address) DO UPDATE SET"
                " state = excluded.state, said = excluded.said, time = excluded.time",
                [(each, state, last_word, event.time, entry) for each in named],
            )
        else:
            self._execute(
                "UPDATE recipients SET state = ?, said = ?, time = ? WHERE entry = ? AND state IN (?, ?)",
                (state, last_word, event.time, entry, *_WAITING),
            )
        self._conclude(entry, event, state)
        if state != State.DELIVERED:
            self._sums.trouble(
                event, "its message was not delivered" if state == State.FAILED else "its message is delayed"
            )

    def _conclude(self, entry: int, event: Event, state: str) -> None:
        """The message's state follows from its recipients' states."""
        found = dict(self._execute("SELECT state, count(*) FROM recipients WHERE entry = ? GROUP BY state", (entry,)))
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
        column = "backend" if event.words == "message delivered" else "cause"
        self._execute(
            f"UPDATE entries SET state = ?, trouble = ?, settled = ?, {column} = ?, changed = ? WHERE id = ?",  # noqa: S608
            (state, state not in _GOOD, settled, said(event.facts), self._next(), entry),
        )

    def _set_aside(self, event: Event) -> None:
        self._sums.count(event, State.FAILED)
        entry = self._find(event.facts, text(event.facts.get("message")))
        if entry is None:
            entry = self._insert(event, "message", State.SET_ASIDE, queue_id=event.facts.get("message"))
        self._mark(entry, State.SET_ASIDE, said(event.facts))
        self._sums.trouble(event, "its message was set aside")

    def _done_by_operator(self, event: Event) -> None:
        facts = event.facts
        entry = self._find(facts, text(facts.get("message")))
        action = str(facts.get("action"))
        if entry is None or action == "export":
            return
        state, settled = self._execute("SELECT state, settled FROM entries WHERE id = ?", (entry,)).fetchone()
        # What the operator made possible may have happened before this is told: then it is the last word.
        if settled is None and (action in _OF_ACTION or state in (State.HELD, State.SET_ASIDE)):
            by = f" by {facts['by']}" if facts.get("by") else ""
            self._mark(entry, _OF_ACTION.get(action, State.SPOOLED), text(f"{action}{by}"))

    def _mark(self, entry: int, state: str, cause: str) -> None:
        self._execute(
            "UPDATE entries SET state = ?, trouble = ?, cause = ?, changed = ? WHERE id = ?",
            (state, state not in _GOOD, cause, self._next(), entry),
        )

    def _find(self, facts: Mapping[str, Any], queue_id: str) -> int | None:
        """The message with this number in the spool; numbers are those of one spool, and there may be several."""
        sql, values = "SELECT max(id) FROM entries WHERE queue_id = ?", [queue_id]
        if facts.get("session"):
            sql, values = f"{sql} AND session = ?", [queue_id, text(facts["session"])]
        found: int | None = self._execute(sql, values).fetchone()[0]
        return found

    def _recipients(self, entry: int, event: Event, state: str) -> None:
        last_word = said(event.facts)
        self._of_recipients += [
            (entry, each, event.time, state, last_word, event.time) for each in addresses(event.facts)
        ]

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
            self._execute("UPDATE entries SET times = times + 1 WHERE id = ?", (entry,))
            return
        self._refusals[key] = entry = self._insert(event, "refusal", what, leg=leg, cause=cause)
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
        self._insert(event, "pop3", verdict, leg="pop3", trouble=failed)

    # Figures

    def _figures(self, event: Event) -> None:
        for what, measured in event.facts.items():
            if what in _SAMPLED and isinstance(measured, tuple):
                self._sums.sample(event, what, *measured)

    # What they share

    def _insert(
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
    ) -> int:
        facts = event.facts
        if trouble is None:
            trouble = kind == "refusal" or state not in _GOOD
        cause = cause or facts.get("cause") or facts.get("reason")
        texts = (facts.get("command"), facts.get("user"), facts.get("reply"), cause)
        self._last += 1
        self._of_entries.append(
            (
                *(self._last, self._next(), kind, leg, event.time, state, trouble),
                *(text(facts.get(name)) for name in ("client", "session", "account")),
                address(facts.get("sender")), whole_or_none(facts.get("octets")), *map(text_or_none, texts),
                *(text_or_none(value) for value in (facts.get("advice"), facts.get("backend"), queue_id)),
                settled, whole_or_none(facts.get("retrieved")), whole_or_none(facts.get("deleted")),
            )
        )  # fmt: skip
        return self._last

    def _insert_all(self) -> None:
        """Write the rows that wait."""
        for into, rows in ((_ENTRIES, self._of_entries), (_RECIPIENTS, self._of_recipients)):
            done = 0
            for many in _ROWS:
                while len(rows) - done >= many:
                    some = rows[done : done + many]
                    done += many
                    places = f"({', '.join('?' * len(some[0]))})"
                    self._connection.execute(f"{into} VALUES {', '.join([places] * many)}", list(chain(*some)))
            rows.clear()

    def _execute(self, sql: str, values: Sequence[object]) -> sqlite3.Cursor:
        """Read or change what there is, with the rows that were waiting."""
        self._insert_all()
        return self._connection.execute(sql, values)

    def _next(self) -> int:
        self._changed += 1
        return self._changed


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

WORDS = frozenset(_HANDLERS)
"""The events that the history is about."""
