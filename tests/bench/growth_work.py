"""The work of `growth.py`, a function for each subject: what one size of it costs, measured in this process."""

from __future__ import annotations

import asyncio
import logging
import resource
import smtplib
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from bench import history, mail
from bench.mailboxes import Mailboxes
from bench.measure import Peak, resident
from bench.pop3_devices import served, session
from bench.servers import Proxy, proxy, smtps_sink
from bench.smtp_devices import RECIPIENT, SENDER, idle, send
from legacy_email_proxy.accounts.rules import Facts, Leg, candidates
from legacy_email_proxy.build import compose
from legacy_email_proxy.contracts import Client
from legacy_email_proxy.history.database import open_to_read
from legacy_email_proxy.history.queries import Filter, search
from legacy_email_proxy_plugins.spool.message import Submission
from legacy_email_proxy_plugins.spool.sqlite_store import SQLiteStore
from realservers.certificates import Certificates
from realservers.processes import short_folder

__all__ = ("SIZES", "WORK", "Cost")

_SECONDS = 600.0
_OCTETS = 2000


class Cost(NamedTuple):
    """CPU seconds of one step, and by how much memory grew in it, if that was measured; both for all units."""

    step: str
    seconds: float
    octets: float | None = None


@contextmanager
def _step(costs: list[Cost], name: str) -> Iterator[None]:
    """What the block takes in this process."""
    process = psutil.Process()
    before, began = process.memory_info().rss, time.process_time()
    yield
    costs.append(Cost(name, time.process_time() - began, process.memory_info().rss - before))


@contextmanager
def _sending(**variables: str) -> Iterator[tuple[Proxy, Callable[[int, int], None]]]:
    """A proxy before a sink, and what sends so many messages of that size through it."""
    with ExitStack() as stack:
        certificates = Certificates.write(stack.enter_context(short_folder("bench-certificates-")))
        sink = stack.enter_context(smtps_sink(certificates.good))
        running = stack.enter_context(
            proxy(
                **variables,
                MAILDROP_PLUGIN="none",
                BACKEND_SMTP_HOST="localhost",
                BACKEND_SMTP_PORT=str(sink.port),
                BACKEND_SMTP_CA_FILE=str(sink.ca_file),
                SMTP_MAX_OCTETS="500000000",
            )
        )

        def sent(count: int, octets: int) -> None:
            send(running.smtp_port, sink.board, count=count, octets=octets, connections=1, seconds=_SECONDS)

        sent(20, _OCTETS)
        yield running, sent


def _computed(running: Proxy) -> float:
    used = psutil.Process(running.pid).cpu_times()
    return float(used.user + used.system)


def accounts(size: int) -> list[Cost]:
    costs: list[Cost] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "accounts.toml"
        values = "BACKEND_IMAP_USER = 'u'\nBACKEND_IMAP_PASS = 'p'\n"
        tables = [f"[accounts.a{number}]\n{values}" for number in range(size)]
        rules = [
            f"[[rules]]\naccount = 'a{number}'\nnetwork = '10.{number >> 8}.{number & 255}.0/24'\n"
            for number in range(size)
        ]
        file.write_text("".join([*tables, *rules]))
        environ = {"BACKEND_IMAP_HOST": "x", "BACKEND_SMTP_HOST": "x", "ACCOUNTS_FILE": str(file), "STATE_DIR": folder}
        login = {"BACKEND_IMAP_USER": "u", "BACKEND_IMAP_PASS": "p"}
        compose({**environ, **login, "ACCOUNTS_FILE": ""})  # what the first account needs is not what each one costs
        with _step(costs, "start"):
            composition = compose(environ)
        last = Facts(Leg.SMTP, f"10.{size - 1 >> 8}.{size - 1 & 255}.7", 25, "", "a@x")
        began = time.process_time()
        for _ in range(100):
            assert candidates(composition.rules, last)
        costs.append(Cost("choice at MAIL", (time.process_time() - began) / 100))
    return costs


def connections(size: int) -> list[Cost]:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    with _sending() as (running, _):
        memory, used = resident(running.pid), _computed(running)
        before = memory()
        with idle(running.smtp_port, size, _SECONDS):
            return [Cost("greeting and EHLO", _computed(running) - used, memory() - before)]


