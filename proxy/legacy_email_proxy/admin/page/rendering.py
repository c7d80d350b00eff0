"""Templates to HTML. All is escaped, and a name that a template does not know is an error, not an empty place."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from .texts import text

__all__ = ("Templates", "utc", "visible")

_FOLDER = Path(__file__).parent / "templates"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        cache_size=-1,
    )
    environment.globals["t"] = text
    environment.filters.update(when=when, short=short, size=size, span=span, number=number, code=code)
    environment.filters["visible"] = visible
    return environment


class Templates:
    """The templates of this folder."""

    def __init__(self) -> None:
        self._environment = _environment()

    def prepare(self) -> None:
        """Compile all of them, in a thread before the first request: it takes some tens of milliseconds."""
        for name in self._environment.list_templates():
            self._environment.get_template(name)

    def html(self, name: str, values: Mapping[str, Any]) -> str:
        """The page."""
        return self._environment.get_template(name).render(values)

    def hidden(self, name: str, value: str) -> Markup:
        """A hidden field of a form."""
        return Markup('<input type="hidden" name="{}" value="{}">').format(name, value)


def utc(moment: float) -> datetime:
    """Seconds since 1970 as a time; one that no calendar has is its first or last day."""
    try:
        return datetime.fromtimestamp(moment, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.max.replace(tzinfo=UTC) if moment > 0 else datetime.fromtimestamp(0, UTC)


def when(moment: float) -> Markup:
    """A moment in UTC, which the script shows in the reader's zone."""
    at = utc(moment)
    return Markup('<time datetime="{}">{}</time>').format(
        at.strftime("%Y-%m-%dT%H:%M:%SZ"), at.strftime("%Y-%m-%d %H:%M:%S UTC")
    )


def visible(given: str, limit: int = 320) -> str:
    """Text from outside in one line, cut at ``limit``: a character that can not be seen, or that turns the direction of
    writing, would make it look like something else.
    """
    shown = "".join(each if each.isprintable() else "\ufffd" for each in given)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def short(moment: float, unit: str) -> str:
    """A moment below a graph, in UTC: the hour, or the day."""
    at = utc(moment)
    return f"{at:%H}:00" if unit == "hour" else f"{at.day} {at:%b}"


def number(value: float) -> str:
    """A figure with as many places as are of use."""
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.2g}"


def code(words: str) -> Markup:
    """Advice: what stands between backticks is a command or a setting."""
    parts = words.split("`")
    pieces = (Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts))
    return Markup("").join(pieces)


def size(octets: int) -> str:
    """Octets for people."""
    if octets < 10_000:
        return text("size.octets", count=octets)
    if octets < 10_000_000:
        return text("size.kilo", octets=f"{octets / 1000:.0f}")
    return text("size.mega", octets=f"{octets / 1_000_000:.0f}")


def span(seconds: float) -> str:
    """A length of time for people."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return text(f"span.{unit}", count=round(seconds / length))
    return text("span.seconds", count=round(seconds))
