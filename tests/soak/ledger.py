"""The account of every message: what was said of it, what became of it, and whether the two agree."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from soak.mail import mark, receipt

Outcome = Literal["open", "accepted", "refused", "broken off", "unanswered"]
"""`refused`: the device read a 4yz or 5yz; `broken off`: the connection ended before the end of the message was sent;
`unanswered`: afterwards, so the device can not know."""


@dataclass
class Trouble:
    """Something that was killed, frozen or reloaded, and for how long."""

    what: str
    who: str
    began: float
    ended: float = float("inf")

    def during(self, began: float, ended: float) -> bool:
        return self.began <= ended and self.ended >= began


@dataclass
class Arrival:
    number: str
    """Postfix's: a second delivery of Postfix's own has the same one."""
    came: float


@dataclass
class Sent:
    """One message that a device tried to send."""

    name: str
    began: float
    ended: float = 0.0
    outcome: Outcome = "open"
    reply: str = ""
    arrivals: list[Arrival] = field(default_factory=list)

    @property
    def transmissions(self) -> list[float]:
        """When the proxy handed it to Postfix, each time."""
        return sorted({each.number: each.came for each in self.arrivals}.values())


class Ledger:
    """What one proxy was given to send, and what arrived."""

    def __init__(self, road: str, *, keeps: bool) -> None:
        self.road = road
        self.keeps = keeps
        """It has a spool: after a kill it sends again what it does not know to be sent."""
        self.faults: list[str] = []
        self._sent: dict[str, Sent] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def new(self, kind: str, now: float) -> Sent:
        with self._lock:
            sent = Sent(f"{self.road}-{kind}-{next(self._numbers)}", now)
            self._sent[sent.name] = sent
        return sent

    def settle(self, sent: Sent, outcome: Outcome, reply: str, now: float) -> None:
        sent.outcome, sent.reply, sent.ended = outcome, reply, now
        if outcome == "refused" and not reply.startswith("4"):
            self.fault(f"{sent.name}: a good message was answered {reply}")

    def fault(self, text: str) -> None:
        self.faults.append(text)

    def harvest(self, files: list[Path]) -> None:
        """Note what has arrived, and remove it, so that no run fills the disk."""
        for file in files:
            content = file.read_bytes()
            file.unlink()
            name, whole = mark(content)
            sent = self._sent.get(name)
            if sent is None:
                self.fault(f"{self.road}: something else arrived: {content[:2000].decode('latin-1')}")
                continue
            sent.arrivals.append(Arrival(*receipt(content)))
            if not whole:
                self.fault(f"{name}: it arrived changed")

    @property
    def missing(self) -> list[Sent]:
        return [sent for sent in list(self._sent.values()) if sent.outcome == "accepted" and not sent.arrivals]

    def count(self) -> Counter[str]:
        counted: Counter[str] = Counter({"sent": len(self._sent), "lost": len(self.missing)})
        for sent in self._sent.values():
            counted[sent.outcome] += 1
            counted["delivered"] += bool(sent.arrivals)
            counted["doubled"] += len(sent.transmissions) > 1
            counted["doubled by Postfix"] += len(sent.arrivals) > max(1, len(sent.transmissions))
            counted["refused, yet delivered"] += sent.outcome == "refused" and bool(sent.arrivals)
        return counted

    def judge(self, troubles: list[Trouble], stores: set[str]) -> list[str]:
        """Whatever must not be; `stores` are those whose death may be the reason for a second delivery."""
        faults = list(self.faults)

        def explained(began: float, ended: float) -> bool:
            # Postfix's times are whole seconds.
            return any(
                each.who in stores and each.what != "reload" and each.during(began - 1, ended + 1) for each in troubles
            )

        for sent in self._sent.values():
            times = sent.transmissions
            if sent.outcome == "accepted" and not times:
                faults.append(f"{sent.name}: lost; it was accepted with {sent.reply}")
            if sent.outcome == "broken off" and times:
                faults.append(f"{sent.name}: delivered without its end")
            if sent.outcome == "refused" and times and not explained(sent.began, sent.ended):
                faults.append(f"{sent.name}: delivered although the device read {sent.reply}")
            if len(times) > 1 and not (self.keeps and explained(times[0], times[-1])):
                faults.append(f"{sent.name}: delivered {len(times)} times, and nothing had died")
        return faults


@dataclass
class Mailbox:
    """What one POP3 account held: what was put in, and what was deleted. One reader at a time uses it."""

    user: str
    password: str
    put: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    """QUIT said +OK."""
    unsure: set[str] = field(default_factory=set)
    """QUIT said -ERR, or nothing."""
    sessions: int = 0
    failed: int = 0
    retrieved: int = 0
    faults: list[str] = field(default_factory=list)

    def fault(self, text: str) -> None:
        self.faults.append(f"{self.user}: {text}")

    def listed(self, name: str) -> None:
        if name not in self.put:
            self.fault(f"lists what was never put in: {name!r}")
        if name in self.deleted:
            self.fault(f"lists {name}, which QUIT had deleted with +OK")
        self.unsure.discard(name)

    def judge(self, files: list[Path]) -> list[str]:
        """Compare with what the mailbox really holds."""
        held = {mark(file.read_bytes())[0] for file in files}
        faults = list(self.faults)
        faults += [f"{self.user}: {name} is still there, and QUIT said +OK" for name in sorted(held & self.deleted)]
        gone = self.put - held - self.deleted - self.unsure
        faults += [f"{self.user}: {name} is gone, and no session had deleted it" for name in sorted(gone)]
        return faults