def recipients(size: int) -> list[Cost]:
    with _sending() as (running, _), smtplib.SMTP("127.0.0.1", running.smtp_port, timeout=_SECONDS) as device:
        named = [f"person{number}@example.test" for number in range(size)]
        content = b"Subject: x\r\n\r\nx\r\n"
        device.sendmail(SENDER, named[:1], content)
        with Peak(resident(running.pid)) as memory:
            used = _computed(running)
            for _ in range(-(-2000 // size)):
                device.sendmail(SENDER, named, content)
            used = (_computed(running) - used) / -(-2000 // size)
    return [Cost("a message to them", used, memory.growth)]


def message_octets(size: int) -> list[Cost]:
    count = max(1, 20_000_000 // size if size > 100_000 else 200)
    with _sending() as (running, sent):
        with Peak(resident(running.pid)) as memory:
            used = _computed(running)
            sent(count, size)
            used = _computed(running) - used
    return [Cost("an octet, relayed", used / count, memory.growth)]


def mailbox(size: int) -> list[Cost]:
    with ExitStack() as stack:
        boxes = Mailboxes(stack)
        account = boxes.filled("listed", size, mail.HEADER_OCTETS)
        running = stack.enter_context(boxes.proxy(account))
        costs = []
        for step, commands in (("first opening", [b"STAT"]), ("opened again, LIST and UIDL", [b"LIST", b"UIDL"])):
            with Peak(resident(running.pid)) as memory:
                used = _computed(running)
                with served(running.pop3_port, [session(account, *commands)], _SECONDS):
                    pass
                costs.append(Cost(step, _computed(running) - used, memory.growth))
        return costs


def spool(size: int) -> list[Cost]:
    return asyncio.run(_spool(size))


async def _spool(size: int) -> list[Cost]:
    costs: list[Cost] = []
    with tempfile.TemporaryDirectory() as folder:
        path, logger = Path(folder) / "spool.db", logging.getLogger("bench")
        store = SQLiteStore(path, logger)
        await store.open(lambda: None)
        client = Client("192.0.2.9", "s1", "scanner", "printer", 25)
        incoming = store.receive()
        await incoming.write(b"x" * _OCTETS)
        await incoming.commit(Submission("", client, SENDER, {}, [(RECIPIENT, {})], time.time()))
        await store.aclose()
        _multiply(path, size)
        store = SQLiteStore(path, logger)
        with _step(costs, "start"):
            await store.open(lambda: None)
            await store.adopt("", due_before=time.time())
        with _step(costs, "counts for /metrics"):
            await store.counts()
        some = min(size, 1000)
        began = time.process_time()
        leased = await store.lease("", time.time() + 1, some, ())
        # For all of them, as the other steps are, so that the table's figure is that of one message.
        costs.append(Cost("lease", (time.process_time() - began) * size / some))
        assert len(leased) == some
        for each in leased:
            store.give_back(each.number)
        await store.aclose()
    return costs


def _multiply(path: Path, size: int) -> None:
    """Copy the one message until there are so many; to take each by SMTP would need minutes."""
    numbers = "WITH RECURSIVE n(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM n WHERE n < ?)"
    with closing(sqlite3.connect(path)) as connection:
        for table, key in (("message", "number"), ("recipient", "message"), ("content", "message")):
            names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[1] != key]
            given = ", ".join(names)
            if size > 1:
                connection.execute(
                    f"{numbers} INSERT INTO {table} ({key}, {given}) SELECT n, {given} FROM n, {table} WHERE {key} = 1",
                    (size,),
                )
        connection.commit()


def history_rows(size: int) -> list[Cost]:
    costs: list[Cost] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.db"
        with _step(costs, "written"):
            history.write(path, size)
        with closing(open_to_read(path)) as connection:
            for step, asked in (("the last 100", Filter()), ("the last 100 of a device", Filter(client="192.168.1.7"))):
                began = time.process_time()
                search(connection, asked, limit=100)
                costs.append(Cost(step, time.process_time() - began))
    return costs


SIZES: Mapping[str, tuple[int, ...]] = {
    "accounts": (1, 10, 100, 1000),
    "connections": (10, 100, 1000, 2000),
    "recipients": (1, 10, 100, 1000),
    "message octets": (1_000, 100_000, 10_000_000, 200_000_000),
    "messages in the mailbox": (1_000, 10_000, 100_000, 1_000_000),
    "messages in the spool": (1_000, 10_000, 100_000, 1_000_000),
    "history rows": (10_000, 100_000, 1_000_000, 10_000_000),
}
WORK: Mapping[str, Callable[[int], list[Cost]]] = {
    "accounts": accounts,
    "connections": connections,
    "recipients": recipients,
    "message octets": message_octets,
    "messages in the mailbox": mailbox,
    "messages in the spool": spool,
    "history rows": history_rows,
}
