"""The accounts of the POP3 benchmark at a real Dovecot, and the servers that are put before them."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, ExitStack

from bench import command, mail
from bench.imap import RawIMAP
from bench.rivals import dovecot_over_imapc
from bench.servers import Proxy, optional, proxy
from realservers.accounts import Account
from realservers.certificates import Certificates
from realservers.dovecot import Dovecot
from realservers.processes import short_folder, wait_until

PASSWORD = "secret"
POOL = 10
NAMES = ("listed", "small", "large", "headers")
_SETTLE_SECONDS = 10.0


class Mailboxes:
    """A backend with an account for each of NAMES, all with one PASSWORD; `rival_port` is None without the rival."""

    def __init__(self, stack: ExitStack) -> None:
        certificates = Certificates.write(stack.enter_context(short_folder("bench-certificates-")))
        self._backend = stack.enter_context(Dovecot.start(certificates.good, storage="mdbox"))
        self._accounts = {name: self._backend.add_account(name, PASSWORD) for name in NAMES}
        self._full: set[str] = set()
        accounts = list(self._accounts.values())
        rival = optional(stack, command.note, lambda: dovecot_over_imapc(certificates.good, self._backend, accounts))
        self.rival_port = None if rival is None else rival.pop3_port
        self.imaps_port = self._backend.imaps_port

    def filled(self, name: str, count: int, octets: int) -> Account:
        """The account, filled when it is first asked for, and listed once: its server then knows all sizes."""
        account = self._accounts[name]
        if name not in self._full:
            self._full.add(name)
            with self.raw(account) as raw:
                raw.append(mail.messages(count, octets))
            with self.raw(account) as raw:
                raw.ask(b"UID FETCH 1:* (RFC822.SIZE)")
        return account

    def raw(self, account: Account) -> RawIMAP:
        return RawIMAP(self.imaps_port, self._backend.ca_file, account.name, PASSWORD)

    def proxy(self, account: Account) -> AbstractContextManager[Proxy]:
        return proxy(
            RELAY_PLUGIN="none",
            BACKEND_IMAP_HOST="localhost",
            BACKEND_IMAP_PORT=str(self.imaps_port),
            BACKEND_IMAP_USER=account.name,
            BACKEND_IMAP_PASS=PASSWORD,
            BACKEND_IMAP_CA_FILE=str(self._backend.ca_file),
            BACKEND_IMAP_MAX_CONNECTIONS=str(POOL),
        )

    def octets_sent_to(self, account: Account) -> int:
        """All that the backend has sent over connections of the account that have ended; waits until all have."""
        log_in, log_out = f"Login: user=<{account.name}>", rf"imap\({account.name}\).* out=(\d+)"

        def sent() -> list[str]:
            return re.findall(log_out, self._backend.log)

        wait_until(
            lambda: len(sent()) == self._backend.log.count(log_in), "all connections have ended", _SETTLE_SECONDS
        )
        return sum(map(int, sent()))
