"""Give the consent that OAuth2 needs, once; or show the tokens.

Their status is asked of the service. Where none runs, it is read from what is stored.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from contextlib import aclosing, suppress
from datetime import datetime
from typing import cast

import anyio
from anyio.to_thread import run_sync

from .. import log
from ..admin.socket import NOBODY_THERE, ask
from ..admin.tokens import status_of
from ..build import credentials
from ..contracts import Authorizable, Failure, SettingsMistake, TokenStatus
from ..settings import read

__all__ = ("Terminal", "add_arguments", "run")

_ONLY_ACCOUNT = "default"
"""How the account is called where there is no ACCOUNTS_FILE."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which account, or all of them."""
    parser.add_argument("account", nargs="?", metavar="ACCOUNT", help="of ACCOUNTS_FILE, where several can be meant")
    parser.add_argument("--status", action="store_true", help="show each account's token, without any secret")
    parser.add_argument(
        "--listen", action="store_true", help="the browser runs on this machine: take its answer on a loopback port"
    )
    parser.epilog = """\
examples:
  %(prog)s
  %(prog)s scanner
  %(prog)s --status
"""


def run(options: argparse.Namespace) -> int:
    """Exit status 0: done. 1: no consent, or the last renewal failed. 2: the settings can not work. 130: Ctrl-C."""
    log.configure("warning", "text")
    try:
        return anyio.run(_authorize, options, backend="asyncio")
    except Failure as failure:
        print(f"legacy-email-proxy: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        # A thread may be waiting for a line of input, and the interpreter would wait for that thread.
        print(flush=True)
        os._exit(130)


class Terminal:
    """See :class:`~legacy_email_proxy.contracts.Dialogue`."""

    def show(self, url: str, code: str = "") -> None:
        if code:
            self.say(f"Open {url} in any browser, on any machine, and enter the code {code}")
            self.say("Log in there as the mailbox's owner.")
        else:
            self.say(f"Open this address in a browser and log in as the mailbox's owner:\n\n{url}\n")

    def say(self, text: str) -> None:
        print(text, flush=True)

    async def ask(self, question: str) -> str:
        print(question, end="", flush=True)
        return await run_sync(sys.stdin.readline, abandon_on_cancel=True)


async def _authorize(options: argparse.Namespace) -> int:
    if options.status:
        with suppress(*NOBODY_THERE):
            return await _status_of_service(options)
    every = credentials(os.environ)
    try:
        found = {
            account: [cast(Authorizable, plugin) for plugin in plugins.values() if hasattr(plugin, "authorize")]
            for account, plugins in every.items()
        }
        failed = False
        for account in _selected({name for name, plugins in found.items() if plugins}, options):
            for plugin in found[account]:
                if options.status:
                    failed |= _show(account, await plugin.status())
                else:
                    failed |= await _consent(account, plugin, options)
        return int(failed)
    finally:
        for plugins in every.values():
            for each in plugins.values():
                await each.aclose()


async def _status_of_service(options: argparse.Namespace) -> int:
    """What the running service says of its tokens. Raises one of :data:`NOBODY_THERE` where none runs."""
    async with aclosing(ask(read()["STATE_DIR"], "tokens")) as answers:
        told = [answer async for answer in answers if isinstance(answer, Mapping)]
    selected = _selected({answer["account"] for answer in told}, options)
    # All of them are shown, also after one that failed.
    failed = [_show(answer["account"], status_of(answer)) for answer in told if answer["account"] in selected]
    return int(any(failed))


def _selected(accounts: set[str], options: argparse.Namespace) -> list[str]:
    """The accounts to act on. A consent is for one mailbox, so it is given for one account at a time."""
    if not accounts:
        raise SettingsMistake(
            "BACKEND_IMAP_CREDENTIALS, BACKEND_SMTP_CREDENTIALS: nothing here needs a consent; set them to oauth2"
        )
    named = options.account
    if named is not None and named not in accounts and {named, *accounts} != {_ONLY_ACCOUNT, ""}:
        raise SettingsMistake(f"ACCOUNT: {named!r} is no account with a consent; there is {_listed(accounts)}")
    if named is None and len(accounts) > 1 and not options.status:
        raise SettingsMistake(f"ACCOUNT: say whose consent it is; there is {_listed(accounts)}")
    return [named] if named in accounts else sorted(accounts)


def _listed(accounts: set[str]) -> str:
    return ", ".join(sorted(name or _ONLY_ACCOUNT for name in accounts))


async def _consent(account: str, plugin: Authorizable, options: argparse.Namespace) -> bool:
    try:
        await plugin.authorize(Terminal(), listen=options.listen)
    except Failure as failure:
        print(f"legacy-email-proxy: {failure}", file=sys.stderr)
        return True
    name = account or _ONLY_ACCOUNT
    print(f"Done: the token for account {name} is stored; a running proxy uses it at its next login.")
    return False


def _show(account: str, status: TokenStatus) -> bool:
    print(f"account {account or _ONLY_ACCOUNT}")
    print(f"  grant         {status.grant or '-'}")
    print(f"  scope         {status.scope or '-'}")
    print(f"  expires       {_shown(status.expires)}")
    print(f"  last refresh  {_shown(status.refreshed)}")
    print(f"  last error    {status.error or '-'}")
    return bool(status.error)


def _shown(moment: datetime | None) -> str:
    return "-" if moment is None else moment.astimezone().isoformat(" ", "seconds")
