"""Tell whether all listeners answer: exit status 0 or 1."""

from __future__ import annotations

import argparse
import ipaddress
import json
import socket
import ssl
import sys
from contextlib import aclosing

import anyio

from ..access import canonical, within
from ..admin.readiness import Report
from ..admin.socket import NOBODY_THERE, ask
from ..build import NONE
from ..contracts import Failure
from ..listeners import PLUGIN_OF
from ..settings import Settings, read

__all__ = ("add_arguments", "run")

_ANSWER_SECONDS = 5.0
_READY_SECONDS = 60.0
"""The service may have to ask a backend first, and each of its waits has an end."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to look at. The addresses are those of the settings."""
    parser.add_argument("--ready", action="store_true", help="also the backends, the spool, the tokens and the disk")
    parser.add_argument("--json", action="store_true", help="with --ready: what was found, as one JSON object")
    parser.epilog = """\
A restart helps no service that is only not ready, so the image's HEALTHCHECK
is without --ready.

examples:
  %(prog)s
  %(prog)s --ready
"""


def run(options: argparse.Namespace) -> int:
    """Exit status 0 when every open listener gave a greeting. A refusal counts too: it shows that the service runs."""
    settings = read()
    if options.ready:
        return _ready(settings, as_json=options.json)
    failures = [line for listener in PLUGIN_OF for line in _silent(settings, listener)]
    for line in failures:
        print(f"legacy-email-proxy: {line}", file=sys.stderr)
    return 1 if failures else 0


def _ready(settings: Settings, *, as_json: bool) -> int:
    """What the running service says of itself."""
    try:
        report = anyio.run(_report, settings, backend="asyncio")
    except TimeoutError:
        print(f"legacy-email-proxy: the service does not answer within {_READY_SECONDS:g} s", file=sys.stderr)
        return 1
    except NOBODY_THERE:
        print("legacy-email-proxy: no service is running with this STATE_DIR", file=sys.stderr)
        return 1
    except Failure as failure:
        print(f"legacy-email-proxy: {failure}", file=sys.stderr)
        return 1
    print(json.dumps(report.plain()) if as_json else "\n".join(report.lines()))
    return 0 if report.ready else 1


async def _report(settings: Settings) -> Report:
    with anyio.fail_after(_READY_SECONDS):
        return await _asked(settings)


async def _asked(settings: Settings) -> Report:
    async with aclosing(ask(settings["STATE_DIR"], "ready")) as answers:
        answer = await anext(answers)
        assert isinstance(answer, dict)  # noqa: S101 (for the type checker)
        # The whole answer is read, so that the service does not see a command that hung up.
        async for _ in answers:
            pass
        return Report.of(answer)


def _silent(settings: Settings, listener: str) -> list[str]:
    port = settings[f"{listener}_BIND_PORT"]
    if settings[PLUGIN_OF[listener]] == NONE or port is None:
        return []
    failures = []
    for address in settings[f"{listener}_BIND_ADDR"]:
        place = (_reachable(address), port)
        try:
            with _connected(place, settings, tls=listener.endswith("S")) as connection:
                if not connection.recv(1):
                    failures.append(f"{listener} at {place[0]} port {place[1]} closed without a greeting")
        except OSError as error:
            # A client that may not connect is told so in the clear, before any handshake.
            if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
                continue
            failures.append(f"{listener} at {place[0]} port {place[1]} does not answer: {error.strerror or error}")
    return failures


def _connected(place: tuple[str, int], settings: Settings, *, tls: bool) -> socket.socket:
    connection = socket.create_connection(place, timeout=_ANSWER_SECONDS)
    ours = canonical(connection.getsockname()[0])
    if ours is not None and within(ours, settings["PROXY_PROTOCOL_NETWORKS"] or ()):
        # As a balancer does that looks whether a server lives.
        connection.sendall(b"PROXY UNKNOWN\r\n")
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
