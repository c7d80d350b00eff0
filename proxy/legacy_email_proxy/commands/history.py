"""Tell what was sent, fetched and refused, and what came of it.

It reads the file and asks nothing of the service, also to follow what happens: so it works while no service runs, and
goes on over a restart.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sqlite3
import sys
import textwrap
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ..history.database import FILE_NAME, TooNew, open_to_read
from ..history.queries import Filter, changed_since, last_change, start_of_last, walk
from ..settings import read

__all__ = ("add_arguments", "fitted", "history_file", "local_time", "no_history", "run")

_POLL_SECONDS = 1.0
_INDENT = " " * 21
"""As wide as a time."""

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which entries, and how they are shown."""
    parser.add_argument("--client", metavar="ADDRESS", help="of this device only")
    parser.add_argument("--account", metavar="NAME", help="of this account of ACCOUNTS_FILE")
    parser.add_argument("--sender", metavar="ADDRESS", help="from this address, or part of one; <> for none")
    parser.add_argument("--recipient", metavar="ADDRESS", help="to this address, or part of one")
    parser.add_argument("--since", metavar="WHEN", type=_since, help="as 30m, 12h, 2d, 2026-11-30 or 2026-11-30T08:00")
    parser.add_argument("--failed", action="store_true", help="only what was refused, failed or is delayed")
    parser.add_argument("--limit", metavar="N", type=_limit, default=100, help="the last N (100); 0: all")
    parser.add_argument("--follow", action="store_true", help="go on with what happens from now on")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, times in seconds since 1970")
    parser.epilog = """\
It works while the service runs and while it does not.

examples:
  %(prog)s --client 192.168.1.40 --since 2d
  %(prog)s --recipient ann@firm.example --failed
  %(prog)s --follow
"""


def run(options: argparse.Namespace) -> int:
    """Exit status 0: told, also if that was nothing. 1: there is no history, or it can not be read."""
    path = history_file()
    which = Filter(
        client=options.client,
        account=options.account,
        sender="" if options.sender == "<>" else options.sender,
        recipient=options.recipient,
        since=options.since,
        trouble=options.failed,
    )
    try:
        change = _tell(path, which, options)
        if options.follow:
            _follow(path, which, change, options)
    except (FileNotFoundError, PermissionError, sqlite3.Error, TooNew) as error:
        return no_history(path, error)
    return 0


def history_file() -> Path:
    """Where the history is, by the settings."""
    path: Path = read()["STATE_DIR"] / FILE_NAME
    return path


def no_history(path: Path, error: Exception) -> int:
    """Say why it can not be read; returns the exit status."""
    cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, FileNotFoundError):
        off = not read()["HISTORY_DAYS"]
        cause = "HISTORY_DAYS=0 has switched it off" if off else "nothing was recorded yet, or STATE_DIR is another one"
    print(f"legacy-email-proxy: no history in {path}: {cause}", file=sys.stderr)
    return 1


def _tell(path: Path, which: Filter, options: argparse.Namespace) -> int:
    told = 0
    progress = sys.stderr.isatty() and not sys.stdout.isatty()
    connection = open_to_read(path)
    try:
        change = last_change(connection)
        after = start_of_last(connection, which, options.limit) if options.limit else 0
        for page in walk(connection, which, after):
            for entry in page:
                _print(entry, options)
            told += len(page)
            if progress:
                print(f"\r{told} entries", end="", file=sys.stderr, flush=True)
    finally:
        connection.close()
    if progress:
        print("\r", end="", file=sys.stderr)
    if sys.stderr.isatty():
        older = f"; there are older ones, --limit {options.limit * 10} shows more" if after else ""
        sys.stdout.flush()
        print(f"{'1 entry' if told == 1 else f'{told} entries'}{older}", file=sys.stderr)
    return change


