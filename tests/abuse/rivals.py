"""The same attacks on trusted servers: Dovecot's POP3 and Postfix's SMTP, where they have the same leg.

Only the honest client's times are taken: their memory and log are spread over many processes.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Self

from abuse.measure import Row
from abuse.scene import Attack, Honest, Scene
from bench.rivals import postfix_relay
from realservers.certificates import Certificates
from realservers.dovecot import Dovecot


class RivalScene(Scene):
    """Where a rival stands in the proxy's place; only in the legs that both have."""

    def __init__(self, attack: Attack, *, small: bool) -> None:
        super().__init__(attack, small=small)
        self.row.attack += " (rival)"

    def __enter__(self) -> Self:
        self.folder = Path(self.undo.enter_context(tempfile.TemporaryDirectory(prefix="abuse-")))
        folder = self.folder / "certificates"
        folder.mkdir()
        certificate = Certificates.write(folder).good
        if self.attack.rival in ("pop3", "both"):
            dovecot = self.undo.enter_context(Dovecot.start(certificate))
            account = dovecot.accounts["alice"]
            dovecot.add_messages(account.name, [b"Subject: hello\r\n\r\n" + b"a line\r\n" * 100] * 2)
            self.user, self.password = account.name, account.password
            self.ports["pop3"] = dovecot.pop3_port
        if self.attack.rival in ("smtp", "both"):
            # It keeps what its backend doesn't take: what is measured is how it answers.
            self.ports["smtp"] = self.undo.enter_context(postfix_relay(certificate, 9))
        return self

    def attacked(self) -> Row:
        client = Honest(self)
        try:
            client.warm_up()
            began = time.monotonic()
            self.run_attack(began)
            self.row.honest(client.stop(), began, self.attack.allowed, client.legs)
        finally:
            client.stop()
        return self.row
