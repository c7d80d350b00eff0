"""Give the proxy consent to use a mailbox with OAuth2, once; or show how each account's token stands."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import datetime
from typing import cast

import anyio
from anyio.to_thread import run_sync

from .. import events
from ..composition import credentials
from ..contracts import DEFAULT_ACCOUNT, Authorizable, Failure, SettingsMistake

__all__ = ("add_arguments", "run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which account, or all of them."""
    parser.add_argument("account", nargs="?", default=DEFAULT_ACCOUNT, metavar="ACCOUNT", help="(%(default)s)")
    parser.add_argument("--status", action="store_true", help="show each account's token, without any secret")
    parser.add_argument(
        "--listen", action="store_true", help="the browser runs on this machine: catch its way back on a loopback port"
    )


def run(options: argparse.Namespace) -> int:
    """Exit status 0: done. 1: there is no consent, or the last renewal failed. 2: the settings can not work."""
    events.configure("warning", "text")
    try:
        return anyio.run(_authorize, options, backend="asyncio")
    except KeyboardInterrupt:
        # A thread may be waiting for a line, and the interpreter would wait for the thread.
        print(flush=True)
        os._exit(1)


class _Terminal:
    """See :class:`~legacy_email_proxy.contracts.Dialogue`."""

    def say(self, text: str) -> None:
        print(text, flush=True)

    async def ask(self, question: str) -> str:
        print(question, end="", flush=True)
        return await run_sync(sys.stdin.readline, abandon_on_cancel=True)


async def _authorize(options: argparse.Namespace) -> int:
    found = [cast(Authorizable, plugin) for plugin in credentials(os.environ).values() if hasattr(plugin, "authorize")]
    if not found:
        raise SettingsMistake(
            "BACKEND_IMAP_CREDENTIALS, BACKEND_SMTP_CREDENTIALS: nothing here needs a consent; set them to oauth2"
        )
    failed = False
    for plugin in found:
        try:
            failed |= await (_show(plugin) if options.status else _consent(plugin, options))
        finally:
            await plugin.aclose()
    return int(failed)


async def _consent(plugin: Authorizable, options: argparse.Namespace) -> bool:
    try:
        await plugin.authorize(options.account, _Terminal(), listen=options.listen)
    except Failure as failure:
        print(f"legacy-email-proxy: {failure}", file=sys.stderr)
        return True
    print(f"Done: the token for account {options.account} is stored; a running proxy uses it at its next login.")
    return False


async def _show(plugin: Authorizable) -> bool:
    failed = False
    for status in await plugin.status():
        failed |= bool(status.error)
        print(f"account {status.account}")
        print(f"  grant         {status.grant or '-'}")
        print(f"  scope         {status.scope or '-'}")
        print(f"  expires       {_shown(status.expires)}")
        print(f"  last refresh  {_shown(status.refreshed)}")
        print(f"  last error    {status.error or '-'}")
    return failed


def _shown(moment: datetime | None) -> str:
    return "-" if moment is None else moment.astimezone().isoformat(" ", "seconds")
