"""Tries at the real servers what was answered: which port and which kind of TLS, which sender. Nothing is sent.

The plugins do it, by the probes that ``check`` uses, so that set-up and service can not judge differently.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import anyio

from ..build import compose, credentials
from ..contracts import Authorizable, Client, Failure, Finding, Level, Refused, Relay, SettingsMistake
from ..settings import Leg
from .draft import Draft

__all__ = ("Way", "awaiting_consent", "for_trials", "missing", "refused_sender", "search", "tls_of")

_GRACE_SECONDS = 2.0
"""How long a way that is preferred may still take when another one has worked."""
_TRANSACTION_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Way:
    """A port, and whether TLS begins there with STARTTLS or with the first octet."""

    port: int
    starttls: bool

    def __str__(self) -> str:
        return f"port {self.port} with {'STARTTLS' if self.starttls else 'TLS from the first octet'}"


def for_trials(draft: Draft, **changes: str) -> dict[str, str]:
    """The variables for a trial: without the spool, which a service that is running may have open."""
    environ = draft.environment(**changes)
    if environ.get("RELAY_PLUGIN") == "spool":
        environ["RELAY_PLUGIN"] = environ.get("SPOOL_RELAY", "smtps")
    return environ


def ways(leg: Leg, port: int | None) -> list[Way]:
    """What to try, the best first. A port that somebody has named is tried with both kinds of TLS."""
    if port is not None:
        both = [Way(port, False), Way(port, True)]
        return both[::-1] if port in leg.starttls_ports else both
    return [Way(leg.implicit_port, False), *(Way(each, True) for each in leg.starttls_ports)]


async def search(leg: Leg, host: str, port: int | None, draft: Draft) -> tuple[Way | None, dict[Way, Finding]]:
    """The first way on which the server answers with a certificate that verifies; and why others failed."""
    order = ways(leg, port)
    tasks = {asyncio.create_task(_obstacle(leg, host, way, draft)): way for way in order}
    failed: dict[Way, Finding] = {}
    good: list[Way] = []
    pending = set(tasks)
    try:
        while pending:
            limit = _GRACE_SECONDS if good else None
            done, pending = await asyncio.wait(pending, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if (obstacle := task.result()) is None:
                    good.append(tasks[task])
                else:
                    failed[tasks[task]] = obstacle
            undecided = {tasks[task] for task in pending}
            if good and (not done or all(order.index(each) > order.index(_best(good, order)) for each in undecided)):
                break
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    return (_best(good, order) if good else None), failed


def _best(good: list[Way], order: list[Way]) -> Way:
    return min(good, key=order.index)


async def _obstacle(leg: Leg, host: str, way: Way, draft: Draft) -> Finding | None:
    """Why this way does not work; ``None`` if it does. No login is tried."""
    kept = {name: text for name, text in draft.environment().items() if not name.startswith("BACKEND_")}
    for name in (f"{leg.prefix}_CA_FILE", f"{leg.prefix}_EHLO_NAME"):
        if name in draft.values:
            kept[name] = draft.values[name]
    mail = leg.prefix == "BACKEND_SMTP"
    environ = kept | {
        "MAILDROP_PLUGIN": "none" if mail else "imap", "RELAY_PLUGIN": "smtps" if mail else "none",
        "PROVIDER": "generic", "POP3_LOGIN": "any" if mail else "backend",
        f"{leg.prefix}_HOST": host, f"{leg.prefix}_PORT": str(way.port), **tls_of(leg, way),
    }  # fmt: skip
    try:
        composition = await anyio.to_thread.run_sync(compose, environ)
    except SettingsMistake as mistake:
        return Finding(Level.BAD, "; ".join(mistake.lines))
    plugin = composition.relay if mail else composition.maildrop
    assert plugin is not None  # noqa: S101 (for the type checker)
    try:
        return next((each for each in await plugin.probe() if each.level is Level.BAD), None)
    finally:
        await plugin.aclose()


def tls_of(leg: Leg, way: Way) -> dict[str, str]:
    """The variables for the kind of TLS."""
    return {leg.starttls if way.starttls else f"{leg.prefix}_USE_SSL": "true"}


def missing(environ: Mapping[str, str]) -> tuple[str, ...]:
    """All mistakes in these settings, as the plugins themselves word them: ``VARIABLE: what is wrong``."""
    try:
        compose(environ)
    except SettingsMistake as mistake:
        return mistake.lines
    return ()


async def awaiting_consent(environ: Mapping[str, str]) -> dict[str, Authorizable]:
    """Account → credentials that wait for somebody's consent. Close them when it is done."""
    found: dict[str, Authorizable] = {}
    for account, plugins in credentials(environ).items():
        for plugin in plugins.values():
            if hasattr(plugin, "authorize"):
                one = cast(Authorizable, plugin)
                status = await one.status()
                if status.grant in ("device_code", "authorization_code") and status.error:
                    found[account] = one
                    continue
            await plugin.aclose()
    return found


async def refused_sender(environ: Mapping[str, str], sender: str, own: str) -> str:
    """What the provider says against mail from ``sender`` that it does not say against mail from ``own``.

    ``""``: nothing, before it has the message.
    """
    composition = await anyio.to_thread.run_sync(compose, {**environ, "MAILDROP_PLUGIN": "none"})
    relay = composition.relay
    assert relay is not None  # noqa: S101 (for the type checker)
    try:
        said = await _refusal(relay, sender, own)
        return said if said and not await _refusal(relay, own, own) else ""
    finally:
        await relay.aclose()
        for one in composition.credentials:
            await one.aclose()


async def _refusal(relay: Relay, sender: str, recipient: str) -> str:
    """Why a message with this envelope is refused for good; the transaction ends before there is one."""
    try:
        with anyio.fail_after(_TRANSACTION_SECONDS):
            async with relay.transaction(Client("127.0.0.1", "setup"), sender, {}) as transaction:
                await transaction.add_recipient(recipient, {})
    except Refused as refused:
        return refused.detail if refused.permanent else ""
    except (Failure, TimeoutError):
        # No verdict on the sender.
        return ""
    return ""
