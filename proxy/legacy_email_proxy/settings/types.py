"""The types that a setting may have: for each one how it is read from text, what TOML may give, and how it is shown."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from ..contracts import Secret, Setting, SettingType

__all__ = ("TYPES", "ValueType", "networks", "shown")


@dataclass(frozen=True, slots=True)
class ValueType:
    """One type. ``parse`` is the name of a method of environs, which takes validators, or a function of ours, which
    checks while it parses and raises :class:`ValueError` with a text for the user.
    """

    parse: str | Callable[[str], Any]
    toml: tuple[type, ...]
    toml_words: str
    show: Callable[[Any], str] = str


def _list(text: str) -> tuple[str, ...]:
    items = tuple(item.strip() for item in text.split(",") if item.strip())
    if not items:
        raise ValueError("an empty list.")
    return items


def _days(text: str) -> str:
    if text.upper() != "NEVER" and not re.fullmatch("[0-9]{1,5}", text):
        raise ValueError("must be a number of days or NEVER.")
    return text.upper()


def _date(text: str) -> date:
    try:
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            raise ValueError
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError("must be a day like 2027-03-31.") from None


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError("there is no such user's folder.") from None


_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """The networks of a list in CIDR notation. Raises :class:`ValueError` with a text for the user."""
    found: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for item in _list(text):
        try:
            network = ipaddress.ip_network(item)
        except ValueError as error:
            raise ValueError(f"{error}.") from None
        if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
            # A client's address is judged without this prefix, so such a network would never match.
            raise ValueError(f"{item}: write an IPv4 network in the IPv4 way.")
        found.append(network)
    return tuple(found)


def _flag_shown(value: bool) -> str:
    return "true" if value else "false"


def _list_shown(values: tuple[object, ...]) -> str:
    return ",".join(map(str, values))


TYPES: Mapping[SettingType, ValueType] = {
    "text": ValueType("str", (str,), "a text"),
    "secret": ValueType(Secret, (str,), "a text"),
    "document": ValueType(Secret, (str,), "a text"),
    "integer": ValueType("int", (str, int), "a number"),
    "flag": ValueType("bool", (str, bool), "true or false", _flag_shown),
    "seconds": ValueType("float", (str, int, float), "a number", "{:g}".format),
    "days": ValueType(_days, (str, int), "a number of days or NEVER"),
    "date": ValueType(_date, (str, date), "a day like 2027-03-31"),
    "path": ValueType(_path, (str,), "a text"),
    "list": ValueType(_list, (str, list), "a list of texts", _list_shown),
    "networks": ValueType(networks, (str, list), "a list of texts", _list_shown),
}


def shown(setting: Setting, value: Any) -> str:
    """``value`` as the command ``settings`` prints it, secrets hidden."""
    return "" if value is None else TYPES[setting.type].show(value)
