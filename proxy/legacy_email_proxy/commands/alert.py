"""Try whether alerts reach you."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping

import anyio

from ..alerts.alert import trial_alert
from ..alerts.watch import channels_of, tell
from ..build import relays
from ..contracts import Failure, Level, SettingsMistake
from ..replies import printable
from ..settings import read
from ..settings.alerts import alert_mistakes

__all__ = ("add_arguments", "run")

_CLOSING_SECONDS = 360.0
"""How long credentials may take to close: the reply to a token's renewal can not be asked for twice."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One thing to do."""
    parser.add_argument(
        "what", metavar="test", choices=("test",), help="send a test message, and say what became of it"
    )
    parser.epilog = """\
It uses ALERT_WEBHOOK_URL, ALERT_MAIL_TO and ALERT_COMMAND, and needs no
running service.

example:
  %(prog)s test
"""


def run(options: argparse.Namespace) -> int:
    """Exit status 0: every way worked. 1: one did not. 2: none is set, or the settings can not work."""
    # What the relay would log stands in the answer.
    logging.getLogger("legacy_email_proxy").setLevel(logging.CRITICAL)
    return anyio.run(_test, os.environ, backend="asyncio")


async def _test(environ: Mapping[str, str]) -> int:
    settings, accounts = read(environ), await anyio.to_thread.run_sync(relays, environ)
    mistakes = alert_mistakes(settings, sends=any(account.relay is not None for account in accounts))
    if mistakes:
        raise SettingsMistake(*mistakes)
    channels = channels_of(settings, accounts)
    if not channels:
        raise SettingsMistake("ALERT_WEBHOOK_URL: not set, nor ALERT_MAIL_TO or ALERT_COMMAND, so nobody would be told")
    print("sending …", file=sys.stderr, flush=True)
    said = await tell(channels, trial_alert())
    for name, outcome in said.items():
        if isinstance(outcome, Exception):
            words = str(outcome) if isinstance(outcome, Failure) else f"{type(outcome).__name__}: {outcome}"
            print(f"{Level.BAD.value:<8} {name}: {printable(words)}")
        else:
            print(f"{Level.GOOD.value:<8} {name}: {printable(outcome)}")
    for channel in channels:
        await channel.aclose()
    with anyio.move_on_after(_CLOSING_SECONDS):
        for account in accounts:
            for credentials in account.credentials.values():
                await credentials.aclose()
    return int(any(isinstance(outcome, Exception) for outcome in said.values()))
