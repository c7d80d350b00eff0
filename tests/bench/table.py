"""What a run prints: figures of this project, the rival and the limit side by side, judged by the targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

HEADINGS = ("work", "this project", "rival", "limit", "÷ rival", "÷ limit", "client busy", "target", "met?")
DIGITS = 3


@dataclass(frozen=True)
class Target:
    """`Target("≥", 3, "rival")`: at least three times the rival's figure. Without an anchor, the figure itself."""

    relation: str
    factor: float
    anchor: str = ""

    def met(self, ours: float | None, anchors: Mapping[str, float | None]) -> str:
        """`yes`, `no`, or why nobody can tell."""
        against = anchors.get(self.anchor) if self.anchor else 1.0
        if ours is None:
            return "not measured"
        if against is None:
            return f"no {self.anchor}"
        wanted = self.factor * against
        return "yes" if (ours >= wanted if self.relation == "≥" else ours <= wanted) else "no"

    def text(self, unit: str) -> str:
        return f"{self.relation} {self.factor:g} " + (f"× {self.anchor}" if self.anchor else unit)


@dataclass(frozen=True)
class Figures:
    """One figure of each contestant, None where it took no part or failed, and the client's share of our time."""

    ours: float | None
    rival: float | None = None
    limit: float | None = None
    busy: float | None = None
    beside_rival: Sequence[float] = ()
    beside_limit: Sequence[float] = ()
    """The ratio in each round in which both took part."""


@dataclass(frozen=True)
class Row:
    """One piece of work. `others` are further figures that a target may name, in the same unit."""

    work: str
    unit: str
    figures: Figures
    targets: Sequence[Target]
    others: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def verdicts(self) -> list[str]:
        """For each target `yes`, `no`, or why nobody can tell."""
        anchors = {"rival": self.figures.rival, "limit": self.figures.limit, **self.others}
        return [target.met(self.figures.ours, anchors) for target in self.targets]

    def cells(self) -> tuple[str, ...]:
        """The row as HEADINGS has it."""
        ours, rival, limit, busy = (self.figures.ours, self.figures.rival, self.figures.limit, self.figures.busy)
        return (
            self.work,
            *(shown(value, self.unit) for value in (ours, rival, limit)),
            ratio(ours, rival, self.figures.beside_rival),
            ratio(ours, limit, self.figures.beside_limit),
            "–" if busy is None else f"{busy:.0%}",
            ", ".join(target.text(self.unit) for target in self.targets),
            ", ".join(self.verdicts),
        )


def shown(value: float | None, unit: str) -> str:
    """The value with its unit, to three digits: more of them would be noise."""
    if value is None:
        return "–"
    if unit == "s" and value < 1:
        value, unit = value * 1000, "ms"
    decimals = max(0, DIGITS - len(f"{abs(value):.0f}"))
    return f"{value:.{decimals}f} {unit}"


def ratio(value: float | None, anchor: float | None, rounds: Sequence[float] = ()) -> str:
    """Of the medians; behind it the lowest and the highest of the rounds, where there were several."""
    if value is None or not anchor:
        return "–"
    quotient = value / anchor
    digits = 2 if quotient >= 0.1 else 4
    spread = f" ({min(rounds):.{digits}f}–{max(rounds):.{digits}f})" if len(rounds) > 1 else ""
    return f"{quotient:.{digits}f} ×{spread}"


def rendered(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table that can be read as it stands."""
    cells = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    lines = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
