"""Watch one device's dialogue with both sides while it happens."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from contextlib import aclosing
from datetime import datetime
from typing import Any

import anyio

from ..admin.socket import NOBODY_THERE, ask
from ..admin.trace import in_words
from ..contracts import Failure
from ..settings import read

__all__ = ("add_arguments", "run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whom to watch."""
    parser.add_argument("address", metavar="ADDRESS", help="the device's address, or a network like 192.168.1.0/24")
    parser.add_argument("--account", metavar="NAME", help="of ACCOUNTS_FILE: only what goes through this account")
    parser.add_argument(
        "--content", action="store_true", help="show whole messages too, not only their header; the log then says so"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, times in seconds since 1970")
    parser.epilog = """\
Start it, then let the device send. It ends with Ctrl-C. Passwords are hidden.

examples:
  %(prog)s 192.168.1.40
  %(prog)s 192.168.1.0/24 --account scanner
"""


def run(options: argparse.Namespace) -> int:
    """Exit status 1: no service is running, or it can not do it. 130: ended by Ctrl-C."""
    try:
        anyio.run(_watch, options, backend="asyncio")
    except NOBODY_THERE:
        text = "no service is running with this STATE_DIR, so there is nothing to watch"
        print(f"legacy-email-proxy: {text}", file=sys.stderr)
    except Failure as failure:
        print(f"legacy-email-proxy: {failure}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1


async def _watch(options: argparse.Namespace) -> None:
    request = {"address": options.address, "account": options.account, "content": options.content}
    async with aclosing(ask(read()["STATE_DIR"], "trace", **request)) as lines:
        async for line in lines:
            assert isinstance(line, Mapping)  # noqa: S101 (for the type checker)
            if "watching" in line:
                print(f"watching {', '.join(line['watching'])}; Ctrl-C ends it", file=sys.stderr)
            elif options.json:
                print(json.dumps(line), flush=True)
            else:
                print(_shown(line), flush=True)


def _shown(line: Mapping[str, Any]) -> str:
    if "left_out" in line:
        return in_words(line)
    moment = datetime.fromtimestamp(line["time"]).astimezone().strftime("%H:%M:%S.%f")[:-3]
    return f"{moment} {in_words(line)}"
