"""The command line: which command, which options; each command's work is in ``commands/``.

Loading a command takes a quarter of a second. :func:`main` does it, not the import of this module, so that Ctrl-C
during that time ends the process without a traceback. For the same reason this module imports nothing at its top that
Python has not loaded already. Only the command that is asked for is loaded: the service would otherwise keep the code
of all the others in memory for as long as it runs.
"""

from __future__ import annotations

import os
import sys

from . import __version__

TYPE_CHECKING = False
"""Type checkers treat this name like ``typing.TYPE_CHECKING``, and importing ``typing`` takes time."""

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from types import ModuleType
    from typing import Any, NoReturn

__all__ = ("COMMANDS", "commands", "main", "parser")

COMMANDS = (
    *("serve", "demo", "setup", "check", "plugins", "settings", "spool", "history", "devices", "trace", "alert"),
    *("unit", "password", "authorize", "healthcheck"),
)
"""In the order in which the help names them; each is a module in ``commands/``."""

_DEFAULT = "serve"

EXIT_NOT_WRITTEN = 1
"""What every Unix tool ends with when its output can not be written."""

EXIT_MISTAKES = 2
EXIT_INTERRUPTED = 130
"""What a shell reports for a program that SIGINT ended."""

EXIT_BROKEN_PIPE = 141
"""What a shell reports for a program that SIGPIPE ended."""

_EXAMPLES = """\
example (all settings are environment variables):
  set -a; . ./mail-proxy.env; set +a; %(prog)s check
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; 2 means that the settings can not work."""
    _open_what_is_closed()
    try:
        try:
            return _run(arguments)
        finally:
            # At the interpreter's own end, a reader that is gone would give a traceback.
            sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return EXIT_BROKEN_PIPE
    except OSError as error:
        import errno

        # Of a file, an error has the name.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO) or error.filename is not None:
            raise
        _discard_output()
        print(f"legacy-email-proxy: the output can not be written: {error.strerror}", file=sys.stderr)  # noqa: T201
        return EXIT_NOT_WRITTEN


def _run(arguments: Sequence[str] | None) -> int:
    import signal

    named = next(iter(sys.argv[1:] if arguments is None else arguments), _DEFAULT)
    if named == _DEFAULT:
        # Until the service handles SIGHUP, it would end the process. A reload that is asked for while the service
        # starts is not needed: the settings are being read now.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Where the process was started with SIGINT ignored, as by nohup, it stays ignored.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, _leave)
    try:
        from .contracts import SettingsMistake

        completing = "_ARGCOMPLETE" in os.environ
        made = parser((named,) if named in COMMANDS and not completing else COMMANDS)
        if completing:
            # A shell asks what could stand at the cursor; this answers and ends the process.
            import argcomplete

            argcomplete.autocomplete(made)
        options = made.parse_args(arguments)
    finally:
        if interruptible:
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
    """End at once. Nothing has begun yet, and an exception in the middle of an import may be swallowed, or reported as
    an error of a library.
    """
    os._exit(EXIT_INTERRUPTED)


def parser(names: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser of these commands. Its result has the ``run`` of the command's module as ``run``."""
    import argparse

    kind = argparse.RawDescriptionHelpFormatter

    class OfCommands(argparse.RawDescriptionHelpFormatter):
        def _format_action(self, action: argparse.Action) -> str:
            text = super()._format_action(action)
            # The help is to fit on one screen, so the list of commands has no line of its own above it.
            return text.partition("\n")[2] if isinstance(action, argparse._SubParsersAction) else text

    def of_commands(prog: str) -> argparse.HelpFormatter:
        formatter = OfCommands(prog)
        # Python 3.11 and 3.12 forget the indent of the commands' names, and break the line behind the longest.
        formatter._action_max_length = 15
        return formatter

    class Parser(argparse.ArgumentParser):
        def _print_message(self, message: str, file: Any = None) -> None:
            # Newer Pythons ignore an error here, and the exit status would say that the help was read.
            (file or sys.stderr).write(message)

    made = Parser(
        prog="legacy-email-proxy",
        description="Plain POP3 and SMTP for old devices, in front of IMAPS and SMTPS providers.",
        epilog=_EXAMPLES,
        formatter_class=of_commands,
        add_help=False,
    )
    # Only in the usage line: with all commands, the help is to fit on one screen.
    made.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    version = f"legacy-email-proxy {__version__}"
    made.add_argument("-V", "--version", action="version", version=version, help=argparse.SUPPRESS)
    listed = made.add_subparsers(title="commands (COMMAND --help shows more)", metavar="COMMAND")
    for module in commands(names):
        sentence = (module.__doc__ or "").splitlines()[0]
        name = module.__name__.rpartition(".")[2]
        command = listed.add_parser(name, help=sentence, description=sentence, formatter_class=kind)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
        if name == _DEFAULT:
            made.set_defaults(run=module.run)
    return made


def commands(names: Sequence[str] = COMMANDS) -> tuple[ModuleType, ...]:
    """The modules of these commands."""
    from importlib import import_module

    return tuple(import_module(f"{__package__}.commands.{name}") for name in names)


def _reader_is_gone() -> bool:
    """Whether the reader of our output is gone, as ``head`` after ten lines. Then output goes to the null device."""
    import select

    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    if not output.poll(0):
        return False
    _discard_output()
    return True


def _discard_output() -> None:
    """Otherwise the interpreter flushes again at its end, and prints an error."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
