"""The providers behind the proxy, in a process of their own: the fakes, with the habits that an attack needs.

`backend.py '{"accounts": [[user, password], ...], ...}'` prints its ports, and then, for each line that it reads, what
it has counted so far. Habits: `refusal_seconds` (how long a refused IMAP login takes), `large` (octets of the second
message), `endless` (that message is listed with 100 octets, and announced as a literal of 4 GiB when it is asked for),
`refusing_seconds` (how long a second SMTP server takes to refuse a message for now).
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from fakes.imap import Connection, FakeIMAPServer, Mailbox, Message, Simple
from fakes.smtp import FakeSMTPServer, Say

LITERAL = b"{4294967295}"
"""The largest that a server may announce."""
SENT_OCTETS = 128 << 20
"""What of it is really sent: enough to see whether somebody stops it."""
FIRST = b"Subject: hello\r\nFrom: <a@example.test>\r\n\r\n" + b"a line of the message\r\n" * 40
LINE = b"0123456789" * 7 + b"\r\n"


class Provider:
    """Both fakes; neither uses TLS, which would only take time from what is measured."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._passwords = [password for _, password in options["accounts"]]
        self._refusal_seconds = options.get("refusal_seconds", 0.0)
        self._refused = 0
        endless = options.get("endless", False)
        second = LINE * ((SENT_OCTETS if endless else options.get("large", 100)) // len(LINE))
        accounts = {
            (user, password): Mailbox({1: Message(FIRST), 2: Message(second, size=100 if endless else None)})
            for user, password in options["accounts"]
        }
        self.imap = FakeIMAPServer(
            accounts, encryption="none", script={"LOGIN": self._judge}, capabilities=("UIDPLUS", "ID")
        )
        self.smtp = FakeSMTPServer(encryption="none")
        refused = Say("451 4.3.0 not now", options.get("refusing_seconds", 0.0))
        self.refusing = FakeSMTPServer(encryption="none", script={".": refused, "BDAT": refused}, keep_content=False)
        if endless:
            true = b"{%d}" % len(second)
            self.imap.shape = lambda octets: octets.replace(true, LITERAL) if len(octets) < 1000 else octets

    async def _judge(self, _: Connection, command: str) -> Simple:
        if not any(password in command for password in self._passwords):
            self._refused += 1
            await asyncio.sleep(self._refusal_seconds)
        return None

    def counted(self) -> dict[str, Any]:
        return {
            "refused": self._refused,
            "logins": self.imap.times("LOGIN"),
            "subjects": [message.content.partition(b"\r\nSubject: ")[2].partition(b"\r\n")[0].decode("latin-1")
                         or message.content.partition(b"Subject: ")[2].partition(b"\r\n")[0].decode("latin-1")
                         for message in self.smtp.messages],
            "imap_octets": self.imap.sent_octets,
        }  # fmt: skip


async def main(options: dict[str, Any]) -> None:
    provider = Provider(options)
    loop = asyncio.get_running_loop()
    async with provider.imap, provider.smtp, provider.refusing:
        ports = {"imap": provider.imap.port, "smtp": provider.smtp.port, "refusing": provider.refusing.port}
        print(json.dumps(ports), flush=True)
        while await loop.run_in_executor(None, sys.stdin.readline):
            print(json.dumps(provider.counted()), flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
