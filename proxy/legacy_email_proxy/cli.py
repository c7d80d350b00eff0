"""The command line: which command, which options; each command's work is in ``commands/``.

Loading the commands takes a third of a second, so :func:`main` does it, and not the import of this module: there a
Ctrl-C that comes meanwhile ends the process without the traceback of an import. So nothing is imported above it that
Python has not loaded at its own start.
"""

from __future__ import annotations

import os
import sys

from . import __version__

TYPE_CHECKING = False
"""Type checkers know this name, wherever it comes from; ``typing`` takes its time."""

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from types import ModuleType
    from typing import NoReturn

__all__ = ("commands", "main", "parser")

EXIT_MISTAKES = 2
EXIT_INTERRUPTED = 130
"""As of a program that SIGINT ended."""

EXIT_UNREAD = 141
"""As of a program that SIGPIPE ended."""

_EXAMPLES = """\
examples (all settings are environment variables):
  %(prog)s demo
  set -a; . ./mail-proxy.env; set +a; %(prog)s check
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; 2 means that the settings can not work."""
    _open_what_is_closed()
    try:
        try:
            return _run(arguments)
        finally:
            # Also after a help, and here, where it is noticed that nobody reads.
            sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return EXIT_UNREAD


def _run(arguments: Sequence[str] | None) -> int:
    import signal

    if not (given := sys.argv[1:] if arguments is None else arguments) or given[0] == "serve":
        # Until the service hears it: without this a reload that comes while it starts would end the process. What it
        # would have read is read now anyway.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Where the shell has us ignore SIGINT, as behind nohup, it stays ignored.
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heard:
        signal.signal(signal.SIGINT, _leave)
    try:
        from .contracts import SettingsMistake

        made = parser()
        if "_ARGCOMPLETE" in os.environ:
            # A shell asks what could stand at the cursor; this answers and ends the process.
            import argcomplete

            argcomplete.autocomplete(made)
        options = made.parse_args(arguments)
    finally:
        if heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return int(options.run(options))
    except SettingsMistake as mistake:
        for line in mistake.lines:
            print(f"legacy-email-proxy: {line}", file=sys.stderr)  # noqa: T201
        return EXIT_MISTAKES


def _open_what_is_closed() -> None:
    """Give the standard streams that were closed (``>&-``) to nobody.

    Python has None in their place, at which every flush fails; and the next socket would get the number of standard
    error, so that whatever a library writes there would go to a client.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # The lowest number that is free, so in this order it is the stream's own.
            nowhere = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(nowhere, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _leave(*_: object) -> NoReturn:
    """End at once: nothing has begun, and an exception in an import can be lost, or be told as a fault of a library."""
    os._exit(EXIT_INTERRUPTED)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; the ``run`` of what it gives is the command's."""
    import argparse

    kind = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(
        prog="legacy-email-proxy",
        description="Plain POP3 and SMTP for old devices, in front of IMAPS and SMTPS providers.",
        epilog=_EXAMPLES,
        formatter_class=kind,
    )
    # With the short form, too, as Python 3.11 and 3.12 leave the commands no more room than the longest option.
    made.add_argument("-V", "--version", action="version", version=f"legacy-email-proxy {__version__}")
    listed = made.add_subparsers(title="commands (COMMAND --help shows more)", metavar="COMMAND")
    for module in commands():
        sentence = (module.__doc__ or "").splitlines()[0]
        name = module.__name__.rpartition(".")[2]
        command = listed.add_parser(name, help=sentence, description=sentence, formatter_class=kind)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
        if name == "serve":
            made.set_defaults(run=module.run)
    return made


def commands() -> tuple[ModuleType, ...]:
    """The modules of all commands, in the order in which the help names them."""
    from .commands import authorize, check, demo, healthcheck, password, plugins, serve, settings, spool

    return (serve, demo, check, plugins, settings, spool, password, authorize, healthcheck)


def _nobody_reads() -> bool:
    """Whether who read our output has gone, as ``head`` does; then nothing more is written there."""
    import select

    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    if not output.poll(0):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())  # else the interpreter tries once more at its end, and complains
    os.close(nowhere)
    return True
