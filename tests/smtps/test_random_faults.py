"""Many transactions at once, random faults and cancellations: no slot is lost, and what was told is what happened."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from fakes.server import Step
from fakes.smtp import Action, Connection, Drop, FakeSMTPServer, Raw, Reset, Simple
from legacy_email_proxy.contracts import Disconnected, Failure
from legacy_email_proxy_plugins.smtps import Limits, SMTPSRelay, Timeouts
from realservers.certificates import Certificates
from smtps.support import CHUNKED, CLIENT, KEYWORDS, PIPELINED, PLAIN, TOGETHER, Dialogue, deliver, relaying

TRANSACTIONS = 80
SIZE = 3

WRONG: dict[str, list[Simple]] = {
    "any": [
        "450 4.2.0 later",
        "550 5.1.1 never",
        "421 4.3.2 going",
        Drop(),
        Drop(b"421 4.3.2 going\r\n"),
        Drop(b"25"),
        Reset(),
        Raw(b"what?\r\n"),
        Raw(b"550 no\r\n250 but yes\r\n"),
        "354 more",
        "235 you are in",
    ],
    # One who answers twice, late, can't be told from one who answers once: but what comes at once can.
    "RCPT": [Raw(b"250 yes\r\n550 but no\r\n")],
    "DATA": ["250 already?", Raw(b"354 go\r\n250 queued\r\n")],
    ".": [Drop(accept=True), Raw(b"250 queued\r\n421 bye\r\n")],
    "RSET": [Raw(b"250 yes\r\n250 yes\r\n")],
}


class Vanished(Exception):
    """The device has gone."""


class Chaos:
    """Faults and cancellations by one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def script(self) -> dict[Step, Action]:
        return {step: self._at(step) for step in ("GREETING", "AUTH", "MAIL", "RCPT", "DATA", "BDAT", ".", "RSET")}

    def _at(self, step: str) -> Action:
        wrong = WRONG["any"] + WRONG.get(step, [])

        def act(connection: Connection, line: str) -> Simple:
            return self.random.choice(wrong) if self.random.random() < 0.06 else None

        return act

    async def content(self, name: str) -> AsyncIterator[bytes]:
        yield f"Message-ID: {name}\r\n\r\n".encode()
        for _ in range(self.random.randrange(4)):
            if self.random.random() < 0.1:
                raise Vanished
            if self.random.random() < 0.3:
                await asyncio.sleep(self.random.random() / 500)
            yield b"0123456789abcd\r\n" * self.random.choice((1, 5000, 20000))
        if self.random.random() < 0.1:
            raise Vanished

    async def one(self, relay: SMTPSRelay, name: str, dialogue: Dialogue) -> str:
        """What the device is told: that it is ``delivered``, that it is ``not``, or that nobody ``knows``."""
        device = replace(CLIENT, address=f"192.0.2.{self.random.randrange(4)}")
        recipients = [f"r{number}@example.test" for number in range(self.random.randrange(1, 4))]
        task = asyncio.create_task(
            deliver(
                relay,
                *recipients,
                content=self.content(name),
                reverse_path=f"{name}@example.test",
                dialogue=dialogue,
                client=device,
            )
        )
        if self.random.random() < 0.2:
            asyncio.get_running_loop().call_later(self.random.random() / 20, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            return "knows"
        except Disconnected as lost:
            return "knows" if "may have been delivered" in lost.detail else "not"
        except (Failure, Vanished):
            return "not"
        return "delivered"


def copies(server: FakeSMTPServer) -> Counter[str]:
    """How often the backend took each message; what it took for nobody, or empty, counts as well."""
    return Counter(message.mail.partition("<")[2].partition("@")[0] for message in server.messages)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("dialogue", "keywords"),
    [(PLAIN, KEYWORDS), (PIPELINED, None), (TOGETHER, None), (CHUNKED, None), (replace(CHUNKED, together=True), None)],
    ids=["plain", "pipelined", "together", "chunked", "chunked-together"],
)
async def test_what_is_told_is_what_happened(
    dialogue: Dialogue, keywords: tuple[str, ...] | None, seed: int, certificates: Certificates
) -> None:
    chaos = Chaos(seed)
    async with relaying(
        certificates.good,
        chaos.script(),
        encryption="implicit" if seed else "none",
        dialogue=dialogue,
        keywords=keywords,
        timeouts=replace(Timeouts(), rset=1),
        limits=Limits(transactions=20),
        BACKEND_SMTP_MAX_CONNECTIONS=SIZE,
    ) as (server, relay):
        names = [f"m{number}" for number in range(TRANSACTIONS)]
        told = await asyncio.gather(*(chaos.one(relay, name, dialogue) for name in names))
        pool = relay._pool
        assert (pool._places.taken, dict(pool._places._taken), pool._places.waiting, len(pool._lent)) == (0, {}, 0, 0)
        await relay.aclose()
        await server.until(lambda server: server.open_connections == 0)
        happened = copies(server)
        for name, said in zip(names, told, strict=True):
            assert happened[name] in {"delivered": (1,), "not": (0,), "knows": (0, 1)}[said], (name, said)
        for message in server.messages:
            sender = message.mail.partition("<")[2].partition("@")[0]
            assert message.content.startswith(f"Message-ID: {sender}\r\n".encode())
        assert {"delivered", "not"} <= set(told)
        assert {message.rcpt != () for message in server.messages} == {True}
