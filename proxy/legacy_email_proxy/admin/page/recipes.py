"""What to set on a device, filled in with this proxy's addresses and ports.

Where the settings are found differs from maker to maker; the words for each maker stand in the texts, as ``maker.…``.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...access import Address, canonical
from ...contracts.container import in_container
from ...history.families import FAMILIES
from .texts import text

__all__ = ("MAKERS", "Recipe", "recipe")

MAKERS = tuple(family.maker for family in FAMILIES)
"""Those of which the texts say where their settings are."""

Places = Mapping[str, Sequence[tuple[str, int]]]


class Value(NamedTuple):
    """What stands behind a name; ``exact``: it can be typed as it is."""

    words: str
    exact: bool = True


Rows = Sequence[tuple[str, Value]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Names and values for sending and for reading mail; empty where the proxy does not do that."""

    maker: str
    where: str
    hints: Sequence[str]
    sending: Rows
    reading: Rows


def recipe(device: str, maker: str, settings: Mapping[str, Any], listening: Places, *, tls: bool) -> Recipe:
    """What to set on the device with this address."""
    where = text(f"maker.{maker}.where") if text.has(f"maker.{maker}.where") else text("maker.other.where")
    hints = [text(f"maker.{maker}.hint")] if text.has(f"maker.{maker}.hint") else []
    sending = _sending(device, settings, listening, tls=tls)
    return Recipe(maker, where, hints, sending, _reading(device, settings, listening, tls=tls))


def _sending(device: str, settings: Mapping[str, Any], listening: Places, *, tls: bool) -> Rows:
    if not listening.get("SMTP"):
        return []
    auth = settings["SMTP_AUTH"]
    login = (
        Value(text(f"recipe.login.{auth}"), exact=False) if auth in ("any", "accounts") else Value(text("recipe.off"))
    )
    sender: str | None = settings["SMTP_SENDER"]
    own = text("recipe.sender.own")
    return [
        (text("recipe.smtp_server"), _address(listening["SMTP"], device)),
        (text("recipe.port"), Value(_ports(listening["SMTP"]))),
        (text("recipe.encryption"), _encryption("SMTPS", listening, tls=tls)),
        (text("recipe.login"), login),
        (text("recipe.sender"), Value(text("recipe.sender.any", sender=sender) if sender else own, exact=False)),
    ]


def _reading(device: str, settings: Mapping[str, Any], listening: Places, *, tls: bool) -> Rows:
    if not listening.get("POP3"):
        return []
    return [
        (text("recipe.pop3_server"), _address(listening["POP3"], device)),
        (text("recipe.port"), Value(_ports(listening["POP3"]))),
        (text("recipe.encryption"), _encryption("POP3S", listening, tls=tls)),
        (text("recipe.login"), Value(text(f"recipe.pop3_login.{settings['POP3_LOGIN']}"), exact=False)),
    ]


def _ports(places: Sequence[tuple[str, int]]) -> str:
    return ", ".join(map(str, dict.fromkeys(port for _, port in places)))


def _encryption(secured: str, listening: Places, *, tls: bool) -> Value:
    if not tls:
        return Value(text("recipe.off"))
    if listening.get(secured):
        return Value(text("recipe.encryption.both", port=_ports(listening[secured])), exact=False)
    return Value(text("recipe.encryption.starttls"), exact=False)


def _address(places: Sequence[tuple[str, int]], device: str) -> Value:
    """The address under which the device reaches us."""
    peer = canonical(device)
    bound = [address for address in (canonical(host) for host, _ in places) if address is not None]
    for address in bound:
        if not address.is_unspecified and (peer is None or address.version == peer.version):
            return Value(str(address))
    if in_container():
        return Value(text("recipe.container"), exact=False)
    ours = "" if peer is None else _local_address(peer)
    return Value(ours) if ours else Value(text("recipe.unknown"), exact=False)


def _local_address(peer: Address) -> str:
    """Ours, by the route to the peer. Nothing is sent."""
    family = socket.AF_INET if peer.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.setblocking(False)
            probe.connect((str(peer), 9))
            return str(probe.getsockname()[0])
    except OSError:
        return ""
