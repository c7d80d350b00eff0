"""Look into the spool (`RELAY_PLUGIN=spool`) and act on it, while the service runs or while it does not."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from contextlib import aclosing
from datetime import datetime
from typing import Any, cast

import anyio

from .. import events
from ..composition import relay
from ..contracts import QUEUE_ACTIONS, Failure, Queue, QueueAction, SettingsMistake
from ..replies import printable

__all__ = ("add_arguments", "run")

_SENTENCES = {
    "list": "what waits, since when, and when it is tried next",
    "show": "all about these messages, with the last reply for each recipient",
    "retry": "try these now, also those that were given up",
    "hold": "do not try these until they are released",
    "release": "let held messages go on",
    "drop": "remove these for good; nobody is told",
    "export": "write the content of one message to standard output",
    "migrate": "bring the spool's tables up to date, as the service does when it starts",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and with which messages."""
    listed = "; ".join(f"{action}: {sentence}" for action, sentence in _SENTENCES.items())
    parser.add_argument("action", choices=QUEUE_ACTIONS, metavar="ACTION", help=listed)
    parser.add_argument("numbers", nargs="*", type=int, metavar="NUMBER", help="numbers of messages, from `list`")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, times in seconds since 1970")


def run(options: argparse.Namespace) -> int:
    """Exit status 0: done. 1: it could not be done, for a reason that is told. 2: the settings can not work."""
    action, numbers = options.action, options.numbers
    if action == "export" and len(numbers) != 1:
        raise SettingsMistake("spool export: name one message")
    if action not in ("list", "migrate") and not numbers:
        raise SettingsMistake(f"spool {action}: name the messages by their numbers; `spool list` shows them")
    events.configure("error", "text")
    try:
        anyio.run(_administer, action, numbers, options.json, backend="asyncio")
    except Failure as failure:
        print(f"legacy-email-proxy: {failure}", file=sys.stderr)
        return 1
    return 0


async def _administer(action: QueueAction, numbers: list[int], as_json: bool) -> None:
    plugin = relay(os.environ)
    try:
        if not hasattr(plugin, "administer"):
            raise SettingsMistake("RELAY_PLUGIN: this relay keeps nothing; the spool command is for `spool`")
        async with aclosing(cast(Queue, plugin).administer(action, numbers)) as answers:
            async for answer in answers:
                if isinstance(answer, bytes):
                    sys.stdout.buffer.write(answer)
                elif as_json:
                    print(json.dumps(answer))
                else:
                    _print(action, answer)
        sys.stdout.flush()
    finally:
        await plugin.aclose()


def _print(action: QueueAction, item: Mapping[str, Any]) -> None:
    if "version" in item:
        print(f"the spool's tables are those of version {item['version']}")
        return
    if "done" in item:
        print(f"{item['number']}: {item['done']}")
        return
    if "recipients" not in item:
        print(f"{item['number']:>6}  {item['state']}: {printable(item['reason'])}")
        return
    due = f", next try {_shown(item['due'])}" if item["due"] is not None else ""
    print(
        f"{item['number']:>6}  {item['state']} since {_shown(item['received'])}{due}, {item['tries']} tries,"
        f" {item['octets']} octets, from <{printable(item['sender'])}>"
    )
    if item["reason"]:
        print(f"        {printable(item['reason'])}")
    for each in item["recipients"]:
        reply = f": {printable(each['reply'])}" if each["reply"] else ""
        when = f" at {_shown(each['tried'])}" if action == "show" and each["tried"] is not None else ""
        print(f"        to <{printable(each['address'])}> {each['fate']}{when}{reply}")


def _shown(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
