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
from ..admin.checking import PROBE_SECONDS, doubtful, trials
from ..admin.queues import answered_by_service
from ..admin.socket import NOBODY_THERE, ask
from ..build import Account, Composition, compose
from ..contracts import Credentials, Failure, Finding, Level, SettingsMistake, SharedState
from ..replies import printable
from .report import Report
from .trial import Trial, send

__all__ = ("add_arguments", "doubt", "probe", "run")

_ANSWER_SECONDS = 10.0
"""How long the service that is running may take to say what it knows."""
_CLOSING_SECONDS = 360.0
"""How long credentials may take to close: the reply to a token's renewal can not be asked for twice. A second signal
ends the wait."""

_STOPPING = "stopping; a second signal ends it at once, but a token that is being renewed may then be lost"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Without options everything is tried; with a client, the accounts file is asked which account it would get."""
    parser.add_argument("--json", action="store_true", help="one JSON object with all findings, at the end")
    trial = parser.add_argument_group("send a test message through the whole proxy, as a device would")
    trial.add_argument("--send", metavar="ADDRESS", help="to whom; it is followed to the provider's receipt")
    sentence = "from whom; without it SMTP_SENDER, or BACKEND_SMTP_USER if that is an address, or the recipient"
    trial.add_argument("--from", dest="send_from", metavar="ADDRESS", help=sentence)
    about = parser.add_argument_group("which account would a client get; with --send: as which client")
    about.add_argument("--client", metavar="ADDRESS", help="its address")
    about.add_argument("--login", metavar="USER", default="", help="the local user whose password it proves")
    about.add_argument("--port", type=int, default=0, help="the port of the listener to which it comes")
    about.add_argument("--sender", metavar="ADDRESS", default="", help="from whom it sends; nothing for <>")
    about.add_argument("--recipient", metavar="ADDRESS", default="", help="to whom it sends")
    parser.epilog = """\
examples:
  %(prog)s
  %(prog)s --send me@firm.example
  %(prog)s --client 192.168.1.40 --sender scan@firm.example
"""


def run(options: argparse.Namespace) -> int:
    """Exit status 0: all works. 1: something failed. 2: the settings can not work, see the lines. 130: Ctrl-C."""
    # The findings say what a plugin would log; both on one screen would look like two problems.
    logging.getLogger("legacy_email_proxy").setLevel(logging.CRITICAL)
    report = Report(as_json=options.json)
    _understand(options)
    try:
        return anyio.run(_check, options, report, backend="asyncio")
    except SettingsMistake as mistake:
        if not options.json:
            raise
        for line in mistake.lines:
            report.add("settings", Finding(Level.BAD, line))
        report.close()
        return 2


def _understand(options: argparse.Namespace) -> None:
    """Raises :class:`SettingsMistake` for options that do not go together."""
    if options.send is None:
        if options.send_from is not None:
            raise SettingsMistake("--from: without --send there is no message")
        if options.client is None and (options.login or options.port or options.sender or options.recipient):
            raise SettingsMistake("--client: not given; --login, --port, --sender and --recipient are about a client")
    elif options.sender or options.recipient:
        raise SettingsMistake("--send: it names the recipient, and --from the sender; leave --sender, --recipient out")
    for option, address in (("--send", options.send), ("--from", options.send_from)):
        if address is not None and not ("@" in address and address.isprintable() and not set(" <>,") & set(address)):
            raise SettingsMistake(f"{option}: {address!r} is no address; write one like scan@firm.example")
    if options.client is not None and canonical(options.client) is None:
        raise SettingsMistake(f"--client: {options.client!r} is no address")


async def _check(options: argparse.Namespace, report: Report) -> int:
    composition = compose()
    if options.client is not None and options.send is None:
        return _choices(composition, options, report)
    report.add("settings", Finding(Level.GOOD, "no mistake found"))
    doubt(composition, report, os.environ)
    status = 1
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
                await probe(composition, report)
                await _troubles(composition, report)
                if options.send is not None:
                    await _send(options, report)
            with anyio.move_on_after(_CLOSING_SECONDS):
                for credentials in _credentials(composition):
                    await credentials.aclose()
            group.cancel_scope.cancel()
    report.close(whole=not probing.cancelled_caught)
    return _leave(status if probing.cancelled_caught else int(report.bad))


def _ended_by(number: signal.Signals) -> int:
    return 130 if number == signal.SIGINT else 1


def _leave(status: int) -> NoReturn:
    """End the process at once: a probe's thread may be waiting, and the interpreter would wait for that thread."""
    sys.stdout.flush()
    os._exit(status)


