"""List the devices, with the last success and trouble of each."""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
from collections.abc import Mapping
from typing import Any

from ..history.database import TooNew, open_to_read
from ..history.families import family_of
from ..history.queries import devices
from .history import fitted, history_file, local_time, no_history

__all__ = ("add_arguments", "run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How they are shown."""
    parser.add_argument("--json", action="store_true", help="one JSON object a line, times in seconds since 1970")
    parser.epilog = """\
Those that came last stand at the end. It works while the service runs and
while it does not. `history --client ADDRESS` tells all about one of them.

example:
  %(prog)s --json
"""


def run(options: argparse.Namespace) -> int:
    """Exit status 0: told, also if that was nothing. 1: there is no history, or it can not be read."""
    path = history_file()
    try:
        connection = open_to_read(path)
        try:
            found = devices(connection)
        finally:
            connection.close()
    except (FileNotFoundError, PermissionError, sqlite3.Error, TooNew) as error:
        return no_history(path, error)
    for device in found:
        probably = family_of(device.get("helo", ""))
        if options.json:
            print(json.dumps({**device, **({"probably": probably} if probably else {})}, ensure_ascii=False))
        elif sys.stdout.isatty():
            _show(device, probably)
        else:
            print("  ".join([device["client"], *_lines(device, probably, short=False)]))
    if sys.stdout.isatty() and not options.json:
        print("1 device" if len(found) == 1 else f"{len(found)} devices")
    return 0


def _show(device: Mapping[str, Any], probably: str) -> None:
    head, *rest = _lines(device, probably, short=True)
    print(fitted(f"{device['client']:<15}  {head}"))
    for line in rest:
        print(fitted(f"{'':<17}{line}"))


def _lines(device: Mapping[str, Any], probably: str, *, short: bool) -> list[str]:
    """What is known of it in words: one line at a terminal each, and one after the other in a pipe."""
    name = f"calls itself {device['helo']}" if "helo" in device else ""
    what = f"{name}, probably {probably}" if probably else name
    counts = [f"{device['messages']} sent"] if device["messages"] else []
    if device["pop3_sessions"]:
        counts.append(f"{device['retrieved']} read in {device['pop3_sessions']} sessions, {device['deleted']} deleted")
    if device["refusals"]:
        counts.append(f"{device['refusals']} refusals")
    success = local_time(device["success"], short=short) if "success" in device else "never"
    lines = [
        what,
        f"first {local_time(device['first'], short=short)}, last {local_time(device['last'], short=short)}",
        f"last success {success}; {', '.join(counts)}".removesuffix("; "),
    ]
    if "trouble" in device:
        lines.append(f"last trouble {local_time(device['trouble'], short=short)}: {device.get('trouble_text', '')}")
    if "advice" in device:
        lines.append(f"what to do: {device['advice']}")
    return [line for line in lines if line]
