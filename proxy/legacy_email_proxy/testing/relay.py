"""The promises of :class:`legacy_email_proxy.contracts.Relay`, each a test."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias

import anyio
import pytest

from ..contracts import NULL_REVERSE_PATH, Finding, Parameters, Receipt, Refused, Relay, RelayCapabilities
from .bench import CLIENT, CONTENTS, LARGE, Delivered, Suite, bounded, eventually, pieces_of

__all__ = ("RelaySuite",)

Look: TypeAlias = Callable[[], Awaitable[Sequence[Delivered]]]

_NO_PARAMETERS: Parameters = {}
_SIGNAL = b"Subject: the next message\r\n\r\nIt arrives alone.\r\n"


class _VanishedError(Exception):
    pass


@pytest.mark.anyio
class RelaySuite(Suite):
    """Subclass it as ``TestMyRelay`` and write two fixtures.

    ``relay`` gives the relay, made in the event loop (``async def``), and closes it after the test. ``delivered`` gives
    an async function without arguments that returns what has arrived since the test began.
    """

    reverse_path: str = "device@example.test"
    forward_paths: Sequence[str] = ("one@example.test", "two@example.test", "three@example.test")
    """Recipients that the backend accepts, at least two."""
    refused_forward_path: str | None = None
    """A recipient that the backend refuses while the transaction is open, if there is such a thing."""

    @pytest.fixture
    def relay(self) -> Any:
        """The relay to test."""
        raise NotImplementedError("write a fixture `relay`")

    @pytest.fixture
    def delivered(self) -> Any:
        """An async function that returns what has arrived."""
        raise NotImplementedError("write a fixture `delivered`")

    def expected(self, content: bytes) -> bytes:
        """What arrives of ``content``: override it where the protocol can't carry every octet as it is."""
        return content

    # Helpers.

    async def _send(self, relay: Relay, content: AsyncGenerator[bytes, None], *forward_paths: str) -> Receipt:
        async with aclosing(content), relay.transaction(CLIENT, self.reverse_path, _NO_PARAMETERS) as transaction:
            for forward_path in forward_paths or self.forward_paths[:1]:
                await transaction.add_recipient(forward_path, _NO_PARAMETERS)
            return await transaction.send(content)

    async def _arrive(self, delivered: Look, *contents: bytes) -> dict[bytes, list[Delivered]]:
        """Wait until each of ``contents`` has arrived; nothing else may, and nothing twice for one recipient."""
        wanted = {self.expected(content) for content in contents}
        found: dict[bytes, list[Delivered]] = {}

        async def all_there() -> bool:
            found.clear()
            for each in await delivered():
                found.setdefault(each.content, []).append(each)
            return wanted <= set(found)

        with anyio.move_on_after(self.seconds * 0.8):
            await eventually(all_there)
        assert set(found) == wanted
        for copies in found.values():
            readers = Counter(path for each in copies for path in each.forward_paths or ("everybody",))
            assert set(readers.values()) == {1}, "delivered more than once"
        return found

    async def _nothing_arrived(self, relay: Relay, delivered: Look) -> None:
        """Send another message: it must be the only one that arrives, and the relay must still work."""
        await self._send(relay, pieces_of(_SIGNAL, 1000))
        await self._arrive(delivered, _SIGNAL)

    # Content.

    @pytest.mark.parametrize("octets", [1, 65536], ids=["octet by octet", "in one piece"])
    @pytest.mark.parametrize("name", CONTENTS)
    @bounded
    async def test_content_arrives_octet_for_octet(self, relay: Relay, delivered: Look, name: str, octets: int) -> None:
        content = CONTENTS[name]
        receipt = await self._send(relay, pieces_of(content, octets))
        assert isinstance(receipt, Receipt)
        await self._arrive(delivered, content)

    @bounded
    async def test_large_message_arrives_whole(self, relay: Relay, delivered: Look) -> None:
        await self._send(relay, pieces_of(LARGE, 65536))
        await self._arrive(delivered, LARGE)

    @bounded
    async def test_empty_pieces_end_nothing(self, relay: Relay, delivered: Look) -> None:
        async def with_gaps() -> AsyncGenerator[bytes, None]:
            for piece in (b"", b"Subject: gaps\r\n\r\n", b"", b"body\r\n", b""):
                yield piece

        await self._send(relay, with_gaps())
        await self._arrive(delivered, b"Subject: gaps\r\n\r\nbody\r\n")

    # Envelope.

    @bounded
    async def test_null_reverse_path(self, relay: Relay, delivered: Look) -> None:
        content = CONTENTS["ordinary"]
        async with relay.transaction(CLIENT, NULL_REVERSE_PATH, _NO_PARAMETERS) as transaction:
            await transaction.add_recipient(self.forward_paths[0], _NO_PARAMETERS)
            await transaction.send(pieces_of(content, 1000))
        found = await self._arrive(delivered, content)
        assert found[self.expected(content)][0].reverse_path in (None, NULL_REVERSE_PATH)

    @bounded
    async def test_wishes_that_were_not_offered_spoil_nothing(self, relay: Relay, delivered: Look) -> None:
        content = CONTENTS["ordinary"]
        of_mail = {"BODY": "8BITMIME", "SIZE": str(len(content)), "RET": "HDRS", "ENVID": "QQ+3D1"}
        of_rcpt = {"NOTIFY": "SUCCESS,FAILURE", "ORCPT": f"rfc822;{self.forward_paths[0]}"}
        async with relay.transaction(CLIENT, self.reverse_path, of_mail) as transaction:
            await transaction.add_recipient(self.forward_paths[0], of_rcpt)
            await transaction.send(pieces_of(content, 1000))
        await self._arrive(delivered, content)

    @bounded
    async def test_every_recipient_gets_the_message_once(self, relay: Relay, delivered: Look) -> None:
        content = CONTENTS["ordinary"]
        await self._send(relay, pieces_of(content, 1000), *self.forward_paths)

        async def for_all() -> bool:
            copies = (await self._arrive(delivered, content))[self.expected(content)]
            if any(each.forward_paths is None for each in copies):
                return True
            assert {each.reverse_path for each in copies} <= {None, self.reverse_path}
            return {path for each in copies for path in each.forward_paths or ()} == set(self.forward_paths)

        await eventually(for_all)

    @bounded
    async def test_refused_recipient_leaves_the_others(self, relay: Relay, delivered: Look) -> None:
        if self.refused_forward_path is None:
            pytest.skip("no refused_forward_path")
        content = CONTENTS["ordinary"]
        async with relay.transaction(CLIENT, self.reverse_path, _NO_PARAMETERS) as transaction:
            await transaction.add_recipient(self.forward_paths[0], _NO_PARAMETERS)
            with pytest.raises(Refused) as caught:
                await transaction.add_recipient(self.refused_forward_path, _NO_PARAMETERS)
            await transaction.send(pieces_of(content, 1000))
        assert 400 <= caught.value.code <= 599
        await self._arrive(delivered, content)

    # What must deliver nothing.

    @pytest.mark.parametrize("recipients", [0, 1, 2])
    @bounded
    async def test_leaving_without_send_delivers_nothing(self, relay: Relay, delivered: Look, recipients: int) -> None:
        async with relay.transaction(CLIENT, self.reverse_path, _NO_PARAMETERS) as transaction:
            for forward_path in self.forward_paths[:recipients]:
                await transaction.add_recipient(forward_path, _NO_PARAMETERS)
        await self._nothing_arrived(relay, delivered)

    @bounded
    async def test_exception_before_send_passes_and_delivers_nothing(self, relay: Relay, delivered: Look) -> None:
        async def give_up() -> None:
            async with relay.transaction(CLIENT, self.reverse_path, _NO_PARAMETERS) as transaction:
                await transaction.add_recipient(self.forward_paths[0], _NO_PARAMETERS)
                raise _VanishedError

        with pytest.raises(_VanishedError):
            await give_up()
        await self._nothing_arrived(relay, delivered)

    @pytest.mark.parametrize("content", [b"", CONTENTS["dots"], LARGE], ids=["at once", "soon", "late"])
    @bounded
    async def test_content_that_raises_passes_and_delivers_nothing(
        self, relay: Relay, delivered: Look, content: bytes
    ) -> None:
        async def broken() -> AsyncGenerator[bytes, None]:
            async for piece in pieces_of(content, 65536):
                yield piece
            raise _VanishedError

        with pytest.raises(_VanishedError):
            await self._send(relay, broken())
        await self._nothing_arrived(relay, delivered)

    @pytest.mark.parametrize("content", [b"", CONTENTS["dots"], LARGE], ids=["at once", "soon", "late"])
    @bounded
    async def test_cancelled_before_the_end_delivers_nothing(
        self, relay: Relay, delivered: Look, content: bytes
    ) -> None:
        async with anyio.create_task_group() as tasks:

            async def stuck() -> AsyncGenerator[bytes, None]:
                async for piece in pieces_of(content, 65536):
                    yield piece
                tasks.cancel_scope.cancel()
                await anyio.sleep_forever()

            tasks.start_soon(self._send, relay, stuck())
        await self._nothing_arrived(relay, delivered)

    # Several sessions.

    @bounded
    async def test_transactions_at_once_do_not_mix(self, relay: Relay, delivered: Look) -> None:
        contents = [b"Subject: %d\r\n\r\n" % number + b"%d\r\n" % number * 100_000 for number in range(4)]
        async with anyio.create_task_group() as tasks:
            for content in contents:
                tasks.start_soon(self._send, relay, pieces_of(content, 20_000))
        await self._arrive(delivered, *contents)

    @bounded
    async def test_a_slow_device_holds_up_nobody(self, relay: Relay, delivered: Look) -> None:
        quick, slow = CONTENTS["ordinary"], b"Subject: slow\r\n\r\nat last\r\n"
        begun, go_on = anyio.Event(), anyio.Event()

        async def slowly() -> AsyncGenerator[bytes, None]:
            yield slow[:20]
            begun.set()
            await go_on.wait()
            yield slow[20:]

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._send, relay, slowly())
            await begun.wait()
            await self._send(relay, pieces_of(quick, 1000))
            await self._arrive(delivered, quick)
            go_on.set()
        await self._arrive(delivered, quick, slow)

    @bounded
    async def test_message_after_message(self, relay: Relay, delivered: Look) -> None:
        contents = [b"Subject: %d\r\n\r\nbody\r\n" % number for number in range(5)]
        for content in contents:
            await self._send(relay, pieces_of(content, 1000))
        await self._arrive(delivered, *contents)

    # Around the transaction.

    @bounded
    async def test_capabilities_answer_from_memory(self, relay: Relay) -> None:
        assert not inspect.iscoroutinefunction(relay.capabilities)
        assert isinstance(relay.capabilities(), RelayCapabilities)

    @bounded
    async def test_probe_gives_findings_and_sends_nothing(self, relay: Relay, delivered: Look) -> None:
        assert all(isinstance(finding, Finding) for finding in await relay.probe())
        await self._nothing_arrived(relay, delivered)
        assert isinstance(relay.capabilities(), RelayCapabilities)
        await relay.probe()
        await self._arrive(delivered, _SIGNAL)
