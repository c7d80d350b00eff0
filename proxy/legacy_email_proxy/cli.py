"""The command line: which command, which options; each command's work is in ``commands/``."""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Sequence

from . import __version__
from .commands import authorize, check, demo, healthcheck, password, plugins, serve, settings, spool
from .contracts import SettingsMistake

__all__ = ("main",)

_COMMANDS = (serve, demo, check, plugins, settings, spool, password, authorize, healthcheck)

EXIT_MISTAKES = 2
EXIT_UNREAD = 141
"""As of a program that SIGPIPE ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; 2 means that the settings can not work."""
    parser = argparse.ArgumentParser(
        prog="legacy-email-proxy",
        description="Plain POP3 and SMTP for old devices, in front of IMAPS and SMTPS."
        " All settings are environment variables.",
    )
    parser.add_argument("--version", action="version", version=f"legacy-email-proxy {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")
    for module in _COMMANDS:
        name = module.__name__.rpartition(".")[2]
        sentence = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=sentence, description=sentence)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    parser.set_defaults(run=serve.run)
    options = parser.parse_args(arguments)
    try:
        status = int(options.run(options))
        sys.stdout.flush()
    except SettingsMistake as mistake:
        for line in mistake.lines:
            print(f"legacy-email-proxy: {line}", file=sys.stderr)  # noqa: T201
        return EXIT_MISTAKES
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return EXIT_UNREAD
    return status


def _nobody_reads() -> bool:
    """Whether who read our output has gone, as ``head`` does; then nothing more is written there."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    if not output.poll(0):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())  # else the interpreter tries once more at its end, and complains
    os.close(nowhere)
    return True
