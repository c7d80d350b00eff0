"""One try to hand a message on: the verdict on each recipient, and what is known when there was none."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import anyio

from legacy_email_proxy.contracts import Failure, Receipt, Refused, Relay, add_recipients
from legacy_email_proxy.contracts import Recipient as Addressed

from .message import Recipient, SpooledMessage

__all__ = ("PROGRESS_SECONDS", "Attempt", "attempt")

PROGRESS_SECONDS = 3600.0
"""For a relay that makes no progress any more: its message's turn is over, so that it holds no connection for ever.

Progress is a verdict on recipients, or a piece of the content that is asked for; however long all of it takes, what
goes on is let go on. Over a line that carries 1 kB a second, 50 MB take 14 hours.
"""

_TOGETHER = 100
"""Recipients that are asked for at once, at most: a thousand of them may take a slow backend longer than that."""


@dataclass(slots=True)
class Attempt:
    """What came of it.

    ``failure`` is what was raised by a relay that had no verdict; then none of the recipients that are neither
    ``delivered`` nor ``refused`` has one. ``ambiguous``: by then it had the whole content, so that it may have been
    delivered although nobody said so (RFC 1047).
    """

    delivered: list[Recipient] = field(default_factory=list)
    refused: list[tuple[Recipient, Refused]] = field(default_factory=list)
    failure: Exception | None = None
    ambiguous: bool = False
    detail: str = ""

    @property
    def about_us(self) -> Failure | None:
        """What any other message would have met as well, because it is about the backend or about us."""
        if isinstance(self.failure, Failure):
            return self.failure if self.failure.about_us else None
        if self.delivered or any(not refusal.about_us for _, refusal in self.refused):
            return None
        return self.refused[0][1] if self.refused else None

    def amend(self, later: Attempt) -> None:
        """Take what came of another attempt with those who were refused for good, in the place of their refusals."""
        self.refused = [each for each in self.refused if not each[1].permanent] + later.refused
        self.delivered += later.delivered
        self.failure = self.failure or later.failure
        self.ambiguous = self.ambiguous or later.ambiguous
        self.detail = self.detail or later.detail


class _Content:
    """The content on its way to the relay, remembered to have ended, or to have failed on our side."""

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
    """Hand ``message`` on to the recipients that wait. Raises only what reading ``content`` raised."""
    made = Attempt()
    scope = anyio.CancelScope()

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
            pass  # it stumbled on its way out; the verdict had been given
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
    progress()
    # The size is known by now, so that a backend can refuse what is too big before it is sent (RFC 1870).
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
