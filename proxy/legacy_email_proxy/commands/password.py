"""Make the hash of a local user's password (ACCOUNTS_FILE)."""

from __future__ import annotations

import argparse
import getpass
import sys

from ..accounts.users import PasswordHash
from ..contracts import SettingsMistake

__all__ = ("add_arguments", "run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options: a password on a command line would be seen by everybody on the machine."""
    parser.epilog = """\
It asks twice at a terminal, else it reads one line. The accounts file takes
the hash that it prints, in quotes:
  [users]
  ann = "HASH"
"""


def run(options: argparse.Namespace) -> int:
    """Ask twice at a terminal, else read one line; print the hash."""
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") != password:
            raise SettingsMistake("password: the two are not the same")
    else:
        password = sys.stdin.readline().removesuffix("\n").removesuffix("\r")
    if not password:
        raise SettingsMistake("password: it is empty")
    print(PasswordHash.of(password))
    return 0
