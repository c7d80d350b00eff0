"""Two proxies on one PostgreSQL behind HAProxy, restarted in turn while devices send and fetch; every message counts.

The balancer's configuration is the one of ``proxy/docs/two-machines.md``. A device retries what fails, as real ones do.
"""

from __future__ import annotations

import poplib
import random
import re
import smtplib
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from interop.proxy import Proxy, backends, running
from pages import blocks
from realservers.accounts import Account
from realservers.dovecot import Dovecot
from realservers.haproxy import HAProxy
from realservers.postfix import Postfix
from realservers.postgres import Postgres
from realservers.processes import free_ports, wait_until

LINE_END = "\r\n"
SECONDS = 60.0
"""A device's patience for one answer."""
TRIES = 10
RETRY_SECONDS = 0.3
SETTLING_SECONDS = 100.0
"""How long what was accepted may take to be fetched, at the end."""
DRAIN_DELAY_SECONDS = 3
_NAME = re.compile(rb"^X-Rolling: (\S+)\r?$", re.MULTILINE)


@dataclass
class Ledger:
    """What became of each message and of each session. One lock guards all of it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    accepted: set[str] = field(default_factory=set)
    unsure_sent: set[str] = field(default_factory=set)
    """The connection broke after the end of the message: it was sent again, and may come twice."""
    fetched: Counter[str] = field(default_factory=Counter)
    unsure_fetched: set[str] = field(default_factory=set)
    """The answer to QUIT was lost: they are deleted, or will be fetched again."""
    seconds: list[float] = field(default_factory=list)
    """Of each SMTP session that sent its message."""
    waits: list[float] = field(default_factory=list)
    """From a device's first try to send a message until it was accepted."""
    tries: Counter[int] = field(default_factory=Counter)
    sessions: int = 0
    """By POP3, to their end."""
    broken: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def lost(self) -> set[str]:
        return self.accepted - set(self.fetched) - self.unsure_fetched

    @property
    def doubled(self) -> set[str]:
        return {name for name, count in self.fetched.items() if count > 1} - self.unsure_sent

    def percentile(self, figures: Sequence[float], part: float) -> float:
        ordered = sorted(figures)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0

    def rows(self) -> list[tuple[str, str]]:
        """For people."""
        return [
            ("messages accepted", f"{len(self.accepted)}"),
            ("lost", f"{len(self.lost)}"),
            ("doubled", f"{len(self.doubled)}"),
            ("sent again, as the answer to the end of a message was lost", f"{len(self.unsure_sent)}"),
            ("POP3 sessions", f"{self.sessions}"),
            ("messages that needed a second try", f"{sum(self.tries.values()) - self.tries[1]}"),
            ("most tries for one message", f"{max(self.tries, default=0)}"),
            (
                "tries that failed, and why",
                ", ".join(f"{count}× {why}" for why, count in self.broken.items()) or "none",
            ),
            ("SMTP session, median", f"{statistics.median(self.seconds or [0.0]):.3f} s"),
            ("SMTP session, p99", f"{self.percentile(self.seconds, 0.99):.3f} s"),
            ("until a message was accepted, tries included, p99", f"{self.percentile(self.waits, 0.99):.3f} s"),
            ("faults", "; ".join(self.faults[:5]) or "none"),
        ]


class _Broken(Exception):
    """The device has to try again."""


