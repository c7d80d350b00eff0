"""Tell whether all listeners answer: exit status 0 or 1."""

from __future__ import annotations

import argparse
import ipaddress
import socket
import ssl
import sys

from ..build import NONE
from ..listeners import PLUGIN_OF
from ..settings import Settings, read

__all__ = ("add_arguments", "run")

_ANSWER_SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options: the addresses are those of the settings."""


def run(options: argparse.Namespace) -> int:
    """Exit status 0 when every open listener gave a greeting. A refusal counts too: it shows that the service runs."""
    settings = read()
    failures = [line for listener in PLUGIN_OF for line in _silent(settings, listener)]
    for line in failures:
        print(f"legacy-email-proxy: {line}", file=sys.stderr)
    return 1 if failures else 0


def _silent(settings: Settings, listener: str) -> list[str]:
    port = settings[f"{listener}_BIND_PORT"]
    if settings[PLUGIN_OF[listener]] == NONE or port is None:
        return []
    failures = []
    for address in settings[f"{listener}_BIND_ADDR"]:
        place = (_reachable(address), port)
        try:
            with _connected(place, tls=listener.endswith("S")) as connection:
                if not connection.recv(1):
                    failures.append(f"{listener} at {place[0]} port {place[1]} closed without a greeting")
        except OSError as error:
            # A client that may not connect is told so in the clear, before any handshake.
            if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
                continue
            failures.append(f"{listener} at {place[0]} port {place[1]} does not answer: {error.strerror or error}")
    return failures


def _connected(place: tuple[str, int], *, tls: bool) -> socket.socket:
    connection = socket.create_connection(place, timeout=_ANSWER_SECONDS)
    if not tls:
        return connection
    # This connection is to our own process on this machine, so there is no need to verify its certificate.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        return context.wrap_socket(connection)
    except OSError:
        connection.close()
        raise


def _reachable(address: str) -> str:
    """The address to connect to for a listener that is bound to ``address``: loopback for a wildcard."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if not parsed.is_unspecified:
        return address
    return "127.0.0.1" if parsed.version == 4 else "::1"
