"""A relay in memory whose verdicts the envelope itself asks for, so that a transcript shows cause and effect."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from legacy_email_proxy.contracts import (
    Client,
    Disconnected,
    Finding,
    Parameters,
    Receipt,
    Recipient,
    Refused,
    RelayCapabilities,
    Unreachable,
)


@dataclass
class Delivered:
    """One message that the relay said it has taken over."""

    client: Client
    reverse_path: str
    parameters: Parameters
    forward_paths: list[str] = field(default_factory=list)
    recipient_parameters: list[Parameters] = field(default_factory=list)
    content: bytes = b""


def _verdict(text: str) -> None:
    """``refuse-550@…`` is refused with 550 5.9.9; ``down@…`` is unreachable, ``lost@…`` is lost, ``bug@…`` is a bug."""
    if found := re.match(r"refuse-(\d)(\d\d)", text):
        raise Refused(int("".join(found.groups())), f"{found[1]}.9.9", f"the backend says\r\n{found[1]}{found[2]} no")
    if text.startswith("down@"):
        raise Unreachable("connection refused by 192.0.2.1", look_at="BACKEND_SMTP_HOST")
    if text.startswith("lost@"):
        raise Disconnected("the backend hung up")
    if text.startswith("bug@"):
        raise ValueError("secret detail\r\n250 forged")


class MemoryRelay:
    """Keeps what it was given.

    ``groups`` makes it take recipients by the group, ``places`` bounds its transactions as a pool does; ``asked`` is
    what it was asked for, ``content`` all octets that it was given, delivered or not. ``hold`` can stop ``send`` after
    the content ended, before its verdict; ``holding`` tells that it did, or that the
    verdict on ``stuck@…`` is being waited for.
    """

    def __init__(self) -> None:
        self.delivered: list[Delivered] = []
        self.entered = 0
        self.left = 0
        self.max_octets: int | None = None
        self.smtputf8 = self.dsn = False
        self.asked: list[tuple[str, ...] | str] = []
        self.groups = False
        self.places: asyncio.Semaphore | None = None
        self.content = b""
        self.hold: asyncio.Event | None = None
        self.holding = asyncio.Event()
        self.octets = 0
        self.read_content = True
        self.keep_content = True
        self.receipt: Receipt | None = Receipt("250 2.0.0 queued as 42", "42")
        self.leaving: asyncio.Event | None = None
        self.delay_seconds = 0.0

    @asynccontextmanager
    async def transaction(
        self, client: Client, reverse_path: str, parameters: Parameters
    ) -> AsyncIterator[MemoryTransaction]:
        _verdict(reverse_path)
        if self.places is not None:
            await self.places.acquire()
        self.entered += 1
        task = asyncio.current_task()
        kind = GroupTransaction if self.groups else MemoryTransaction
        try:
            yield kind(self, Delivered(client, reverse_path, parameters))
        finally:
            if self.places is not None:
                self.places.release()
            while self.leaving is not None and not self.leaving.is_set():
                with suppress(asyncio.CancelledError):
                    await self.leaving.wait()
            assert asyncio.current_task() is task or client.session == "-"
            self.left += 1

    def capabilities(self) -> RelayCapabilities:
        return RelayCapabilities(self.max_octets, self.smtputf8, self.dsn)

    async def probe(self) -> Sequence[Finding]:
        return ()

    async def aclose(self) -> None:
        pass


class MemoryTransaction:
    def __init__(self, relay: MemoryRelay, message: Delivered) -> None:
        self._relay = relay
        self._message = message

    async def add_recipient(self, forward_path: str, parameters: Parameters) -> None:
        self._relay.asked.append(forward_path)
        _verdict(forward_path)
        if forward_path.startswith("stuck@"):
            self._relay.holding.set()
            await asyncio.Event().wait()
        self._message.forward_paths.append(forward_path)
        self._message.recipient_parameters.append(parameters)

    async def send(self, content: AsyncIterator[bytes]) -> Receipt:
        if not self._relay.read_content:
            return Receipt("nonsense")
        async for piece in content:
            self._relay.octets += len(piece)
            self._relay.content += piece if self._relay.keep_content else b""
            if self._relay.keep_content:
                self._message.content += piece
            if b"X-Stop-Reading: yes" in self._message.content:
                _verdict("refuse-554")
        await asyncio.sleep(self._relay.delay_seconds)
        self._relay.holding.set()
        if self._relay.hold is not None:
            await self._relay.hold.wait()
        if found := re.search(rb"X-Verdict: (\S+)", self._message.content):
            _verdict(found[1].decode())
        self._relay.delivered.append(self._message)
        return self._relay.receipt  # type: ignore[return-value]


class GroupTransaction(MemoryTransaction):
    async def add_recipients(
        self, recipients: Sequence[Recipient], *, content_follows: bool
    ) -> Sequence[Refused | None]:
        self._relay.asked.append((*(each.forward_path for each in recipients), f"content_follows={content_follows}"))
        verdicts: list[Refused | None] = []
        for each in recipients:
            try:
                _verdict(each.forward_path)
            except Refused as refused:
                verdicts.append(refused)
            else:
                verdicts.append(None)
                self._message.forward_paths.append(each.forward_path)
                self._message.recipient_parameters.append(each.parameters)
        return verdicts
