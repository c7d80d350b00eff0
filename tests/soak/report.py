"""What a run came to: the table, the slopes, and the verdict with its reasons."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from soak.growth import Slope
from soak.ledger import Trouble
from soak.proxies import Proxy

ROWS = (
    "sent", "accepted", "refused", "broken off", "unanswered", "delivered", "lost", "doubled", "doubled by Postfix",
    "refused, yet delivered", "", "POP3 sessions", "failed", "retrieved", "put in", "deleted", "deletion not known",
)  # fmt: skip
SHOWN_FAULTS = 5
"""Of each kind."""


class Report:
    """`print(Report(…))` is the result; `faults` are the reasons for the verdict BAD."""

    def __init__(
        self,
        *,
        seed: int,
        seconds: float,
        drained: float,
        proxies: list[Proxy],
        troubles: list[Trouble],
        slopes: dict[str, list[Slope]],
        faults: list[str],
        files: Callable[[str], list[Path]],
    ) -> None:
        self._seed, self._seconds, self._drained = seed, seconds, drained
        self._troubles = Counter(f"{each.what} {each.who}" for each in troubles)
        self._slopes = slopes
        self.counts = {proxy.name: _count(proxy) for proxy in proxies}
        self.faults = list(faults)
        for proxy in proxies:
            self.faults += proxy.ledger.judge(
                troubles, {"Postfix", proxy.name} | ({"PostgreSQL"} if proxy.name == "postgres" else set())
            )
            for mailbox in proxy.mailboxes:
                self.faults += mailbox.judge(files(mailbox.user))
            counted = self.counts[proxy.name]
            self.faults += [f"{proxy.name}: nothing {what}" for what in ("accepted", "deleted") if not counted[what]]
        for name, each in slopes.items():
            self.faults += [f"{name}: {slope.what} grow by {slope}" for slope in each if slope.too_much]

    def __str__(self) -> str:
        names = list(self.counts)
        total = sum(self.counts.values(), Counter())
        lines = [f"{self._seconds / 60:g} minutes, seed {self._seed}; drained in {self._drained:.0f} s", ""]
        lines.append("".ljust(24) + "".join(name.rjust(11) for name in (*names, "together")))
        for row in ROWS:
            cells = [*(self.counts[name][row] for name in names), total[row]]
            lines.append(row.ljust(24) + "".join(f"{cell:11}" for cell in cells) if row else "")
        done = ", ".join(f"{what} {count}" for what, count in sorted(self._troubles.items()))
        lines += ["", f"what was done: {done}"]
        for name, slopes in self._slopes.items():
            said = ", ".join(f"{slope.what} {slope}" for slope in slopes) or "too short a life to say"
            covered = f" over {slopes[0].seconds / 60:.1f} min" if slopes else ""
            lines.append(f"{name}{covered}: {said}")
        lines += [f"  {fault[:300]}" for fault in _examples(self.faults)]
        if not self.faults:
            return "\n".join([*lines, "OK"])
        return "\n".join([*lines, f"BAD: {len(self.faults)} faults, the first: {self.faults[0][:200]}"])


def _examples(faults: list[str]) -> list[str]:
    """The first few of each kind: one mistake may show in a thousand messages and must not hide another."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for fault in faults:
        kinds[re.sub(r"[\w-]*\d[\w.-]*", "", fault)].append(fault)
    return [
        line
        for kind in kinds.values()
        for line in (*kind[:SHOWN_FAULTS], *([f"… and {len(kind) - SHOWN_FAULTS} more"] * (len(kind) > SHOWN_FAULTS)))
    ]


def _count(proxy: Proxy) -> Counter[str]:
    counted = proxy.ledger.count()
    for mailbox in proxy.mailboxes:
        counted["POP3 sessions"] += mailbox.sessions
        counted["failed"] += mailbox.failed
        counted["retrieved"] += mailbox.retrieved
        counted["put in"] += len(mailbox.put)
        counted["deleted"] += len(mailbox.deleted)
        counted["deletion not known"] += len(mailbox.unsure)
    return counted
