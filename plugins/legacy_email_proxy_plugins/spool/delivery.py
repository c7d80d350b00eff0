"""Delivers the stored messages of an account, in the order in which they are due, over a limited number of connections.

Each message is tried again until all its recipients have it or have failed for good.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

from legacy_email_proxy.contracts import Failure, Relay, bound

from ..backoff import Gate, retry_after
from .attempt import Attempt, attempt
from .message import Fate, Notice, Outcome, Recipient, SpooledMessage, State, Verdict, storable
from .notification import header_of, notices, waived
from .settings import Options
from .store import Store, Unreadable

__all__ = ("Delivery",)

_MESSAGES_PER_CONNECTION = 3
"""Messages that are leased for each connection: one is delivered, while others are read or recorded."""

_OFFERED = 500
_OFFERED_OCTETS = 4 * 1024 * 1024
"""New messages, and their octets, that wait in memory for a connection. More are read from the store later."""

_TROUBLE_SECONDS = 5.0
_LONGEST_SLEEP = 60.0
_RECORD_SECONDS = 1.0


class Delivery:
    """Delivers an account's mail from :meth:`start` to :meth:`stop`.

    ``under_way`` are the numbers of all messages that are in work in this process. All deliveries share the set.
    """

    def __init__(
        self,
        account: str,
        store: Store,
        relay: Relay,
        options: Options,
        logger: logging.Logger,
        *,
        under_way: set[int],
        clock: Callable[[], float],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.account = account
        self._whose = {"account": account} if account else {}
        self._under_way = under_way
        self._store = store
        self._relay = relay
        self._options = options
        self._logger = logger
        self._clock, self._began = clock, clock()
        self._chance = chance
        self._gate = Gate(options.retry_seconds, clock)
        self._slots = asyncio.Semaphore(options.connections)
        self._busy: dict[int, asyncio.Task[None]] = {}
        self._untried: set[int] = set()
        self._attempting: set[int] = set()
        self._settled: set[int] = set()
        self._octets = 0
        self._wake = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._successor: Delivery | None = None
        self._stopping = self._unreadable = False
        self._more_in_store = True

    @property
    def successor(self) -> Delivery | None:
        """The delivery that has replaced this one after a reload. While there is one, this one begins no tries."""
        return self._successor

    @successor.setter
    def successor(self, successor: Delivery | None) -> None:
        self._successor = successor
        self._more_in_store = True
        self._wake.set()
        if successor is not None:
            self._give_up_untried()

    @property
    def _begins_nothing(self) -> bool:
        return self._stopping or self._successor is not None

    def start(self) -> None:
        """Start the task that delivers."""
        self._running = asyncio.get_running_loop().create_task(self._run())

    def wake(self) -> None:
        """Look into the store again, because a message may be due."""
        if self._successor is not None:
            self._successor.wake()
        else:
            self._wake.set()

    def offer(self, message: SpooledMessage) -> None:
        """A new message was stored. It is tried at once, without being read again, if no older one waits."""
        full = len(self._busy) >= _OFFERED or self._octets >= _OFFERED_OCTETS
        if self._successor is not None:
            self._successor.offer(message)
        elif self._more_in_store or self._gate.closed or self._stopping or full:
            self._more_in_store = True
            if message.number not in self._under_way:  # otherwise it was leased meanwhile
                self._store.give_back(message.number)
            self._wake.set()
        else:
            self._begin(message)

    async def stop(self) -> None:
        """Begin no new tries, and wait until the running ones have ended."""
        self._stopping = True
        self._give_up_untried()
        self._wake.set()
        if self._running is not None:
            # Time for a lease that is being taken: its messages have to be given back.
            await asyncio.wait((self._running,), timeout=_RECORD_SECONDS)
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        while self._busy:
            await asyncio.wait(self._busy.values())

    async def hurry(self, grace_seconds: float) -> None:
        """While :meth:`stop` waits: let running tries go on for ``grace_seconds``, and then cancel them."""
        if self._busy:
            await asyncio.wait(self._busy.values(), timeout=grace_seconds)
        # Tries that have ended only have to be recorded, and get some more time for that.
        for seconds, numbers in ((_RECORD_SECONDS, self._attempting | self._untried), (None, set(self._busy))):
            for number in numbers & set(self._busy):
                self._busy[number].cancel()
            if self._busy:
                await asyncio.wait(self._busy.values(), timeout=seconds)

    def _give_up_untried(self) -> None:
        for number in self._untried:
            self._busy[number].cancel()

    async def _run(self) -> None:
        while not self._stopping:
            try:
                await self._turn()
            except Exception as error:
                if not self._unreadable:
                    self._logger.error("the spool can not be read: %s", error, exc_info=_unexpected(error))
                self._unreadable = isinstance(error, Failure)
                await asyncio.sleep(_TROUBLE_SECONDS)

    async def _turn(self) -> None:
        self._wake.clear()
        wait = math.inf if self._begins_nothing else self._gate.wait_seconds()
        room = self._options.connections * _MESSAGES_PER_CONNECTION - len(self._busy)
        if self._gate.closed:
            room = 1
        # Every lease is a commit, so messages are leased in groups, not one after each that has ended.
        elif room < self._options.connections:
            room = 0
        if wait == 0 and room > 0:
            # A message that is offered during the lease may be among the leased ones, or not.
            self._more_in_store = True
            messages = await self._store.lease(self.account, self._clock(), room, self._under_way)
            if self._unreadable:
                self._unreadable = False
                self._logger.info("the spool can be read again")
            if self._begins_nothing:
                for message in messages:
                    self._store.give_back(message.number)
                return
            for message in messages:
                self._begin(message)
            if messages:
                return
            if not self._wake.is_set():
                self._more_in_store = False
            due = await self._store.next_due(self.account, self._under_way)
            wait = _LONGEST_SLEEP if due is None else due - self._clock()
        elif wait == 0:
            wait = _LONGEST_SLEEP
        with suppress(TimeoutError):
            async with asyncio.timeout(min(max(wait, 0.0), _LONGEST_SLEEP)):
                await self._wake.wait()

    def _begin(self, message: SpooledMessage) -> None:
        if self._gate.closed:
            self._gate.probe(message.number)
        self._untried.add(message.number)
        task = asyncio.get_running_loop().create_task(self._handle(message, probe=self._gate.closed))
        self._busy[message.number] = task
        self._under_way.add(message.number)
        self._octets += len(message.content or b"")
        task.add_done_callback(lambda _: self._ended(message))

    def _ended(self, message: SpooledMessage) -> None:
        number = message.number
        del self._busy[number]
        self._gate.ended(number)
        self._octets -= len(message.content or b"")
        self._under_way.discard(number)
        if number in self._untried:
            self._untried.discard(number)
            self._store.give_back(number)
        # If recipients of this message are left, it waits in the store with the others, and the order is kept.
        self._more_in_store = self._more_in_store or number not in self._settled
        self._settled.discard(number)
        if self._more_in_store or self._gate.closed or self._successor is not None:
            self.wake()

    async def _handle(self, message: SpooledMessage, *, probe: bool) -> None:
        # On the relay's lines too: the exchange with the backend belongs to the session in which the message came.
        with bound(
            session=message.client.session, client=message.client.address, message=message.number, **self._whose
        ):
            await self._handle_bound(message, probe=probe)

    async def _handle_bound(self, message: SpooledMessage, *, probe: bool) -> None:
        message.count_from(self._began, self._clock())
        try:
            outcome = await self._try(message, probe=probe)
        except Exception as error:
            # A bug of ours. The message must not be lost, and must not be tried again without a pause.
            facts = {**_facts(message), "cause": str(error)}
            self._logger.error("message not handled", exc_info=_unexpected(error), extra={"facts": facts})
            outcome = self._later(message, message.waiting, error, orderly=isinstance(error, Failure))
        if outcome is None:
            return
        await self._record(message, outcome)
        if outcome.last_of_it:
            self._settled.add(message.number)

    async def _record(self, message: SpooledMessage, outcome: Outcome) -> None:
        said = False
        while True:
            try:
                await self._store.record(outcome)
                return
            except Exception as error:
                # A delivered message must not be delivered again, so this is repeated until it is recorded; also after
                # an error that nobody expected, or the message would stay leased until the next start.
                if not said:
                    words = "message's outcome not stored now: that is tried again until it is"
                    facts = {"facts": {"cause": str(error)}}
                    self._logger.error(words, extra=facts, exc_info=_unexpected(error))
                said = True
                await asyncio.sleep(_TROUBLE_SECONDS)

    async def _try(self, message: SpooledMessage, *, probe: bool) -> Outcome | None:
        try:
            if message.unfinished >= self._options.poison_tries:
                self._untried.discard(message.number)
                return self._set_aside(message, f"{self._options.poison_tries} tries in a row came to no orderly end")
            async with self._slots:
                if self._begins_nothing or (self._gate.closed and not probe):
                    return None
                self._untried.discard(message.number)
                made = await self._attempt(message)
        except Unreadable as error:
            return self._set_aside(message, str(error))
        self._update_gate(made)
        return await self._outcome(message, made)

    async def _attempt(self, message: SpooledMessage) -> Attempt:
        self._attempting.add(message.number)
        self._store.begin(message.number)
        try:
            made = await attempt(self._relay, message, self._store.content(message))
            refused = [recipient for recipient, refusal in made.refused if refusal.permanent]
            sender = self._options.notify_from
            if message.notice and refused and sender:
                # Some backends refuse the null reverse-path, at MAIL, at RCPT or after the content. Then a notification
                # is sent from an address. The spool still knows that it is a notification, and other servers see it in
                # the header, so no notification is sent about it.
                again = replace(message, reverse_path=sender, recipients=refused)
                made.amend(await attempt(self._relay, again, self._store.content(message)))
            return made
        except asyncio.CancelledError:
            self._logger.warning("message cut off, so it is tried again, and may arrive twice")
            self._store.give_back(message.number)
            raise
        finally:
            self._attempting.discard(message.number)

    def _update_gate(self, made: Attempt) -> None:
        if failure := made.about_us:
            if pause := self._gate.failed(failure):
                # The account's mail waits for this time. Then one message is tried.
                facts = {**self._whose, "seconds": round(pause), "cause": str(failure)}
                self._logger.warning("delivery paused", extra={"facts": facts, "failure": failure})
        elif _unexpected(made.failure) is None and self._gate.judged():  # a bug is no sign that it works
            self._logger.info("delivery resumed", extra={"facts": self._whose})

    async def _outcome(self, message: SpooledMessage, made: Attempt) -> Outcome:
        now = self._clock()
        tried = message.waiting
        judged = {recipient.number for recipient, _ in made.refused}
        for recipient in made.delivered:
            recipient.fate = Fate.DELIVERED
            recipient.verdict = Verdict(250, "", made.detail, now)
        if made.delivered:
            self._logger.info(
                "message delivered",
                extra={"facts": {**_facts(message), "recipients": _paths(made.delivered), "backend": made.detail}},
            )
        for kind in dict.fromkeys((refusal.permanent, str(refusal)) for _, refusal in made.refused):
            words = "recipients refused" if kind[0] else "recipients not taken for now"
            theirs = [each for each, refusal in made.refused if (refusal.permanent, str(refusal)) == kind]
            self._logger.info(
                words, extra={"facts": {**_facts(message), "recipients": _paths(theirs), "cause": kind[1]}}
            )
        failed = []
        for recipient, refusal in made.refused:
            recipient.verdict = Verdict.of(refusal, now)
            if refusal.permanent:
                failed.append(recipient)
        if made.failure is not None:
            self._tell_failure(message, made, made.failure)
            for recipient in message.waiting:
                if recipient.number not in judged:
                    recipient.verdict = Verdict.of(made.failure, now)
        expired = now - message.since >= self._options.give_up_seconds
        if expired:
            failed = list(message.waiting)
        orderly = made.failure is None or isinstance(made.failure, Failure)
        if not orderly and message.unfinished + 1 >= self._options.poison_tries:
            return self._set_aside(message, f"it made the relay fail {message.unfinished + 1} times: {made.failure!r}")
        return await self._closing(message, tried, failed, orderly=orderly)

    def _tell_failure(self, message: SpooledMessage, made: Attempt, failure: Exception) -> None:
        cause = repr(failure) if _unexpected(failure) else str(failure)
        extra = {
            "facts": {**_facts(message), "recipients": _paths(message.waiting), "cause": cause},
            "failure": failure,
        }
        if made.ambiguous:
            words = "message may have been delivered: it is tried again, and may arrive twice"
            self._logger.warning(words, extra=extra)
        elif _unexpected(failure):
            self._logger.error("message not delivered", exc_info=failure, extra=extra)
        else:
            self._logger.info("message not delivered", extra=extra)

    async def _closing(
        self, message: SpooledMessage, tried: list[Recipient], failed: list[Recipient], *, orderly: bool
    ) -> Outcome:
        """Make the outcome, with the notifications to send."""
        now = self._clock()
        made = await self._notices(message, failed, delayed=False)
        told = {number for notice in made for number in notice.about}
        for recipient in failed:
            silent = message.notice or waived(recipient)
            recipient.fate = Fate.FAILED if recipient.number in told else Fate.NOTIFIED if silent else Fate.DEAD
            self._log_failed(message, recipient)
        late = 0 < self._options.warn_seconds <= now - message.since
        warned = late and not message.warned and bool(message.waiting)
        if warned:
            made += await self._notices(message, message.waiting, delayed=True)
        due = now
        state = State.NOTIFYING
        if message.waiting:
            wait = retry_after(message.tries + 1, self._options.retry_seconds, self._chance)
            due = max(now, min(now + wait, message.since + self._options.give_up_seconds))
            state = State.QUEUED
        return Outcome(message, tried, due, state, orderly=orderly, warned=warned, notices=made)

    def _log_failed(self, message: SpooledMessage, recipient: Recipient) -> None:
        verdict = recipient.verdict
        said = "" if verdict is None else f"{verdict.code or ''} {verdict.enhanced} {verdict.text}".strip()
        words = {
            Fate.FAILED: "recipient failed for good, the sender is notified",
            Fate.DEAD: "recipient failed for good, nobody can be notified: the message is kept",
            Fate.NOTIFIED: "notification failed for good"
            if message.notice
            else "recipient failed for good, and the sender has asked not to be notified",
        }[recipient.fate]
        self._logger.warning(
            words, extra={"facts": {**_facts(message), "recipient": recipient.forward_path, "reply": said}}
        )

    async def _notices(self, message: SpooledMessage, recipients: list[Recipient], *, delayed: bool) -> list[Notice]:
        if not recipients:
            return []
        try:
            header = await header_of(self._store.content(message))
        except (Unreadable, Failure):
            header = b""
        return notices(message, recipients, header, self._options, self._clock(), delayed=delayed)

    def _later(
        self, message: SpooledMessage, recipients: list[Recipient], error: Exception, *, orderly: bool
    ) -> Outcome:
        now = self._clock()
        for recipient in recipients:
            recipient.verdict = Verdict.of(error, now)
        wait = retry_after(message.tries + 1, self._options.retry_seconds, self._chance)
        return Outcome(message, recipients, now + wait, orderly=orderly)

    def _set_aside(self, message: SpooledMessage, reason: str) -> Outcome:
        self._logger.error("message set aside", extra={"facts": {**_facts(message), "reason": reason}})
        return Outcome(message, (), self._clock(), State.SET_ASIDE, storable(reason), orderly=False)


def _unexpected(error: BaseException | None) -> BaseException | None:
    return None if isinstance(error, Failure) else error


def _facts(message: SpooledMessage) -> dict[str, object]:
    """What is not bound to the task already."""
    return {"sender": message.reverse_path, "octets": message.octets, "try": message.tries + 1}


def _paths(recipients: Iterable[Recipient]) -> list[str]:
    return [each.forward_path for each in recipients]