def doubt(composition: Composition, report: Report, environ: Mapping[str, str]) -> None:
    """Warn of settings that can be read but look wrong."""
    for account, finding in doubtful(composition, environ):
        report.add("settings", finding, account=account)


async def _waiting(account: Account) -> list[Finding]:
    """How many messages wait in the queue that a running service has open. A relay's probe can't open it then."""
    assert account.queue is not None  # noqa: S101 (for the type checker)
    asked = answered_by_service(account.settings["STATE_DIR"], account.queue, "count")
    try:
        with anyio.fail_after(PROBE_SECONDS):
            counts = [item async for item in asked if isinstance(item, Mapping) and item["account"] == account.name]
    except (*NOBODY_THERE, Failure, TimeoutError):
        return []
    stuck = sum(one["messages"] for one in counts if one["state"] in ("dead", "set aside"))
    text = f"the service that is running has {sum(one['messages'] for one in counts)} messages in its spool"
    if stuck:
        advice = "look with `legacy-email-proxy spool list`"
        return [Finding(Level.WARNING, f"{text}, {stuck} of them given up", advice)]
    return [Finding(Level.GOOD, text)]


async def probe(composition: Composition, report: Report) -> None:
    """Try everything, one after the other."""
    for account in composition.accounts:
        if account.queue is not None:
            for finding in await _waiting(account):
                report.add("relay", finding, account=account.name, plugin=account.settings["RELAY_PLUGIN"])
    if composition.shared is not None:
        async with report.waiting("trying shared state"):
            report.add("shared state", await _shared(composition.shared), plugin="postgresql")
    for trial in trials(composition.accounts, composition.filters):
        async with report.waiting(f"trying {trial.label}"):
            found = await trial.findings(close=True)
        for finding in found:
            report.add(trial.leg, finding, account=trial.account, plugin=trial.plugin)


async def _shared(state: SharedState) -> Finding:
    try:
        await state.change("check", "", lambda octets: octets)
    except Failure as failure:
        return Finding(Level.BAD, failure.detail, f"look at {failure.look_at}")
    return Finding(Level.GOOD, "the database that all proxies share takes changes")


async def _troubles(composition: Composition, report: Report) -> None:
    """What the service that is running now takes for trouble: `check` itself sees no device that is silent."""
    with suppress(*NOBODY_THERE, Failure), anyio.move_on_after(_ANSWER_SECONDS) as scope:
        async with aclosing(ask(composition.settings["STATE_DIR"], "troubles")) as troubles:
            async for one in troubles:
                if isinstance(one, Mapping):
                    report.add("service", Finding(Level.WARNING, printable(one["says"]), one["advice"]))
    if scope.cancelled_caught:
        text = f"the service that is running does not answer within {_ANSWER_SECONDS:g} s"
        report.add("service", Finding(Level.BAD, text, "look at its log, and restart it"))


def _credentials(composition: Composition) -> Iterator[Credentials]:
    for account in composition.accounts:
        yield from account.credentials.values()


async def _send(options: argparse.Namespace, report: Report) -> None:
    trial = Trial(options.send, options.send_from, options.client or "127.0.0.1", options.login, options.port)
    async with report.waiting(f"sending a test message to {options.send}"):
        found = await send(trial)
    for finding in found:
        report.add("send", finding)


def _choices(composition: Composition, options: argparse.Namespace, report: Report) -> int:
    """Say which rule fits the client on each leg; exit status 1 if there is none on either."""
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
            text = f"account {match.account}, by the rule at {match.rule.place}"
            report.add(f"{leg}{only}", Finding(Level.GOOD, text))
        if not found:
            report.add(leg, Finding(Level.WARNING, "no rule fits, so it gets no account"))
        met |= bool(found)
    report.close(whole=met)
    return int(not met)
