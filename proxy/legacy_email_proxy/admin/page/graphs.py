"""Graphs of the history: figures by the hour to bars and curves, in the units of an SVG's drawing.

A template draws what stands here, and shows the same figures as a table for those who can not see a drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ("PERIODS", "Bar", "Graph", "Period", "Point", "drawn", "points_of")

WIDTH, HEIGHT = 380, 140
_LEFT, _BOTTOM, _TOP = 38, 22, 10
_TAKEN = ("relayed", "spooled")
_REFUSED = ("refused", "refusal")
_ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Period:
    """How far back, in how many hours for each bar, and after how many bars the time is written below."""

    name: str
    hours: int
    step: int
    label_each: int
    label: str


PERIODS = {one.name: one for one in (Period("day", 24, 1, 6, "hour"), Period("fortnight", 336, 6, 12, "day"))}
"""By the word in the address. Bars of six hours are right in every zone."""


@dataclass(slots=True)
class Point:
    """What happened in the time from ``moment`` on. ``None``: it was not measured."""

    moment: float
    messages: int = 0
    refusals: int = 0
    read: int = 0
    spool: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle, and what it says."""

    x: float
    y: float
    width: float
    height: float
    moment: float
    value: float


@dataclass(frozen=True, slots=True)
class Graph:
    """Ready to be drawn. ``rules`` are the horizontal lines, by their height, with their value; ``labels`` times."""

    name: str
    bars: Sequence[Bar]
    rules: Sequence[tuple[float, float]]
    labels: Sequence[tuple[float, float]]
    total: float
    highest: float
    measured: bool = True
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    base: int = field(default=HEIGHT - _BOTTOM)


def points_of(
    period: Period, now: float, hours: Sequence[Mapping[str, Any]], samples: Sequence[Mapping[str, Any]]
) -> list[Point]:
    """The figures of the period, summed up for each bar. The last bar is the one that ``now`` is in."""
    step = period.step * 3600
    count = period.hours // period.step
    first = int(now) // step * step - (count - 1) * step
    points = [Point(float(first + number * step)) for number in range(count)]

    def at(hour: int) -> Point | None:
        place = (hour - first) // step
        return points[place] if 0 <= place < count else None

    for row in hours:
        if (point := at(row["hour"])) is not None:
            if row["what"] in _TAKEN:
                point.messages += row["times"]
            elif row["what"] in _REFUSED:
                point.refusals += row["times"]
            elif row["what"] == "retrieved":
                point.read += row["times"]
    took: dict[int, tuple[int, float]] = {}
    for row in samples:
        if (point := at(row["hour"])) is not None:
            if row["what"] == "spool":
                point.spool = max(point.spool or 0.0, row["highest"])
            else:
                times, total = took.get(id(point), (0, 0.0))
                took[id(point)] = times + row["times"], total + row["total"]
    for point in points:
        if times := took.get(id(point), (0, 0.0))[0]:
            point.seconds = took[id(point)][1] / times
    return points


def drawn(name: str, period: Period, points: Sequence[Point]) -> Graph:
    """The graph of this figure: ``messages``, ``refusals``, ``spool`` or ``seconds``."""
    values: list[float | None] = [getattr(point, name) for point in points]
    known = [value for value in values if value is not None]
    highest = max(known, default=0.0)
    top = _rounded(highest)
    base, room = HEIGHT - _BOTTOM, HEIGHT - _BOTTOM - _TOP
    wide = (WIDTH - _LEFT) / len(points)
    bars = [
        Bar(_LEFT + number * wide + 1, base - room * value / top, wide - 2, room * value / top, point.moment, value)
        for number, (point, value) in enumerate(zip(points, values, strict=True))
        if value
    ]
    labels = [(_LEFT + number * wide, points[number].moment) for number in range(0, len(points), period.label_each)]
    rules = [(base - room * part, top * part) for part in (0.5, 1.0)]
    return Graph(name, bars, rules, labels, sum(known), highest, measured=bool(known))


def _rounded(highest: float) -> float:
    """The next round number that is not smaller."""
    if highest <= 0:
        return 1.0
    scale = 1.0
    while scale * 10 <= highest:
        scale *= 10
    while scale > highest:
        scale /= 10
    return next(scale * step for step in _ROUND if scale * step >= highest)
