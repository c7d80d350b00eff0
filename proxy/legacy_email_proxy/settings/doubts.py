"""Settings that can be read but look wrong: each with what would go wrong, and what to do.

They are no mistakes, because some site may really mean them, so they do not stop the start. ``serve`` logs them and
``check`` shows them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from ..contracts import Secret, unwritable
from .reader import Settings, quoted

__all__ = ("LEGS", "Doubt", "Leg", "doubts")


@dataclass(frozen=True, slots=True)
class Doubt:
    """``variable`` is ``""`` if it is about the machine and not about a setting."""

    variable: str
    text: str
    advice: str


@dataclass(frozen=True, slots=True)
class Leg:
    """The variables of a leg's backend, and the ports on which its servers usually listen."""

    plugin: str
    prefix: str
    starttls: str
    implicit_port: int
    starttls_ports: tuple[int, ...]


LEGS = (
    Leg("MAILDROP_PLUGIN", "BACKEND_IMAP", "BACKEND_IMAP_USE_STARTTLS", 993, (143,)),
    Leg("RELAY_PLUGIN", "BACKEND_SMTP", "BACKEND_SMTP_USE_TLS", 465, (587, 25)),
)
_TOKEN_SETTINGS = (
    *("OAUTH2_GRANT", "OAUTH2_CLIENT_ID", "OAUTH2_CLIENT_SECRET", "OAUTH2_REFRESH_TOKEN", "OAUTH2_SERVICE_ACCOUNT"),
)
_OLDEST_SECONDS = 1_735_689_600
"""2025-01-01, before the first version: a clock that shows less is wrong."""


def doubts(settings: Settings, now: float | None = None) -> list[Doubt]:
    """All that looks wrong; ``now`` is the machine's clock, in seconds since 1970."""
    now = time.time() if now is None else now
    found = [*_clock(now), *_state_dir(settings), *_quotes(settings), *_unused_oauth2(settings)]
    for leg in LEGS:
        if settings[f"{leg.prefix}_HOST"] and settings[leg.plugin] != "none":
            found += _port(leg, settings)
    return found


def _clock(now: float) -> Iterator[Doubt]:
    if now < _OLDEST_SECONDS:
        shown = time.strftime("%Y-%m-%d", time.gmtime(now))
        yield Doubt("", f"this machine's clock says {shown}, so no certificate is valid", "set the clock (NTP)")


def _state_dir(settings: Settings) -> Iterator[Doubt]:
    if obstacle := unwritable(settings["STATE_DIR"]):
        text, advice = obstacle
        yield Doubt("STATE_DIR", f"what has to outlive a restart can not be kept: {text}", advice)


def _quotes(settings: Settings) -> Iterator[Doubt]:
    for setting in settings.declared:
        value = settings[setting.name]
        text = value.reveal() if isinstance(value, Secret) else value
        if setting.type in ("text", "secret") and isinstance(text, str) and quoted(text):
            yield Doubt(
                setting.name,
                "its value begins and ends with a quote, and they are a part of it",
                "remove them, unless you mean them: in an env file of podman or docker the value stands without quotes",
            )


def _unused_oauth2(settings: Settings) -> Iterator[Doubt]:
    variables = ("BACKEND_IMAP_CREDENTIALS", "BACKEND_SMTP_CREDENTIALS")
    given = [name for name in _TOKEN_SETTINGS if settings[name] is not None]
    graph = any(settings[name] == "graph" for name in ("MAILDROP_PLUGIN", "RELAY_PLUGIN", "SPOOL_RELAY"))
    if given and not graph and all(settings[variable] == "password" for variable in variables):
        advice = f"set {' and '.join(f'{variable}=oauth2' for variable in variables)}, or remove it"
        yield Doubt(given[0], "it is set, but both legs log in with a password", advice)


def _port(leg: Leg, settings: Settings) -> Iterator[Doubt]:
    variable = f"{leg.prefix}_PORT"
    port = settings[variable]
    usual = leg.starttls_ports[0]
    if port == leg.implicit_port and settings[leg.starttls]:
        yield Doubt(
            variable,
            f"{port} is the port for TLS from the first octet, but {leg.starttls} waits for a greeting without TLS",
            f"set {variable}={usual}, or remove {leg.starttls}",
        )
    elif port in leg.starttls_ports and settings[f"{leg.prefix}_USE_SSL"]:
        yield Doubt(
            variable,
            f"servers begin without TLS on port {port}, but {leg.prefix}_USE_SSL speaks TLS from the first octet",
            f"set {leg.starttls}=true, or {variable}={leg.implicit_port}",
        )
