"""Dovecot 2.3: the IMAPS account behind the proxy, the POP3 server to compare ours with, and the judge of logins.

It runs as root or as an ordinary user, whichever runs the tests.
"""

from __future__ import annotations

import imaplib
import os
import ssl
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from realservers.accounts import Account, Accounts
from realservers.certificates import Certificate
from realservers.dovecot_conf import Owner, Storage, configuration
from realservers.maildir import Maildir
from realservers.processes import Daemon, ask, on_free_ports, require, short_folder, unavailable, wait_until
from realservers.server import Server

IMAP_SECONDS = 30.0
IMPORT_SECONDS = 60.0


def require_dovecot() -> str:
    """The path of Dovecot 2.3; without it, or its IMAP, POP3 or LMTP part, the test is skipped (in CI: fails)."""
    program = require("dovecot", "is the real IMAP and POP3 server")
    version = ask(program, "--version")
    if not version.startswith("2.3."):
        unavailable(f"Dovecot {version} is installed, and our configuration speaks to 2.3")
    parts = Path(ask(require("doveconf", "comes with Dovecot"), "-d", "-h", "libexec_dir"))
    missing = [part for part in ("imap", "pop3", "lmtp") if not (parts / part).exists()]
    if missing:
        unavailable(f"Dovecot is installed without {', '.join(missing)}")
    return program


class Dovecot(Server):
    """A running Dovecot; `Dovecot.start(…)` returns once it answers, and leaving its `with` block stops it.

    Its users are the `accounts`. Methods that take a user want the account's name.
    """

    def __init__(self, folder: Path, certificate: Certificate, storage: Storage, plain_host: str) -> None:
        super().__init__()
        self.ca_file = certificate.ca_file
        self.plain_host = plain_host
        self.imaps_port = self.imap_port = self.pop3_port = 0
        self.lmtp_socket = folder / "lmtp"
        self.auth_socket = folder / "auth"
        self.accounts = Accounts(folder / "users")
        self._folder = folder
        self._storage = storage
        self._owner = Owner.present()
        self._maildirs: dict[str, Maildir] = {}

    @classmethod
    def start(
        cls,
        certificate: Certificate,
        *,
        storage: Storage = "maildir",
        login_without_tls: bool = True,
        settings: str = "",
    ) -> Self:
        """Start it; `settings` are further lines of dovecot.conf, which overrule ours.

        IMAPS listens on 127.0.0.1, IMAP (with STARTTLS) and POP3 on `plain_host`. That is 127.0.0.1 too, unless a login
        without TLS shall be refused: Dovecot takes a client with the server's own address for secure and lets it log in
        all the same, so `plain_host` then is 127.0.0.2, which a client reaches from 127.0.0.1.
        """
        require_dovecot()
        with ExitStack() as stack:
            folder = stack.enter_context(short_folder("dovecot-"))
            self = cls(folder, certificate, storage, "127.0.0.1" if login_without_tls else "127.0.0.2")
            home = folder / "home"
            home.mkdir(mode=0o700)
            os.chown(home, self._owner.uid, self._owner.gid)

            def start_on(ports: list[int]) -> Daemon:
                self.imaps_port, self.imap_port, self.pop3_port = ports
                text = configuration(
                    folder=folder,
                    certificate=certificate,
                    storage=storage,
                    plain_host=self.plain_host,
                    login_without_tls=login_without_tls,
                    ports=(self.imaps_port, self.imap_port, self.pop3_port),
                    owner=self._owner,
                )
                self._configuration_file.write_text(text + settings + "\n")
                return self._run()

            self._started(on_free_ports(3, start_on), stack)
        return self

    def _run(self) -> Daemon:
        return Daemon.start(
            [require_dovecot(), "-F", "-c", str(self._configuration_file)],
            log_file=self._folder / "log",
            started="starting up for",
            ports=[self.imaps_port],
        )

    @property
    def _configuration_file(self) -> Path:
        return self._folder / "dovecot.conf"

    def add_account(self, name: str | None = None, password: str | None = None) -> Account:
        """A fresh account, with an empty mailbox that no other test knows of."""
        return self.accounts.add(name, password)

    def add_message(self, user: str, octets: bytes) -> None:
        self.add_messages(user, [octets])

    def add_messages(self, user: str, messages: Iterable[bytes]) -> None:
        """Put the messages into the user's INBOX as they are, line ends included, in this order.

        They are files in a Maildir, where Dovecot finds them at its next look. With mdbox they are imported from there,
        and the import drops a CR before a CRLF or at the very end.
        """
        home = self._folder / "home" / user
        if self._storage == "maildir":
            if user not in self._maildirs:
                self._maildirs[user] = Maildir(home / "maildir", self._owner.uid, self._owner.gid)
            self._maildirs[user].add(messages)
            return
        doveadm = require("doveadm", "comes with Dovecot")
        with short_folder("import-") as folder:
            staged = folder / "home" / "maildir"
            Maildir(staged, self._owner.uid, self._owner.gid).add(messages)
            command = [
                doveadm,
                "-c",
                str(self._configuration_file),
                "import",
                "-u",
                user,
                f"maildir:{staged}",
                "",
                "all",
            ]
            ask(*command, seconds=IMPORT_SECONDS)

    def files(self, user: str) -> list[Path]:
        """The files of the user's INBOX, to be read without a server; Maildir only."""
        maildir = self._folder / "home" / user / "maildir"
        return [file for folder in ("new", "cur") for file in (maildir / folder).glob("*")]

    @contextmanager
    def connect(self, user: str) -> Iterator[imaplib.IMAP4_SSL]:
        """An IMAPS connection of that user, as another mail program would have it open; no folder is selected yet.

        The certificate is not checked, because the mailbox behind a bad one must be readable for the test, too.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with imaplib.IMAP4_SSL("127.0.0.1", self.imaps_port, ssl_context=context, timeout=IMAP_SECONDS) as connection:
            # Not LOGIN: imaplib has no way to send a password beyond ASCII in one.
            connection.authenticate("PLAIN", lambda _: f"\0{user}\0{self.accounts[user].password}".encode())
            yield connection

    def _fetch(self, user: str, folder: str, item: str) -> list[bytes | tuple[bytes, bytes]]:
        """The raw answers to one FETCH of all messages, without leaving a trace on them."""
        with self.connect(user) as connection:
            _, answer = connection.select(folder, readonly=True)
            if answer == [b"0"]:
                return []
            return [part for part in connection.fetch("1:*", item)[1] if part is not None]

    def messages(self, user: str, folder: str = "INBOX") -> list[bytes]:
        """What another mail program sees there, read over IMAPS."""
        return [part[1] for part in self._fetch(user, folder, "(BODY.PEEK[])") if isinstance(part, tuple)]

    def flags(self, user: str, folder: str = "INBOX") -> list[set[str]]:
        """The flags of each message, such as `{"\\Seen"}`."""
        parts = self._fetch(user, folder, "(FLAGS)")
        return [{flag.decode() for flag in imaplib.ParseFlags(part)} for part in parts if isinstance(part, bytes)]

    def wait_for_messages(self, user: str, count: int, *, folder: str = "INBOX", seconds: float = 10.0) -> list[bytes]:
        """The messages, once there are that many: a delivery that was accepted arrives a moment later."""
        with self.connect(user) as connection:

            def arrived() -> bool:
                _, answer = connection.select(folder, readonly=True)
                return int(answer[0] or 0) >= count

            wait_until(arrived, f"{user} has {count} messages in {folder}", seconds)
        return self.messages(user, folder)
