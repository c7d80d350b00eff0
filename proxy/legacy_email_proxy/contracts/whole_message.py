"""The base class of a relay that wants the whole message at once, instead of a transaction step by step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from .context import Context
from .failures import Finding
from .relay import Client, Message, Parameters, Receipt, RelayCapabilities, Transaction

__all__ = ("WholeMessageRelay",)


class WholeMessageRelay(ABC):
    """For a relay that wants the whole message at once: write :meth:`deliver`, the rest is here.

    The message is held in memory: each session needs up to ``SMTP_MAX_OCTETS``. Every recipient is accepted first;
    ``deliver`` then gives one verdict for all of them.
    """

    def __init__(self, context: Context) -> None:
        self.context = context

    @abstractmethod
    async def deliver(self, message: Message) -> None:
        """Deliver to every recipient. Returning means done, durably; raise :class:`Refused` or another failure if not.

        An exception that is no :class:`Failure` is logged with its traceback and told to the device as temporary.
        """

    @asynccontextmanager
    async def transaction(
        self, client: Client, reverse_path: str, parameters: Parameters
    ) -> AsyncIterator[Transaction]:
        """See :meth:`Relay.transaction`."""
        yield _Collecting(self, client, reverse_path, parameters)

    def capabilities(self) -> RelayCapabilities:
        """See :meth:`Relay.capabilities`: no limit of its own, unless a subclass says otherwise."""
        return RelayCapabilities()

    async def probe(self) -> Sequence[Finding]:
        """See :meth:`Relay.probe`: no findings, unless a subclass has some."""
        return ()

    async def aclose(self) -> None:  # noqa: B027 (a relay without connections has nothing to close)
        """See :meth:`Relay.aclose`."""


class _Collecting:
    def __init__(self, relay: WholeMessageRelay, client: Client, reverse_path: str, parameters: Parameters) -> None:
        self._relay = relay
        self._client = client
        self._reverse_path = reverse_path
        self._parameters = parameters
        self._forward_paths: list[str] = []

    async def add_recipient(self, forward_path: str, parameters: Parameters) -> None:
        self._forward_paths.append(forward_path)

    async def send(self, content: AsyncIterator[bytes]) -> Receipt:
        collected = b"".join([chunk async for chunk in content])
        paths = tuple(self._forward_paths)
        await self._relay.deliver(Message(self._client, self._reverse_path, paths, collected, self._parameters))
        return Receipt()
