"""Claws Mail, a mail program with windows, on a screen that nobody sees; driven by its command line and its files."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from realservers.processes import Daemon, require, short_folder, wait_until

SECONDS = 50.0
ADDRESS = "desktop@example.test"

# The password store takes a password in the clear, as programs of old have left it there.
FILES = {
    "clawsrc": "[Common]\nconfig_version=4\n",
    "passwordstorerc": "[config_version:4]\n[account:1]\nrecv thing\n",
    "folderlist.xml": """\
<?xml version="1.0" encoding="UTF-8"?>
<folderlist>
  <folder type="mh" name="Mailbox" path="Mail">
    <folderitem type="inbox" name="inbox" path="inbox"/>
    <folderitem type="outbox" name="sent" path="sent"/>
    <folderitem type="draft" name="draft" path="draft"/>
    <folderitem type="queue" name="queue" path="queue"/>
    <folderitem type="trash" name="trash" path="trash"/>
  </folder>
</folderlist>
""",
}
ACCOUNT = """\
[Account: 1]
config_version=4
account_name=desktop
is_default=1
name=Desktop
address={address}
protocol=0
receive_server={pop3[0]}
set_popport=1
pop_port={pop3[1]}
user_id=any
inbox=#mh/Mailbox/inbox
remove_mail={remove}
message_leave_time=0
smtp_server={smtp[0]}
set_smtpport=1
smtp_port={smtp[1]}
"""
# What Claws Mail writes above a message when its user presses "Send later".
QUEUED = "S:<{address}>\nSSV:127.0.0.1\nR:<{forward_path}>\nMAID:1\nX-Claws-End-Special-Headers: 1\n"


@contextmanager
def screen() -> Iterator[str]:
    """The name of a screen without a monitor."""
    program = require("Xvfb", "is the screen of a desktop client")
    with short_folder("screen-") as folder:
        command = [program, "-displayfd", "1", "-noreset", "-nolisten", "tcp"]
        daemon = Daemon.start(command, log_file=folder / "log", started="\n", ports=())

        def number() -> str:
            found = re.search(r"^(\d+)\n", daemon.log, re.MULTILINE)
            return found[1] if found else ""

        try:
            # It chooses a number, and tells it when clients may come; warnings may stand before that.
            wait_until(lambda: bool(number()), "Xvfb tells its number", SECONDS)
            yield f":{number()}"
        finally:
            daemon.stop()


@dataclass(frozen=True)
class Desktop:
    """The home of the program's one user, who has one account, and where its files are."""

    home: Path
    display: str
    pop3: tuple[str, int]
    smtp: tuple[str, int]

    def prepare(self) -> None:
        """What a user answers at the first start."""
        for name in ("inbox", "sent", "draft", "queue", "trash"):
            (self.home / "Mail" / name).mkdir(parents=True)
        (self.home / ".claws-mail").mkdir()
        for name, text in FILES.items():
            (self.home / ".claws-mail" / name).write_text(text)

    @property
    def inbox(self) -> list[bytes]:
        """The messages that it has, in the order in which it took them."""
        return [file.read_bytes() for file in self._files("inbox")]

    @property
    def queue(self) -> list[Path]:
        return self._files("queue")

    def _files(self, folder: str) -> list[Path]:
        found = (self.home / "Mail" / folder).glob("[0-9]*")
        return sorted(found, key=lambda file: int(file.name))

    @property
    def unique_ids(self) -> list[str]:
        """The unique-ids that it remembers to have taken."""
        folder = self.home / ".claws-mail" / "uidl"
        # A list is written to a file with another name first. That one may be gone when it should be read.
        files = [file for file in folder.glob("*") if file.suffix != ".tmp"]
        return [line.split("\t")[0] for file in files for line in file.read_text().splitlines()]

    def receive(self, done: Callable[[], bool], *, remove: bool = False) -> None:
        """Start the program, let it fetch until that is done, and leave it."""
        self._run("--receive-all", done, remove)

    def send(self, forward_path: str, message: str) -> None:
        """Send a message that its user had put off."""
        envelope = QUEUED.format(address=ADDRESS, forward_path=forward_path)
        (self.home / "Mail" / "queue" / "1").write_text(f"{envelope}{message}")
        self._run("--send", lambda: not self.queue, remove=False)

    def _run(self, order: str, done: Callable[[], bool], remove: bool) -> None:
        program = require("claws-mail", "is a POP3 client with windows")
        account = ACCOUNT.format(address=ADDRESS, pop3=self.pop3, smtp=self.smtp, remove=int(remove))
        (self.home / ".claws-mail" / "accountrc").write_text(account)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.home),
            "DISPLAY": self.display,
            "LANG": "C.UTF-8",
            # Otherwise it starts a message bus, which stays, and asks a network manager whether it is online.
            "DBUS_SESSION_BUS_ADDRESS": "disabled:",
            "DBUS_SYSTEM_BUS_ADDRESS": "disabled:",
            "NO_AT_BRIDGE": "1",
        }
        with (self.home / "output").open("ab") as output:
            process = subprocess.Popen(
                [program, "--debug", order], env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            wait_until(lambda: done() or process.poll() is not None, f"claws-mail {order} is done", SECONDS)
            assert process.poll() is None, (self.home / "output").read_text(errors="replace")
            subprocess.run([program, "--exit"], env=environment, timeout=SECONDS, check=True, stdout=subprocess.DEVNULL)
            assert process.wait(SECONDS) == 0
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
