"""The work of the POP3 leg, one method for each piece of it, with its targets."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from bench import command, mail
from bench.mailboxes import POOL, Mailboxes
from bench.measure import KIB, MIB, Peak, Work, compare, connections_to, resident
from bench.pop3_devices import opened, retr, retrieved, served, session
from bench.table import Figures, Row, Target
from realservers.accounts import Account

IMAP_OCTETS = 256
"""What may surround a header on the wire: the FETCH response, the tagged OK, and the message's line in the listing."""
WORK = ("open", "retr", "large", "crowd", "idle", "top")


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    rounds: int = 5
    listed: int = 100_000
    small: int = 1000
    small_octets: int = 10_000
    large: int = 5
    large_octets: int = 25_000_000
    clients: int = 50
    each: int = 200
    idle: int = 1000


QUICK = Sizes(rounds=1, listed=10_000, small=300, large=2, clients=20, each=50, idle=200)


class Leg:
    """The mailboxes at the backend, and before them in turns the rival and this project."""

    def __init__(self, mailboxes: Mailboxes, sizes: Sizes) -> None:
        self._mailboxes = mailboxes
        self._sizes = sizes

    def _small(self) -> Account:
        return self._mailboxes.filled("small", self._sizes.small, self._sizes.small_octets)

    def _rival(self, work: Callable[[int], Sequence[float]]) -> Work | None:
        """The same work, done by the rival."""
        port = self._mailboxes.rival_port
        return None if port is None else lambda: work(port)

    def open(self) -> list[Row]:
        """A mailbox with very many messages: opened, opened again, listed."""
        count, account = self._sizes.listed, self._mailboxes.filled("listed", self._sizes.listed, mail.HEADER_OCTETS)

        def limit() -> Sequence[float]:
            with self._mailboxes.raw(account) as raw:
                begun = time.perf_counter()
                raw.ask(b"UID FETCH 1:* (RFC822.SIZE)")
                return [time.perf_counter() - begun]

        with ExitStack() as stack:
            # One for each round, because only once is it the first time; so the rival gets one round, a long one.
            fresh = [stack.enter_context(self._mailboxes.proxy(account)) for _ in range(self._sizes.rounds)]
            first, again, listing = compare(
                command.note,
                lambda: opened(fresh.pop().pop3_port, account),
                rival=self._rival(lambda port: opened(port, account)),
                limit=limit,
                rounds=self._sizes.rounds,
                rival_rounds=1,
                figures=3,
            )
        name = f"open + STAT, {count} messages"
        return [
            Row(f"{name}, first time", "s", first, [Target("≤", 2, "limit")]),
            Row(f"{name}, again", "s", again, [Target("≤", 0.1, "rival")]),
            Row(f"LIST + UIDL, {count} messages", "s", listing, [Target("≤", 1, "rival")]),
        ]

    def retr(self) -> list[Row]:
        """Many small messages, one after the other."""
        count, octets, account = self._sizes.small, self._sizes.small_octets, self._small()

        def limit() -> Sequence[float]:
            with self._mailboxes.raw(account) as raw:
                begun = time.perf_counter()
                raw.ask(b"UID FETCH 1:* (BODY.PEEK[])")
                return [count / (time.perf_counter() - begun)]

        with self._mailboxes.proxy(account) as running:
            (rate,) = compare(
                command.note,
                lambda: [count / retrieved(running.pop3_port, account, count, octets)],
                rival=self._rival(lambda port: [count / retrieved(port, account, count, octets)]),
                limit=limit,
                rounds=self._sizes.rounds,
            )
        return [Row(f"RETR {count} × {octets // 1000} kB", "msg/s", rate, [Target("≥", 3, "rival")])]

    def large(self) -> list[Row]:
        """A few large messages, and what they add to the proxy's memory."""
        count, octets = self._sizes.large, self._sizes.large_octets
        account = self._mailboxes.filled("large", count, octets)
        megabytes = count * octets / 1e6

        def limit() -> Sequence[float]:
            with self._mailboxes.raw(account) as raw:
                begun = time.perf_counter()
                for uid in range(1, count + 1):
                    raw.ask(b"UID FETCH %d (BODY.PEEK[])" % uid)
                return [megabytes / (time.perf_counter() - begun)]

        with self._mailboxes.proxy(account) as running:
            with served(running.pop3_port, [session(account, b"TOP 1 0")]):
                pass  # what is loaded at the first use is not what a message costs
            with Peak(resident(running.pid)) as memory:
                retrieved(running.pop3_port, account, count, octets)
            (rate,) = compare(
                command.note,
                lambda: [megabytes / retrieved(running.pop3_port, account, count, octets)],
                rival=self._rival(lambda port: [megabytes / retrieved(port, account, count, octets)]),
                limit=limit,
                rounds=self._sizes.rounds,
            )
        name = f"RETR {count} × {octets // 1_000_000} MB"
        return [
            Row(name, "MB/s", rate, [Target("≥", 1.1, "limit"), Target("≥", 1.6, "rival")]),
            Row(f"{name}, memory grows by", "MiB", Figures(memory.growth / MIB), [Target("≤", 6)]),
        ]

    def crowd(self) -> list[Row]:
        """Many devices at once, all with the same mailbox."""
        sizes, account = self._sizes, self._small()

        def rush(port: int) -> Sequence[float]:
            script = session(account, b"UIDL", b"LIST", *retr(sizes.each))
            begun = time.perf_counter()
            with served(port, [script] * sizes.clients) as devices:
                rate = sizes.clients * sizes.each / (time.perf_counter() - begun)
                if any(device.octets[b"RETR"] < sizes.each * sizes.small_octets for device in devices):
                    raise RuntimeError("a device did not get all octets")
                return [rate, statistics.median(device.until[b"LIST"] for device in devices)]

        with self._mailboxes.proxy(account) as running:
            rate, first_list = compare(
                command.note,
                lambda: rush(running.pop3_port),
                rival=self._rival(rush),
                rounds=sizes.rounds,
                figures=2,
            )
        name = f"{sizes.clients} clients × RETR {sizes.each} × {sizes.small_octets // 1000} kB"
        return [
            Row(name, "msg/s", rate, [Target("≥", 8, "rival")]),
            Row(f"{name}, median time to the first LIST", "s", first_list, [Target("≤", 0.1, "rival")]),
        ]

    def idle(self) -> list[Row]:
        """Many devices that are logged in and say nothing."""
        count, account = self._sizes.idle, self._small()
        script = session(account, leave=False)
        with self._mailboxes.proxy(account) as running:
            with served(running.pop3_port, [script] * (2 * POOL)):
                pass
            with (
                Peak(resident(running.pid)) as memory,
                Peak(connections_to(running.pid, self._mailboxes.imaps_port), every_seconds=0.2) as backend,
                served(running.pop3_port, [script] * count),
            ):
                each = (memory.read() - memory.before) / count
        return [
            Row(f"{count} idle sessions, memory of each", "KiB", Figures(each / KIB), [Target("≤", 30)]),
            Row(f"{count} idle sessions, all backend connections", "", Figures(backend.peak), [Target("≤", POOL)]),
        ]

    def top(self) -> list[Row]:
        """Only the headers of many messages: how quick, and what the backend sends for it."""
        count, octets, account = self._sizes.small, self._sizes.small_octets, self._small()
        tops = [b"TOP %d 0" % number for number in range(1, count + 1)]

        def both(port: int) -> Sequence[float]:
            with served(port, [session(account, *tops, *retr(count))]) as (device,):
                return [count / device.took[verb] for verb in (b"TOP", b"RETR")]

        with self._mailboxes.proxy(account) as running:
            rate, whole = compare(
                command.note,
                lambda: both(running.pop3_port),
                rival=self._rival(both),
                rounds=self._sizes.rounds,
                figures=2,
            )
        # An account of its own, because Dovecot says how many octets it sent when a connection of the account ends.
        account = self._mailboxes.filled("headers", count, octets)
        before = self._mailboxes.octets_sent_to(account)
        with self._mailboxes.proxy(account) as running:
            with served(running.pop3_port, [session(account, *tops)]):
                pass
        sent = (self._mailboxes.octets_sent_to(account) - before) / count
        name = f"TOP n 0, {count} × {octets // 1000} kB"
        return [
            Row(name, "msg/s", rate, [Target("≥", 1, "own RETR")], {"own RETR": whole.ours}),
            Row(
                f"{name}, sent by the backend for each",
                "octets",
                Figures(sent),
                [Target("≤", mail.HEADER_OCTETS + IMAP_OCTETS)],
            ),
        ]


def main() -> int:
    def start(stack: ExitStack, quick: bool) -> Mapping[str, command.Scenario]:
        leg = Leg(Mailboxes(stack), QUICK if quick else Sizes())
        return {name: getattr(leg, name) for name in WORK}

    return command.main("POP3", WORK, start)