class Rolling:
    """The whole scene, with all that it needs started and stopped by the caller's ``with``."""

    def __init__(self, dovecot: Dovecot, postfix: Postfix, postgres: Postgres, mailboxes: int) -> None:
        self.found = Ledger()
        self._boxes = [dovecot.add_account() for _ in range(mailboxes)]
        self._undo = ExitStack()
        self._senders_end, self._readers_end = threading.Event(), threading.Event()
        self._senders: list[threading.Thread] = []
        self._readers: list[threading.Thread] = []
        names = ("one", "two")
        self._ports = dict(zip(names, ([*free_ports(3)] for _ in names), strict=True))
        self.front_smtp, self.front_pop3 = free_ports(2)
        url = postgres.new_database()
        sender = dovecot.add_account()
        self._variables = backends(dovecot, postfix, sender) | {
            "RELAY_PLUGIN": "spool",
            "SPOOL_URL": url,
            "POP3_LOGIN": "backend",
            "POP3_LOCK": "true",
            "PROXY_PROTOCOL_NETWORKS": "127.0.0.1",
            "DRAIN_DELAY_SECONDS": str(DRAIN_DELAY_SECONDS),
            "BACKEND_IMAP_MAX_CONNECTIONS": "20",
        }
        self._running: dict[str, ExitStack] = {}
        self.proxies: dict[str, Proxy] = {}
        self._balancer: HAProxy

    def __enter__(self) -> Rolling:
        with ExitStack() as undo:
            folder = undo.enter_context(tempfile.TemporaryDirectory())
            undo.callback(self._stop_all)
            for name in self._ports:
                self._variables[f"STATE_DIR {name}"] = f"{folder}/{name}"
                self._start(name)
            undo.callback(self._end_clients)
            self._balancer = undo.enter_context(
                HAProxy.start(self._configuration(), [self.front_smtp, self.front_pop3])
            )
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _configuration(self) -> str:
        (block,) = blocks("haproxy")
        text = block.text.replace("log /dev/log local0", "log stdout format raw local0 notice")
        text = text.replace("192.168.1.10:25", f"127.0.0.1:{self.front_smtp}")
        text = text.replace("192.168.1.10:110", f"127.0.0.1:{self.front_pop3}")
        for address, (smtp, pop3, admin) in zip(("192.168.1.11", "192.168.1.12"), self._ports.values(), strict=True):
            text = re.sub(rf"{address}:25\b", f"127.0.0.1:{smtp} port {admin}", text)
            text = re.sub(rf"{address}:110\b", f"127.0.0.1:{pop3} port {admin}", text)
        assert "192.168" not in text
        return text

    # Proxies

    def _start(self, name: str) -> None:
        smtp, pop3, admin = self._ports[name]
        given = {key: value for key, value in self._variables.items() if " " not in key}
        given |= {"SMTP_BIND_PORT": str(smtp), "POP3_BIND_PORT": str(pop3), "ADMIN_BIND_PORT": str(admin)}
        stack = self._running[name] = ExitStack()
        self.proxies[name] = stack.enter_context(running(given | {"STATE_DIR": self._variables[f"STATE_DIR {name}"]}))

    def _stop_all(self) -> None:
        with ExitStack() as every:
            for stack in self._running.values():
                every.push(stack.__exit__)

    def restart(self, name: str) -> float:
        """Stop it, start it again, and wait until the balancer sends devices there; returns the seconds."""
        began = time.monotonic()
        legs = ("smtp", "pop3")
        before = [self._balancer.ups(f"{leg}/{name}") for leg in legs]
        self._running.pop(name).close()
        self._start(name)
        wait_until(
            lambda: all(self._balancer.ups(f"{leg}/{name}") > count for leg, count in zip(legs, before, strict=True)),
            f"the balancer has found {name}",
            SECONDS,
        )
        return time.monotonic() - began

    # Devices

    def begin(self, senders: int, readers: int, pause: float) -> None:
        """Let so many devices send, and so many fetch, each with such a pause on average between its sessions."""
        for number in range(senders):
            self._senders.append(threading.Thread(target=self._sending, args=(number, pause), daemon=True))
        for number in range(readers):
            box = self._boxes[number % len(self._boxes)]
            self._readers.append(threading.Thread(target=self._reading, args=(number, box, pause), daemon=True))
        for thread in (*self._senders, *self._readers):
            thread.start()

    def settle(self) -> None:
        """End the sending, and wait until everything that was accepted is fetched."""
        self._senders_end.set()
        for thread in self._senders:
            thread.join(SECONDS * 2)
        with suppress(TimeoutError):
            wait_until(lambda: not self.found.lost, "everything is fetched", SETTLING_SECONDS)
        # Whatever would come twice comes soon, too: the spool is empty now.
        self._end_clients()

    def _end_clients(self) -> None:
        self._senders_end.set()
        self._readers_end.set()
        for thread in (*self._senders, *self._readers):
            thread.join(SECONDS * 2)

    def _sending(self, number: int, pause: float) -> None:
        chance = random.Random(number)
        count = 0
        while not self._senders_end.wait(chance.uniform(0, 2 * pause)):
            count += 1
            self._send_one(f"{number}-{count}", f"127.0.1.{number + 1}", chance.choice(self._boxes))

    def _send_one(self, name: str, source: str, box: Account) -> None:
        began = time.monotonic()
        for tries in range(1, TRIES + 1):
            begun = time.monotonic()
            try:
                self._smtp_session(name, source, box)
            except _Broken as broken:
                with self.found.lock:
                    self.found.broken[str(broken)] += 1
                time.sleep(RETRY_SECONDS)
                continue
            now = time.monotonic()
            with self.found.lock:
                self.found.accepted.add(name)
                self.found.seconds.append(now - begun)
                self.found.waits.append(now - began)
                self.found.tries[tries] += 1
            return
        with self.found.lock:
            self.found.faults.append(f"{name} was not accepted in {TRIES} tries")

    def _smtp_session(self, name: str, source: str, box: Account) -> None:
        content = f"From: <{box.address}>\r\nTo: <{box.address}>\r\nX-Rolling: {name}\r\nSubject: x\r\n\r\n"
        lines = {
            "EHLO": "EHLO device.example.test",
            "MAIL": f"MAIL FROM:<{box.address}>",
            "RCPT": f"RCPT TO:<{box.address}>",
            "DATA": "DATA",
            "content": f"{content}{('x' * 70 + LINE_END) * 20}.",
        }
        step = "connecting"
        try:
            with smtplib.SMTP(timeout=SECONDS, source_address=(source, 0)) as device:
                code, text = device.connect("127.0.0.1", self.front_smtp)
                for following, line in lines.items():
                    if code >= 400:
                        break
                    step = following
                    device.send(f"{line}{LINE_END}")
                    code, text = device.getreply()
        except (OSError, smtplib.SMTPException) as error:
            if step == "content":
                with self.found.lock:
                    self.found.unsure_sent.add(name)
            raise _Broken(f"{type(error).__name__} at {step}") from None
        if code >= 500:
            with self.found.lock:
                self.found.faults.append(f"{step} of {name}: {code} {text.decode()}")
        if code >= 400:
            raise _Broken(f"{code} at {step}")

    def _reading(self, number: int, box: Account, pause: float) -> None:
        chance = random.Random(-1 - number)
        while not self._readers_end.wait(chance.uniform(0, 2 * pause)):
            names: list[str] = []
            leaving = False
            try:
                device = poplib.POP3("127.0.0.1", self.front_pop3, SECONDS)
                try:
                    device.user(box.name)
                    device.pass_(box.password)
                    for message in range(1, device.stat()[0] + 1):
                        found = _NAME.search(b"\r\n".join(device.retr(message)[1]))
                        device.dele(message)
                        names.append(found[1].decode() if found else "none of ours")
                    leaving = True
                    device.quit()
                finally:
                    device.close()
            except (OSError, EOFError, poplib.error_proto) as error:
                said = str(error)
                with self.found.lock:
                    if "[IN-USE]" not in said:
                        self.found.broken[f"POP3 {type(error).__name__}: {said[:40]}"] += 1
                    if "[AUTH]" in said:
                        self.found.faults.append(said)
                    if leaving:
                        self.found.unsure_fetched.update(names)
            else:
                with self.found.lock:
                    self.found.sessions += 1
                    self.found.fetched.update(names)
