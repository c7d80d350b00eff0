"""A small firm: its devices, its provider, the proxy between them on a disk of its own, and the operator's commands.

The provider is a real Dovecot and a real Postfix, which ask the fake authorization server about each token. Time passes
when a test says so, see :mod:`interop.hurried`. With `pytest -s` the story is printed as the operator reads it.
"""

from __future__ import annotations

import http.client
import json
import poplib
import re
import smtplib
import socket
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain, count
from pathlib import Path
from typing import Any

from anyio.from_thread import start_blocking_portal

from alerts.receiver import Receiver, receiving
from interop import hurried
from interop.proxy import START_SECONDS, Proxy, clean_environment, running
from oauth2.test_real_servers import World, provider
from realservers.certificates import Certificate
from realservers.processes import ask, require, tail, wait_until

SCANNER, WRONG, ERP = "127.0.0.11", "127.0.0.12", "127.0.0.13"
SENDER = "scan@firm.example"
"""The scanner's own address, which has no mailbox: nobody can be told of a scan that fails."""
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
DISK_MIB = 64
_MANY_POLLS = 100
_TRIES, _TRY_SECONDS = 4, 10.0


class POP3From(poplib.POP3):
    """A client with an address of its own, which poplib has no way to give."""

    def __init__(self, address: str, place: tuple[str, int]) -> None:
        self._address = address
        super().__init__(*place, timeout=50)

    def _create_socket(self, timeout: float) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout, (self._address, 0))


