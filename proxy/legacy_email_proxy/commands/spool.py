"""Look into the spool and act on it (RELAY_PLUGIN=spool)."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import anyio

from .. import log
from ..admin.queues import administered, answered_by_service, counted, listed
from ..admin.socket import NOBODY_THERE, Answers
from ..build import relays
from ..contracts import QUEUE_ACTIONS, BackedUpQueue, Failure, Queue, QueueFilter, Secret, SettingsMistake
from ..replies import printable

__all__ = ("add_arguments", "run")

_SENTENCES = {
    "list": "what waits, since when, and when it is tried next",
    "count": "how many there are in each state",
    "show": "all about these messages, with the last reply for each recipient",
    "retry": "try these now, also those that were given up",
    "hold": "do not try these until they are released",
    "release": "let held messages go on",
    "drop": "remove these for good; nobody is told",
    "export": "write the content of one message to standard output",
    "migrate": "bring the spool's tables up to date, as the service does at its start",
    "backup": "copy the whole spool into a folder, also while the service runs",
    "restore": "put such a copy into an empty spool; the service must not run",
    "move": "take all to TO, a URL as in SPOOL_URL or its file; no service may run",
}
_LISTING = ("list", "count")
_ABOUT_ALL = (*_LISTING, "migrate")
_STATES = ("queued", "held", "notifying", "dead", "set aside")
_WITH_A_FOLDER = ("backup", "restore")
_MOVE = "move"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and with which messages."""
    parser.add_argument(
        "action",
        choices=(*_LISTING, *QUEUE_ACTIONS, *_WITH_A_FOLDER, _MOVE),
        metavar="ACTION",
        help="one of those below",
    )
    sentence = "numbers of messages, from `list`; for `backup` and `restore` the folder; TO for `move`"
    parser.add_argument("about", nargs="*", metavar="NUMBER", help=sentence)
    sentence = "of ACCOUNTS_FILE: list its messages only; or the one whose own spool is meant"
    parser.add_argument("--account", metavar="NAME", help=sentence)
    narrow = parser.add_argument_group("with list")
    narrow.add_argument(
        "--state", action="append", choices=_STATES, metavar="STATE", help=f"only these: {', '.join(_STATES)}"
    )
    narrow.add_argument("--address", metavar="TEXT", default="", help="only with this in the sender or a recipient")
    narrow.add_argument("--after", type=int, metavar="NUMBER", default=0, help="only what has a higher number")
    narrow.add_argument("--limit", type=int, metavar="COUNT", help="at most so many")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, times in seconds since 1970")
    listed = "\n".join(f"  {action:<9}{sentence}" for action, sentence in _SENTENCES.items())
    parser.epilog = f"""\
It works while the service runs and while it does not, unless it says otherwise
below.

actions:
{listed}

examples:
  %(prog)s list
  %(prog)s list --state dead --state "set aside" --limit 20
  %(prog)s retry 12 13
  %(prog)s backup /srv/backup/spool-2026-11-30
"""


def run(options: argparse.Namespace) -> int:
    """Exit status 0: done. 1: it could not be done, for a reason that is told. 2: the settings can not work."""
    action, about = options.action, options.about
    if action in _WITH_A_FOLDER:
        if len(about) != 1:
            raise SettingsMistake(f"spool {action}: name one folder")
    elif action == _MOVE:
        if len(about) != 1:
            raise SettingsMistake("spool move: name one place, as SPOOL_URL would")
    else:
        _check_numbers(action, about)
    log.configure("error", "text")
    options.folder = Path(about[0]).absolute() if action in _WITH_A_FOLDER else None
    try:
        anyio.run(_administer, options, backend="asyncio")
    except Failure as failure:
        print(f"legacy-email-proxy: {failure}", file=sys.stderr)
        return 1
    return 0


def _check_numbers(action: str, about: Sequence[str]) -> None:
    if action in _LISTING and about:
        raise SettingsMistake(f"spool {action}: it takes no numbers; `spool show` does")
    if action == "export" and len(about) != 1:
        raise SettingsMistake("spool export: name one message")
    if action not in _ABOUT_ALL and not about:
        raise SettingsMistake(f"spool {action}: name the messages by their numbers; `spool list` shows them")
    for each in about:
        if not re.fullmatch(r"-?[0-9]{1,50}", each):
            raise SettingsMistake(f"spool {action}: {each!r} is no number of a message")


