"""What to set on a device, filled in with this proxy's addresses and ports.

Where the settings are found differs from maker to maker; the words for each maker stand in the texts, as ``maker.…``.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...access import canonical
from ...contracts.container import in_container
from ...history.families import FAMILIES
from .texts import text

__all__ = ("MAKERS", "Recipe", "recipe")

MAKERS = tuple(family.maker for family in FAMILIES)
"""Those of which the texts say where their settings are."""

Places = Mapping[str, Sequence[tuple[str, int]]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Names and values for sending and for reading mail; empty where the proxy does not do that."""

    maker: str
    where: str
    hints: Sequence[str]
    sending: Sequence[tuple[str, str]]
    reading: Sequence[tuple[str, str]]


def recipe(device: str, maker: str, settings: Mapping[str, Any], listening: Places, *, tls: bool) -> Recipe:
    """What to set on the device with this address."""
    where = text(f"maker.{maker}.where") if text.has(f"maker.{maker}.where") else text("maker.other.where")
    hints = [text(f"maker.{maker}.hint")] if text.has(f"maker.{maker}.hint") else []
    sending = _sending(device, settings, listening, tls=tls)
    return Recipe(maker, where, hints, sending, _reading(device, settings, listening, tls=tls))


def _sending(device: str, settings: Mapping[str, Any], listening: Places, *, tls: bool) -> list[tuple[str, str]]:
    if not listening.get("SMTP"):
        return []
    auth = settings["SMTP_AUTH"]
    login = f"recipe.login.{auth}" if auth in ("any", "accounts") else "recipe.login.off"
    sender: str | None = settings["SMTP_SENDER"]
    return [
        (text("recipe.smtp_server"), _address(listening["SMTP"], device)),
        (text("recipe.port"), _ports(listening["SMTP"])),
        (text("recipe.encryption"), _encryption("SMTPS", listening, tls=tls)),
        (text("recipe.login"), text(login)),
        (text("recipe.sender"), text("recipe.sender.any", sender=sender) if sender else text("recipe.sender.own")),
    ]


def _reading(device: str, settings: Mapping[str, Any], listening: Places, *, tls: bool) -> list[tuple[str, str]]:
    if not listening.get("POP3"):
        return []
    return [
        (text("recipe.pop3_server"), _address(listening["POP3"], device)),
        (text("recipe.port"), _ports(listening["POP3"])),
        (text("recipe.encryption"), _encryption("POP3S", listening, tls=tls)),
        (text("recipe.login"), text(f"recipe.pop3_login.{settings['POP3_LOGIN']}")),
    ]


def _ports(places: Sequence[tuple[str, int]]) -> str:
    return ", ".join(map(str, dict.fromkeys(port for _, port in places)))


def _encryption(secured: str, listening: Places, *, tls: bool) -> str:
    if not tls:
        return text("recipe.encryption.none")
    if listening.get(secured):
        return text("recipe.encryption.both", port=_ports(listening[secured]))
    return text("recipe.encryption.starttls")


def _address(places: Sequence[tuple[str, int]], device: str) -> str:
    """The address under which the device reaches us."""
    peer = canonical(device)
    bound = [address for address in (canonical(host) for host, _ in places) if address is not None]
    named = [address for address in bound if not address.is_unspecified]
    if peer is not None:
        same = [address for address in named if address.version == peer.version]
        if same:
            return str(same[0])
    elif named:
        return str(named[0])
    if in_container():
        return text("recipe.container")
    return (str(peer) and _local_address(str(peer))) or text("recipe.unknown") if peer else text("recipe.unknown")


def _local_address(peer: str) -> str:
    """Ours, by the route to the peer. Nothing is sent."""
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.setblocking(False)
            probe.connect((peer, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return ""
