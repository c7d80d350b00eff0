"""Tell whether both listeners answer, for containers: exit status 0 or 1."""

from __future__ import annotations

import argparse
import ipaddress
import socket
import sys

from ..composition import NONE
from ..settings import Settings, read

__all__ = ("add_arguments", "run")

_ANSWER_SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options: the addresses are those of the settings."""


def run(options: argparse.Namespace) -> int:
    """Exit status 0 when every open listener gave a greeting; a refusal is one too, since somebody wrote it."""
    settings = read()
    failures = [*_silent(settings, "POP3", "MAILDROP_PLUGIN"), *_silent(settings, "SMTP", "RELAY_PLUGIN")]
    for line in failures:
        print(f"legacy-email-proxy: {line}", file=sys.stderr)
    return 1 if failures else 0


def _silent(settings: Settings, leg: str, plugin: str) -> list[str]:
    if settings[plugin] == NONE:
        return []
    failures = []
    for address in settings[f"{leg}_BIND_ADDR"]:
        place = (_reachable(address), settings[f"{leg}_BIND_PORT"])
        try:
            with socket.create_connection(place, timeout=_ANSWER_SECONDS) as connection:
                if not connection.recv(1):
                    failures.append(f"{leg} at {place[0]} port {place[1]} hung up without a word")
        except OSError as error:
            failures.append(f"{leg} at {place[0]} port {place[1]} does not answer: {error.strerror or error}")
    return failures


def _reachable(address: str) -> str:
    """Where to knock for a listener that is bound to ``address``: a wildcard is reached by loopback."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if not parsed.is_unspecified:
        return address
    return "127.0.0.1" if parsed.version == 4 else "::1"
