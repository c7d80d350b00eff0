"""One try to deliver a message through the relay, and its result for each recipient."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import anyio

from legacy_email_proxy.contracts import Failure, Receipt, Refused, Relay, add_recipients
from legacy_email_proxy.contracts import Recipient as Addressed

from .message import Recipient, SpooledMessage

__all__ = ("PROGRESS_SECONDS", "Attempt", "attempt")

PROGRESS_SECONDS = 3600.0
"""A try ends after this time without progress, so that a relay that hangs does not hold its connection for ever.

Progress is a verdict on recipients, or the relay asking for the next piece of content. A whole try may take long: 50 MB
over a line of 1 kB a second take 14 hours.
"""

_TOGETHER = 100
"""Recipients in one request to the relay, at most. A slow backend might need an hour for a thousand."""


@dataclass(slots=True)
class Attempt:
    """The result of a try.

    ``failure`` is the exception of a relay that failed before it had a result for all recipients. Recipients that are
    neither ``delivered`` nor ``refused`` have none. ``ambiguous``: the relay had the whole content when it failed, so
    the message may have been delivered (RFC 1047).
    """

    delivered: list[Recipient] = field(default_factory=list)
    refused: list[tuple[Recipient, Refused]] = field(default_factory=list)
    failure: Exception | None = None
    ambiguous: bool = False
    detail: str = ""

    @property
    def about_us(self) -> Failure | None:
        """A failure of the backend or of the proxy itself, which any other message would have met too."""
        if isinstance(self.failure, Failure):
            return self.failure if self.failure.about_us else None
        if self.delivered or any(not refusal.about_us for _, refusal in self.refused):
            return None
        return self.refused[0][1] if self.refused else None

    def amend(self, later: Attempt) -> None:
        """Add the result of a second attempt for the recipients that were refused for good."""
        self.refused = [each for each in self.refused if not each[1].permanent] + later.refused
        self.delivered += later.delivered
        self.failure = self.failure or later.failure
        self.ambiguous = self.ambiguous or later.ambiguous
        self.detail = self.detail or later.detail


class _Content:
    """The content that the relay reads. Notes whether all of it was read, or reading the spool failed."""

    def __init__(self, pieces: AsyncIterator[bytes], progress: Callable[[], None]) -> None:
        self._pieces = pieces
        self._progress = progress
        self.ended = False
        self.error: Exception | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self._progress()
        try:
            return await anext(self._pieces)
        except StopAsyncIteration:
            self.ended = True
            raise
        except Exception as error:
            self.error = error
            raise


async def attempt(relay: Relay, message: SpooledMessage, content: AsyncGenerator[bytes, None]) -> Attempt:
    """Deliver ``message`` to its waiting recipients. Raises only what reading ``content`` raised."""
    made = Attempt()
    scope = anyio.CancelScope(deadline=anyio.current_time() + PROGRESS_SECONDS)

    def progress() -> None:
        scope.deadline = anyio.current_time() + PROGRESS_SECONDS

    pieces = _Content(content, progress)
    try:
        with scope:
            await _transact(relay, message, pieces, made, progress)
        if scope.cancelled_caught:
            raise Failure(f"the relay has made no progress for {PROGRESS_SECONDS:g} s")
    except Exception as error:
        if pieces.error is not None:
            raise pieces.error from None
        if made.delivered:
            pass  # it failed after its verdict
        elif isinstance(error, Refused):
            judged = {id(recipient) for recipient, _ in made.refused}
            made.refused += [(each, error) for each in message.waiting if id(each) not in judged]
        else:
            made.failure = error
            made.ambiguous = pieces.ended
    finally:
        await content.aclose()
    return made


async def _transact(
    relay: Relay, message: SpooledMessage, content: _Content, made: Attempt, progress: Callable[[], None]
) -> None:
    # With the size, a backend can refuse a message that is too large before it is sent (RFC 1870).
    parameters = {**message.parameters, "SIZE": str(message.octets)}
    client = replace(message.client, spooled=True)
    async with relay.transaction(client, message.reverse_path, parameters) as transaction:
        waiting = message.waiting
        accepted: list[Recipient] = []
        for start in range(0, len(waiting), _TOGETHER):
            progress()
            asked = waiting[start : start + _TOGETHER]
            group = [Addressed(each.forward_path, each.parameters) for each in asked]
            last = start + _TOGETHER >= len(waiting)
            verdicts = await add_recipients(transaction, group, content_follows=last)
            for each, verdict in zip(asked, verdicts, strict=True):
                if verdict is None:
                    accepted.append(each)
                else:
                    made.refused.append((each, verdict))
        progress()
        if not accepted:
            return
        receipt = await transaction.send(content)
        if content.error is not None:
            raise content.error
        if not isinstance(receipt, Receipt):
            raise Failure("the relay plugin's send() returned no Receipt, so nobody knows who has the message")
        if not content.ended and message.octets:
            raise Failure("the relay plugin returned before it had read the whole message")
        made.delivered = accepted
        made.detail = receipt.detail