def _follow(path: Path, which: Filter, change: int, options: argparse.Namespace) -> None:
    while True:
        sys.stdout.flush()
        time.sleep(_POLL_SECONDS)
        try:
            # Opened each time, as the service may have begun a new file.
            connection = open_to_read(path)
        except FileNotFoundError:
            continue
        try:
            found, change = changed_since(connection, which, change)
        finally:
            connection.close()
        for entry in found:
            _print(entry, options)


def _print(entry: Mapping[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps({**entry, "trouble": bool(entry["trouble"])}, ensure_ascii=False))
        return
    at_terminal = sys.stdout.isatty()
    state = entry["state"]
    if entry["kind"] == "pop3":
        state = f"read mail, {state}"
    elif entry["leg"] == "pop3":
        state = f"POP3 {state}"
    columns = f"{local_time(entry['time'], short=at_terminal)}  {entry['client'] or '-':<15}  {state:<18}"
    parts = [columns, _about(entry), _said(entry), f"({entry['advice']})" if entry.get("advice") else ""]
    if at_terminal:
        _print_fitted(*parts)
    else:
        print("  ".join(filter(None, parts)))


def _print_fitted(columns: str, about: str, said: str, advice: str) -> None:
    """One line if all fits into it; else what was said, and the advice, stand below in as many as they need."""
    width = shutil.get_terminal_size().columns
    line = "  ".join(filter(None, (columns, about)))
    if said and len(line) + 2 + len(said) <= width:
        line, said = f"{line}  {said}", ""
    print(fitted(line))
    for text in filter(None, (said, advice)):
        print(textwrap.fill(text, max(width, 40), initial_indent=_INDENT, subsequent_indent=_INDENT))


def _about(entry: Mapping[str, Any]) -> str:
    """What the entry is about: the envelope, the command or the counts."""
    if entry["kind"] == "pop3":
        return f"user {entry.get('login', '-')}: {entry.get('retrieved', 0)} read, {entry.get('deleted', 0)} deleted"
    recipients = entry.get("recipients", ())
    different = {each["state"] for each in recipients} != {entry["state"]} and entry["kind"] == "message"
    to = ", ".join(f"{each['address']} ({each['state']})" if different else each["address"] for each in recipients)
    parts = []
    if "sender" in entry:
        parts.append(f"{entry['sender'] or '<>'} →{f' {to}' if to else ''}")
    if "command" in entry:
        parts.append(entry["command"])
    if entry.get("login"):
        parts.append(f"user {entry['login']}")
    if entry.get("octets") is not None and entry["kind"] == "message":
        parts.append(_size(entry["octets"]))
    if entry["times"] > 1:
        parts.append(f"{entry['times']} times")
    return "  ".join(parts)


def _said(entry: Mapping[str, Any]) -> str:
    """The last word: of the backend, or what the device read."""
    for name in ("cause", "backend", "reply") if entry["trouble"] else ("backend", "cause", "reply"):
        if entry.get(name):
            return str(entry[name])
    return ""


def _size(octets: int) -> str:
    if octets < 10_000:
        return f"{octets} octets"
    return f"{octets / 1000:.0f} kB" if octets < 10_000_000 else f"{octets / 1_000_000:.0f} MB"


def fitted(line: str) -> str:
    """As much of the line as the terminal is wide."""
    width = shutil.get_terminal_size().columns
    return line if len(line) <= width else f"{line[: width - 1]}…"


def local_time(seconds: float, *, short: bool) -> str:
    """For people without the offset, as it is their own time."""
    moment = datetime.fromtimestamp(seconds)
    return moment.isoformat(" ", "seconds") if short else moment.astimezone().isoformat("T", "seconds")


def _since(text: str) -> float:
    if found := re.fullmatch("([0-9]{1,6})([mhdw])", text):
        return time.time() - timedelta(**{_UNITS[found[2]]: int(found[1])}).total_seconds()
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r}: as 30m, 12h, 2d, 2026-11-30 or 2026-11-30T08:00") from None


def _limit(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return int(text)