@dataclass
class Firm:
    """All of it. The folder with the state is on a small disk, which only the proxy and :meth:`run` see."""

    world: World
    proxy: Proxy
    clock: hurried.Clock
    folder: Path
    receiver: Receiver
    inside: Sequence[str]
    has_disk: bool
    story: list[str] = field(default_factory=list)
    full_since: float = 0.0
    """The disk was full from then to ``full_until``, in seconds since 1970."""
    full_until: float = 0.0

    # The devices.

    def device(self, address: str, name: str) -> smtplib.SMTP:
        smtp = smtplib.SMTP(timeout=50, local_hostname=name, source_address=(address, 0))
        smtp.connect(*self.proxy.smtp)
        return smtp

    def scan(self, recipient: str) -> None:
        with self.device(SCANNER, "SCANNER-1") as smtp:
            smtp.sendmail(SENDER, [recipient], b"Subject: a scan\r\n\r\n" + b"x" * 1000 + b"\r\n")

    def arrived(self, messages: int) -> None:
        """So many are in the mailbox: what Postfix accepted is there a moment later."""
        self.world.dovecot.wait_for_messages(self.world.account.name, messages)

    def fetch(self) -> int:
        """What the ERP program does: read all mail, delete it; how many there were."""
        with closing(POP3From(ERP, self.proxy.pop3)) as erp:
            erp.user("erp")
            erp.pass_("hunter2")
            messages, _ = erp.stat()
            for number in range(1, messages + 1):
                erp.retr(number)
                erp.dele(number)
            erp.quit()
        return messages

    def six_mistakes(self) -> None:
        """What a person at a device sets wrong, one after the other."""
        with suppress(OSError), socket.create_connection(self.proxy.smtp, 50, (WRONG, 0)) as plain:
            ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")
        with self.device(WRONG, "BRW001122334455") as smtp:
            smtp.ehlo()
            assert smtp.docmd("AUTH", "PLAIN AGEAaHVudGVyMg==")[0] == 502
            assert smtp.docmd("STARTTLS")[0] == 502
            assert smtp.docmd("MAIL", "FROM:<our scanner>")[0] == 553
            assert smtp.mail("scan@firm.example")[0] == 250
            assert smtp.docmd("RCPT", "TO:<ann at firm.example>")[0] == 553
            smtp.rset()
            assert smtp.docmd("MAIL", "FROM:<scan@firm.example> SIZE=300000")[0] == 552

    # Time.

    def day(self, name: str, hours: float, what: str) -> None:
        """Sleep until that time of the next day of that name, and begin its chapter."""
        now = datetime.fromtimestamp(self._now(), UTC)
        there = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(hours=hours)
        while f"{there:%A}" != name:
            there += timedelta(days=1)
        self.after((there - now).total_seconds())
        self.tell(f"\n## {name}, {there:%H:%M}: {what}")

    def after(self, seconds: float) -> None:
        """Let time pass, and the proxy look at everything then."""
        self.clock.ahead += max(seconds, MINUTE + 1)
        there, polls = self.clock.ahead, count(1)

        def looked() -> bool:
            # It looks each minute, and one look may have been under way just now.
            if next(polls) % _MANY_POLLS == 0:
                self.clock.ahead += MINUTE + 1
            return self.clock.looked >= there

        self._until(looked, "the proxy has looked at everything")

    def _now(self) -> float:
        return datetime.now(UTC).timestamp() + self.clock.ahead

    def delivered_after(self, seconds: float, times: int) -> None:
        """So many messages are delivered when that time has passed.

        Or when it has passed again: a try that is under way while the clocks are put forward is too late, and given up.
        """
        for left in reversed(range(_TRIES)):
            self.after(seconds)
            try:
                self._until(
                    lambda: len(self.proxy.lines("message delivered")) >= times, "it is delivered", _TRY_SECONDS
                )
            except TimeoutError:
                if not left:
                    raise
            else:
                return

    def _until(self, condition: Any, what: str, seconds: float = START_SECONDS) -> None:
        def so() -> bool:
            # Wakes an event loop that waits for something to happen, so that it sees what time it is.
            self.asked("/livez")
            return bool(condition())

        try:
            wait_until(so, what, seconds)
        except TimeoutError as error:
            error.add_note(tail(self.proxy.log))
            raise

    def wait_for(self, words: str, times: int = 1) -> str:
        """The log's line with these words, when there are so many of them."""
        self._until(lambda: len(self.proxy.lines(words)) >= times, f"the log says {words!r} {times} times")
        return self.proxy.lines(words)[times - 1]

    # What the operator sees.

    def asked(self, path: str) -> tuple[int, str]:
        """What the admin listener says."""
        with closing(http.client.HTTPConnection(*self.proxy.place("admin"), timeout=50)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def run(self, *arguments: str) -> str:
        """What a command of the proxy prints, today, beside the service."""
        done = subprocess.run(
            [*self.inside, *_command(self.folder, *arguments)], env=self.environment, timeout=100,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        # 1: something is wrong, and it says what.
        assert done.returncode in (0, 1), done.stderr
        return done.stdout

    def table(self, *arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run(*arguments, "--json").splitlines()]

    def wait_for_history(self) -> None:
        """It has every session and every delivery, but for the one on the full disk. It is written a moment later, and
        what still waits to be written, a full disk would cost.
        """

        def kept() -> bool:
            rows = self.table("history", "--limit", "1000")
            sessions = sum(row["kind"] == "pop3" for row in rows)
            delivered = sum(row["state"] == "delivered" and not self.was_full(row["time"]) for row in rows)
            wanted = len(self.proxy.lines("message delivered")) - bool(self.full_until)
            return (sessions, delivered) == (len(self.proxy.lines("pop3 session ended")), wanted)

        self._until(kept, "the history has written everything")

    def figure(self, name: str) -> float:
        """A figure of `/metrics`, by its name and labels."""
        (line,) = re.findall(rf"^legacy_email_proxy_{re.escape(name)} (.*)$", self.asked("/metrics")[1], re.MULTILINE)
        return float(line)

    @property
    def environment(self) -> dict[str, str]:
        return clean_environment(**self.world.variables) | {"TZ": "UTC"}

    @property
    def alarms(self) -> list[tuple[str, str]]:
        """What the chat was told, in its order: the step, and the condition with what it is about."""
        told = (each for message in self.receiver.received for each in message["troubles"])
        return [(each["step"], f"{each['condition']} {each['subject']}".strip()) for each in told]

    @property
    def alarms_of_command(self) -> list[tuple[str, str]]:
        """The same as ALERT_COMMAND got it."""
        lines = (self.folder / "alarms").read_text().splitlines()
        told = (each for line in lines for each in json.loads(line)["troubles"])
        return [(each["step"], f"{each['condition']} {each['subject']}".strip()) for each in told]

    def told(self, *alarms: tuple[str, str]) -> None:
        """The next alarms are these and no others, in whatever order; they were received both ways."""
        before, there = self._told, self._told + len(alarms)
        self._until(lambda: len(self.alarms) >= there, f"somebody is told of {alarms}")
        self._until(lambda: len(self.alarms_of_command) >= there, "the command is run")
        assert sorted(self.alarms[before:]) == sorted(self.alarms_of_command[before:]) == sorted(alarms)
        self._told = there
        if alarms:
            self.show("the chat", *self.receiver.received[self._shown :])
        self._shown = len(self.receiver.received)

    _told = _shown = 0

    # The story.

    def tell(self, *lines: str) -> None:
        self.story += lines

    def show(self, what: str, *said: Any) -> None:
        """What the operator reads there."""
        texts = [each["text"] if isinstance(each, dict) else str(each) for each in said]
        self.story.append(f"{what}:")
        for line in chain.from_iterable(text.strip().splitlines() for text in texts):
            self.story += textwrap.wrap(line, 150, initial_indent="    ", subsequent_indent=" " * 12)

    # The provider, and the disk.

    def consent(self) -> None:
        """The mailbox's owner consents: `authorize` shows a code, and the owner types it at the provider."""
        codes = self.world.tokens.devices
        with subprocess.Popen(
            [*self.inside, *_command(self.folder, "authorize")], env=self.environment, stdout=subprocess.PIPE, text=True
        ) as process:
            wait_until(lambda: "waiting" in codes.values() or process.poll() is not None, "a code", START_SECONDS)
            for code in [code for code, state in codes.items() if state == "waiting"]:
                self.world.tokens.approve(code)
            said, _ = process.communicate(timeout=START_SECONDS)
        assert process.returncode == 0, said

    def revoke(self) -> None:
        """The provider takes the consent back: "sign out everywhere", a new password, an administrator."""
        for token in self.world.tokens.tokens:
            token.revoked = True
        self.world.tokens.refresh_tokens.clear()

    def was_full(self, moment: float) -> bool:
        return self.full_since < moment < self.full_until

    def fill_disk(self) -> None:
        self.full_since = self._now()
        ask(*self.inside, "sh", "-c", 'cat /dev/zero >"$1" 2>/dev/null || test -s "$1"', "sh", self._filler)

    def empty_disk(self) -> None:
        ask(*self.inside, "rm", self._filler)
        self.full_until = self._now()

    @property
    def _filler(self) -> str:
        return f"{self.world.variables['STATE_DIR']}/somebody's film"


@contextmanager
def firm(certificate: Certificate, folder: Path) -> Iterator[Firm]:
    """From Monday morning on."""
    alarm = folder / "alarm"
    alarm.write_text(f'#!/bin/sh\nprintf "%s\\n" "$TROUBLE_JSON" >>{folder}/alarms\n')
    alarm.chmod(0o755)
    (folder / "alarms").touch()
    (folder / "state").mkdir(mode=0o700)
    clock = hurried.Clock(folder / "clock")
    with ExitStack() as stack:
        receiver = stack.enter_context(receiving())
        portal = stack.enter_context(start_blocking_portal("asyncio"))
        given = {
            "OAUTH2_GRANT": "device_code", "LOG_LEVEL": "info", "ADMIN_BIND_PORT": "0", "EVENT_LOOP": "asyncio",
            "RELAY_PLUGIN": "spool", "SPOOL_URL": f"sqlite:///{folder}/spool/spool.db", "SPOOL_RETRY_SECONDS": "60",
            "SMTP_MAX_OCTETS": "200000", "ALERT_COMMAND": str(alarm), "ALERT_WEBHOOK_URL": receiver.url, "TZ": "UTC",
        }  # fmt: skip
        world = stack.enter_context(
            portal.wrap_async_context_manager(provider(certificate, folder, "plain xoauth2", **given))
        )
        mounting, inside = _disk(Path(world.variables["STATE_DIR"]))
        proxy = stack.enter_context(running(world.variables, [*mounting, *_command(folder)]))
        inside = [part.replace("PROXY", str(proxy.process.pid)) for part in inside]
        yield Firm(world, proxy, clock, folder, receiver, inside, bool(mounting))


def _command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, hurried.__file__, str(folder / "clock"), *arguments]


def _disk(state: Path) -> tuple[list[str], list[str]]:
    """What starts a program with a small disk of its own there, and what runs another one that sees it.

    Empty where nothing may be mounted: then the story goes without a full disk.
    """
    unshare, nsenter = (require(each, "gives a test a disk of its own") for each in ("unshare", "nsenter"))
    script = f'mount -t tmpfs -o size={DISK_MIB}m,mode=700 none "$1" && shift && exec "$@"'
    mounting = [unshare, "-m", "sh", "-c", script, "sh", str(state)]
    if subprocess.run([*mounting, "true"], capture_output=True, check=False).returncode:
        return [], []
    return mounting, [nsenter, "--target", "PROXY", "--mount"]
