"""Try settings, plugins and backends, and say what to do."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import aclosing, suppress
from typing import NoReturn

import anyio

from ..access import canonical
from ..accounts.rules import Facts, Leg, candidates, choose
from ..admin.socket import NOBODY_THERE, ask
from ..build import Composition, compose
from ..contracts import Credentials, Failure, Filter, Finding, Level, Maildrop, Relay, SettingsMistake
from ..replies import printable
from ..settings import unknown_variables

__all__ = ("add_arguments", "run")

_PROBE_SECONDS = 90.0
_CLOSING_SECONDS = 360.0
"""How long credentials may take to close: the reply to a token's renewal can not be asked for twice. A second signal
ends the wait."""

_STOPPING = "stopping; a second signal ends it at once, but a token that is being renewed may then be lost"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Without options everything is tried; with a client, the accounts file is asked which account it would get."""
    about = parser.add_argument_group("which account would a client get, by the rules of ACCOUNTS_FILE")
    about.add_argument("--client", metavar="ADDRESS", help="its address")
    about.add_argument("--login", metavar="USER", default="", help="the local user whose password it proves")
    about.add_argument("--port", type=int, default=0, help="the port of the listener to which it comes")
    about.add_argument("--sender", metavar="ADDRESS", default="", help="from whom it sends; nothing for <>")
    about.add_argument("--recipient", metavar="ADDRESS", default="", help="to whom it sends")
    parser.epilog = """\
examples:
  %(prog)s
  %(prog)s --client 192.168.1.40 --sender scan@firm.example
"""


def run(options: argparse.Namespace) -> int:
    """Exit status 0: all works. 1: something failed. 2: the settings can not work, see the lines. 130: Ctrl-C."""
    # The findings say what a plugin would log; both on one screen would look like two problems.
    logging.getLogger("legacy_email_proxy").setLevel(logging.CRITICAL)
    return anyio.run(_check, options, backend="asyncio")


async def _check(options: argparse.Namespace) -> int:
    if options.client is None and (options.login or options.port or options.sender or options.recipient):
        raise SettingsMistake("--client: not given; --login, --port, --sender and --recipient are about a client")
    composition = compose()
    if options.client is not None:
        return _choices(composition, options)
    print(f"{Level.GOOD.value:<8} settings: no mistake found")
    for variable, meant in unknown_variables(os.environ, composition.settings.declared):
        _print("settings", Finding(Level.WARNING, f"{variable} is not a setting", f"did you mean {meant}?"))
    bad, status = True, 1
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as probing:

                async def stop() -> None:
                    nonlocal status
                    # Wait for the reply to a token's renewal, unless there is a second signal.
                    status = _ended_by(await anext(signals))
                    print(_STOPPING, file=sys.stderr)
                    probing.cancel()
                    _leave(_ended_by(await anext(signals)))

                group.start_soon(stop)
                bad = await _probe(composition)
                await _troubles(composition)
            with anyio.move_on_after(_CLOSING_SECONDS):
                for _, credentials in _credentials(composition):
                    await credentials.aclose()
            group.cancel_scope.cancel()
    return _leave(status if probing.cancelled_caught else int(bad))


def _ended_by(number: signal.Signals) -> int:
    return 130 if number == signal.SIGINT else 1


def _leave(status: int) -> NoReturn:
    """End the process at once: a probe's thread may be waiting, and the interpreter would wait for that thread."""
    sys.stdout.flush()
    os._exit(status)


async def _probe(composition: Composition) -> bool:
    """Try everything and print what is found; whether any of it is bad."""
    bad = False
    for label, credentials in _credentials(composition):
        # Passwords have no findings, since the legs try them. A token is fetched before the legs try it.
        for finding in await _findings(credentials):
            _print(label, finding)
            bad |= finding.level is Level.BAD
    for label, plugin in _plugins(composition):
        if plugin is None:
            _print(label, Finding(Level.GOOD, "this leg is closed"))
            continue
        # A plugin without findings is listed all the same, so that a filter which was forgotten is noticed.
        for finding in await _findings(plugin, close=True) or [Finding(Level.GOOD, "loaded")]:
            _print(label, finding)
            bad |= finding.level is Level.BAD
    return bad


async def _troubles(composition: Composition) -> None:
    """Print what the service that is running now takes for trouble; `check` itself sees no spool's age, no silence."""
    with suppress(*NOBODY_THERE, Failure):
        async with aclosing(ask(composition.settings["STATE_DIR"], "troubles")) as troubles:
            async for one in troubles:
                if isinstance(one, Mapping):
                    _print("running service", Finding(Level.WARNING, printable(one["says"]), one["advice"]))


def _plugins(composition: Composition) -> Iterator[tuple[str, Maildrop | Relay | Filter | None]]:
    """Each plugin to try, with the name by which the user knows it."""
    for account in composition.accounts:
        before = f"{account.name} " if account.name else ""
        yield f"{before}maildrop {account.settings['MAILDROP_PLUGIN']}", account.maildrop
        yield f"{before}relay {account.settings['RELAY_PLUGIN']}", account.relay
    for name, one in composition.filters.items():
        yield f"filter {name}", one


def _credentials(composition: Composition) -> Iterator[tuple[str, Credentials]]:
    for account in composition.accounts:
        before = f"{account.name} " if account.name else ""
        for name, one in account.credentials.items():
            yield f"{before}credentials {name}", one


def _choices(composition: Composition, options: argparse.Namespace) -> int:
    """Print which rule fits the client on each leg; exit status 1 if there is none on either."""
    if canonical(options.client) is None:
        raise SettingsMistake(f"--client: {options.client!r} is no address")
    if not composition.rules:
        raise SettingsMistake("--client: without ACCOUNTS_FILE there is one account, and it is everybody's")
    met = False
    for leg, sender in ((Leg.POP3, None), (Leg.SMTP, options.sender)):
        facts = Facts(leg, options.client, options.port, options.login, sender)
        found = candidates(composition.rules, facts)
        if leg is Leg.SMTP and options.recipient:
            chosen = choose(found, options.recipient)
            found = (chosen,) if chosen else ()
        for match in found:
            only = "" if match.recipients is None else f" to {', '.join(sorted(match.recipients.entries))}"
            _print(f"{leg}{only}", Finding(Level.GOOD, f"account {match.account}, by the rule at {match.rule.place}"))
        if not found:
            _print(leg, Finding(Level.WARNING, "no rule fits, so it gets no account"))
        met |= bool(found)
    return int(not met)


async def _findings(plugin: Maildrop | Relay | Filter | Credentials, *, close: bool = False) -> list[Finding]:
    found: list[Finding] = []
    with anyio.move_on_after(_PROBE_SECONDS) as scope:
        try:
            found = [*await plugin.probe()]
            if close:
                await plugin.aclose()
        except Exception as error:
            found.append(Finding(Level.BAD, f"the plugin's own probe failed: {type(error).__name__}: {error}"))
    if scope.cancelled_caught:
        found.append(Finding(Level.BAD, f"no answer within {_PROBE_SECONDS:g} seconds", "is the host the right one?"))
    return found


def _print(label: str, finding: Finding) -> None:
    advice = f" -> {finding.advice}" if finding.advice else ""
    print(f"{finding.level.value:<8} {label}: {finding.text}{advice}", flush=True)
