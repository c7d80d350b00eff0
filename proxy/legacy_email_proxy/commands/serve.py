"""Serve POP3 and SMTP until stopped (also without a command)."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress

import anyio

from .. import heaps, log
from ..build import compose
from ..contracts import SettingsMistake, in_container
from ..event_loop import loop_options
from ..history import recording
from ..service import serve
from ..service_manager import ServiceManager
from ..settings import doubts, read, unknown_variables
from ..signals import Signals, Stopped

__all__ = ("add_arguments", "run")

_log = logging.getLogger("legacy_email_proxy.settings")
_RESTART_SECONDS = 20.0
_LAST_WORDS = f"""\
Change that, and try it with the same options as before: … run --rm … IMAGE check
This container ends in {_RESTART_SECONDS:g} s, not at once: its engine may restart it again and again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options: everything is a variable."""
    parser.epilog = """\
SIGTERM and SIGINT stop it, SIGHUP has it read its settings and files anew.

example:
  set -a; . ./mail-proxy.env; set +a; %(prog)s
"""


def run(options: argparse.Namespace) -> int:
    """Serve until stopped; a clean stop ends the process with exit status 0 and does not return."""
    alone = _alone(os.environ)
    try:
        return _serve()
    except SettingsMistake as mistake:
        if not alone:
            raise
        for line in mistake.lines:
            print(f"legacy-email-proxy: {line}", file=sys.stderr)
        print(_LAST_WORDS, file=sys.stderr)
        _wait_for_a_signal(_RESTART_SECONDS)
        return 2


def _alone(environ: Mapping[str, str]) -> bool:
    """Whether nobody but a container's engine looks after this process. With ``--restart=always`` that starts it anew
    in the moment in which it ends, so that the log has nothing else than the same mistake a thousand times. systemd
    and Kubernetes wait by themselves.
    """
    others = ("NOTIFY_SOCKET", "KUBERNETES_SERVICE_HOST")
    return os.getpid() == 1 and in_container() and not any(environ.get(each) for each in others)


def _wait_for_a_signal(seconds: float) -> None:
    """The first process of a container gets no signal that it does not wait for."""
    numbers = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    signal.sigtimedwait(numbers, seconds)


def _serve() -> int:
    heaps.limit()
    manager = ServiceManager(os.environ)
    # Before any plugin is made, because a plugin's constructor may write to the log.
    settings = read()
    log.configure(settings["LOG_LEVEL"], settings["LOG_FORMAT"])
    options = loop_options(settings["EVENT_LOOP"])
    anyio.run(_serve_and_leave, manager, backend="asyncio", backend_options=options)
    return 0


async def _serve_and_leave(manager: ServiceManager) -> None:
    with Signals(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        # In a thread, as at a reload, so that a plugin which can not be made in a thread fails now and not then.
        made = anyio.to_thread.run_sync(compose, abandon_on_cancel=True)
        with suppress(Stopped):
            composition = await signals.unless_stopped(made)
            for variable, meant in unknown_variables(os.environ, composition.settings.declared):
                log.event(_log, logging.WARNING, "unknown variable", variable=variable, did_you_mean=meant)
            for account in composition.accounts:
                whose = {"account": account.name} if account.name else {}
                for doubt in doubts(account.settings):
                    facts = {"variable": doubt.variable or "(none)", **whose, "cause": doubt.text}
                    log.event(_log, logging.WARNING, "setting in doubt", **facts, advice=doubt.advice)
            # Around all of it: the spool delivers from its start on, and until it is closed.
            with recording(composition.settings):
                await serve(composition, signals, recompose=lambda former: compose(former=former), manager=manager)
    # An ordinary exit waits for every thread, and one that waits for a dead resolver, backend or disk would hold the
    # process until it is killed. The drain has finished all that must be finished, or its time is over.
    logging.shutdown()
    os._exit(0)