async def _administer(options: argparse.Namespace) -> None:
    accounts = relays(os.environ)
    options.state_dir = accounts[0].settings["STATE_DIR"]
    try:
        queues = _selected({account.name: account.queue for account in accounts if account.queue is not None}, options)
        for queue in queues:
            if len(queues) > 1 and not options.json:
                print(f"spool {queue.queue_name}")
            if options.action in _WITH_A_FOLDER:
                await _copy(queue, options)
                continue
            if options.action == _MOVE:
                await _move(queue, options)
                continue
            async with aclosing(_answers(queue, options)) as answers:
                async for answer in answers:
                    if isinstance(answer, bytes):
                        sys.stdout.buffer.write(answer)
                    elif options.json:
                        print(json.dumps({**answer, "spool": queue.queue_name}))
                    else:
                        _print(options.action, answer)
        sys.stdout.flush()
    finally:
        for account in accounts:
            if account.relay is not None:
                await account.relay.aclose()
            for each in account.credentials.values():
                await each.aclose()


async def _answers(queue: Queue, options: argparse.Namespace) -> Answers:
    if options.action == "count":
        for one in await counted(options.state_dir, queue):
            if options.account in (None, one["account"]):
                yield one
        return
    if options.action == "list":
        states = tuple(options.state or ())
        wanted = QueueFilter(states, options.account, options.address, options.after, options.limit)
        asked = listed(options.state_dir, queue, wanted)
    else:
        asked = administered(options.state_dir, queue, options.action, [int(each) for each in options.about])
    async with aclosing(asked) as answers:
        async for answer in answers:
            yield answer


async def _copy(queue: Queue, options: argparse.Namespace) -> None:
    if not hasattr(queue, "back_up"):
        raise Failure(f"{queue.queue_name}: this relay knows no backup")
    copied, folder = cast(BackedUpQueue, queue), options.folder
    if options.action == "restore":
        done = await copied.restore(folder)
    else:
        try:
            (done,) = [
                cast("Mapping[str, Any]", answer)
                async for answer in answered_by_service(options.state_dir, queue, "backup", folder=str(folder))
            ]
        except NOBODY_THERE:
            done = await copied.back_up(folder)
    if options.json:
        print(json.dumps({**done, "spool": queue.queue_name}))
        return
    where = f"of {queue.queue_name} in {folder}" if options.action == "backup" else f"of {folder} in {queue.queue_name}"
    print(f"{options.action} {where}: {done['messages']} messages")
    if done["aside"]:
        print(f"what was there and could not be read is kept as {done['aside']} and the like")
    if done["missing"]:
        print("without the content of " + ", ".join(map(str, done["missing"])) + ", which is missing or damaged")


async def _move(queue: Queue, options: argparse.Namespace) -> None:
    if not hasattr(queue, "move"):
        raise Failure(f"{queue.queue_name}: this relay knows no other place")
    done = await cast(BackedUpQueue, queue).move(_place(options.about[0]))
    if options.json:
        print(json.dumps({**done, "spool": queue.queue_name}))
        return
    print(f"{done['messages']} messages moved from {queue.queue_name} to {done['to']}: now set SPOOL_URL to that")
    if done["missing"]:
        print("without " + ", ".join(map(str, done["missing"])) + ", which can not be read and stay where they are")


def _place(text: str) -> Secret:
    """A URL with a password is better in a file: all users of the machine can see a command's words."""
    if "://" in text or "=" in text:
        return Secret(text)
    try:
        return Secret(Path(text).read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsMistake(f"spool move: {text!r} is no URL, and no file that has one: {reason}") from None


def _selected(queues: Mapping[str, Queue], options: argparse.Namespace) -> list[Queue]:
    """The queues to act on. ``queues`` are by account; messages' numbers are unique in one queue only."""
    if not queues:
        raise SettingsMistake("RELAY_PLUGIN: this relay keeps nothing; the spool command is for `spool`")
    if options.account is not None:
        if options.account not in queues:
            there_is = ", ".join(filter(None, queues)) or "none with a name"
            raise SettingsMistake(f"--account: {options.account!r} is no account with a spool; there is {there_is}")
        return [queues[options.account]]
    found = {queue.queue_name: queue for queue in queues.values()}
    if len(found) > 1 and options.action not in _LISTING:
        raise SettingsMistake(f"--account: there are several spools; say whose is meant: {', '.join(queues)}")
    return list(found.values())


def _print(action: str, item: Mapping[str, Any]) -> None:
    if "messages" in item:
        account = f" of account {printable(item['account'])}" if item["account"] else ""
        print(f"{item['messages']:>6}  {item['state']}{account}, the oldest since {_shown(item['oldest'])}")
        return
    if "version" in item:
        print(f"the spool's tables are those of version {item['version']}")
        return
    if "done" in item:
        print(f"{item['number']}: {item['done']}")
        return
    if "recipients" not in item:
        print(f"{item['number']:>6}  {item['state']}: {printable(item['reason'])}")
        return
    account = f" of account {printable(item['account'])}" if item["account"] else ""
    due = f", next try {_shown(item['due'])}" if item["due"] is not None else ""
    print(
        f"{item['number']:>6}  {item['state']}{account} since {_shown(item['received'])}{due}, {item['tries']} tries,"
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
