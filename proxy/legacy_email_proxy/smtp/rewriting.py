"""What happens to a mail transaction between the device and the relay: the filters, and our own lines in the header.

The content is handed on in the pieces in which it comes. Only the header is held until its end; it leaves in one
piece with what has arrived of the body, so that a small message stays whole.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import ParamSpec, TypeVar

from .. import log
from ..contracts import Client, Envelope, Failure, Filter, Header, Parameters, Receipt, Refused, Transaction
from ..replies import SMTP, refusal
from .arguments import BadPath, parse
from .headers import HeaderOptions, HeaderReader, loops, own_lines
from .long_lines import LineShortener
from .mending import mended
from .signatures import Signatures

__all__ = ("FilterBroken", "Outgoing", "Rewriting", "send")

_log = logging.getLogger("legacy_email_proxy.smtp")

_Answer = TypeVar("_Answer")
_Arguments = ParamSpec("_Arguments")


class FilterBroken(Exception):
    """A filter raised or gave what it may not; the text names it. Temporary, and logged with its traceback."""


class Rewriting:
    """The rules of one listener, or of one account: ``filters`` by name, in order, and what is done to each header.

    ``again``: other rules were applied before, so a trace has shown the content already.
    """

    def __init__(
        self, options: HeaderOptions | None = None, filters: dict[str, Filter] | None = None, *, again: bool = False
    ) -> None:
        self._options = options or HeaderOptions()
        self._filters = tuple((filters or {}).items())
        self._again = again

    @property
    def has_filters(self) -> bool:
        """Whether paths may be changed."""
        return bool(self._filters)

    async def mail(self, client: Client, given: str, parameters: Parameters) -> Envelope:
        """The envelope with the reverse-path that the filters make of the one given.

        This and the other methods raise :class:`Refused` when a filter does, and otherwise what is temporary.
        """
        envelope = Envelope(client, given, given, (), parameters)
        for name, one in self._filters:
            path = await _asked(name, one.reverse_path, envelope)
            envelope = replace(envelope, reverse_path=_checked(name, path, null=True))
        return envelope

    async def recipient(self, envelope: Envelope, accepted: Sequence[str], forward_path: str) -> str:
        """The forward-path that the filters make of this one. ``accepted`` are the ones before it."""
        envelope = replace(envelope, forward_paths=tuple(accepted))
        for name, one in self._filters:
            forward_path = _checked(name, await _asked(name, one.forward_path, envelope, forward_path), null=False)
        return forward_path

    def content(
        self, envelope: Envelope, accepted: Sequence[str], protocol: str, pieces: AsyncIterator[bytes]
    ) -> Outgoing:
        """The content as it goes on. ``protocol`` is the word for the Received field."""
        if self._filters:
            envelope = replace(envelope, forward_paths=tuple(accepted))
        return Outgoing(self, self._options, envelope, protocol, pieces, again=self._again)

    async def header(
        self, envelope: Envelope, protocol: str, block: bytes, rest: bytes, *, too_long: bool, spoilt: bool
    ) -> tuple[bytes, bytes, Signatures | None]:
        """``block`` as it goes on, with our own lines above it, and ``rest``, behind an empty line if need be.

        And the message's signatures, if it has some. What is ``spoilt`` is mended, unless nothing is done to headers.
        """
        options, given = self._options, bool(block)
        if loops(block):
            raise refusal(SMTP.LOOP)
        if too_long:
            if self._filters or options.remove_bcc:
                # What a filter or SMTP_REMOVE_BCC has to remove could stand in the part that was not read.
                raise refusal(SMTP.HEADER_TOO_LONG)
            options = replace(options, add_missing=False)
        signatures = Signatures.of(block)
        if spoilt and (self._filters or options.works_on_headers):
            block = mended(block)
            if signatures is not None:
                signatures.compare(block, "SMTP_ADD_MISSING")
        if self._filters or options.remove_bcc:
            block = await self._edited(envelope, block, signatures)
        own = own_lines(options, envelope.client, protocol, envelope.reverse_path, block)
        if signatures is not None:
            signatures.compare(own + block, "SMTP_ADD_MISSING")
        if not given and not too_long and (own or block) and not rest.startswith(b"\r\n"):
            # Without it the first line of the text would be read as a field, or would vanish.
            rest = b"\r\n" + rest
        return own + block, rest, signatures

    async def _edited(self, envelope: Envelope, block: bytes, signatures: Signatures | None) -> bytes:
        header = Header(block)
        for name, one in self._filters:
            await _asked(name, one.header, envelope, header)
            if signatures is not None:
                signatures.compare(header.octets, f"filter {name}")
        if self._options.remove_bcc:
            header.remove("Bcc")
            header.remove("Resent-Bcc")
            if signatures is not None:
                signatures.compare(header.octets, "SMTP_REMOVE_BCC")
        return header.octets


class Outgoing:
    """Content on its way to the relay. It remembers whether it has ended, and what went wrong."""

    def __init__(
        self,
        rewriting: Rewriting,
        options: HeaderOptions,
        envelope: Envelope,
        protocol: str,
        pieces: AsyncIterator[bytes],
        *,
        again: bool,
    ) -> None:
        self._rewriting = rewriting
        self._envelope = envelope
        self._protocol = protocol
        self._pieces = pieces
        self._again = again
        self._shortener = LineShortener() if options.shorten_lines else None
        self._reader: HeaderReader | None = HeaderReader(for_bcc=options.remove_bcc)
        # Kept until the header has been dealt with: a relay that waits no longer for it may ask for it again.
        self._cut: tuple[bytes, bytes] | None = None
        self._signatures: Signatures | None = None
        self._shortened = False
        self.ended = False
        self.error: Exception | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self.error is not None:
            # A relay that goes on reading after an error must not take the rest for the whole message.
            raise self.error
        try:
            if self._reader is not None and (beginning := await self._beginning(self._reader)):
                return beginning
            # The shortener gives nothing while it holds lines, because a long one may still come.
            lines = b""
            while not lines:
                lines = piece = await anext(self._pieces)
                if not self._again:
                    log.octets(_log, log.CONTENT, "content", piece)
                if self._shortener is not None:
                    lines = self._shortener.feed(piece)
            return lines
        except StopAsyncIteration:
            if self._shortener is not None:
                last, self._shortened, self._shortener = self._shortener.end(), self._shortener.changed, None
                if last:
                    return last
            if self._signatures is not None and not self.ended:
                self._tell(self._signatures)
            self.ended = True
            raise
        except Exception as error:
            self.error = error
            raise

    async def _beginning(self, reader: HeaderReader) -> bytes:
        while self._cut is None:
            piece = await anext(self._pieces, None)
            self._cut = reader.end() if piece is None else reader.feed(piece)
        given, _ = self._cut
        block, rest, self._signatures = await self._rewriting.header(
            self._envelope, self._protocol, *self._cut, too_long=reader.too_long, spoilt=reader.spoilt
        )
        self._reader = self._cut = None
        if not self._again or block != given:
            log.octets(_log, log.HEADER, "content", block)
        if not self._again:
            log.octets(_log, log.CONTENT, "content", rest)
        return self._shortener.begin(block, rest) if self._shortener is not None else block + rest

    def _tell(self, signatures: Signatures) -> None:
        """Log whose signature is broken, and by what: the mail may end in a spam folder, and nothing else says why."""
        broken_by = [*signatures.broken_by, *(["SMTP_LONG_LINES"] if self._shortened else [])]
        if broken_by:
            client = self._envelope.client
            log.event(
                _log, logging.INFO, "smtp signature broken", session=client.session, client=client.address,
                domains=",".join(signatures.domains), by=", ".join(broken_by),
            )  # fmt: skip


async def send(transaction: Transaction, content: Outgoing) -> Receipt:
    """Send the content by ``transaction``. It counts as taken only if all of it was read without an error, whatever
    the relay says: a plugin may swallow what a filter raised half-way, and would then have sent a part of the message.
    """
    try:
        receipt = await transaction.send(content)
    except Exception:
        if content.error is not None:
            # The content failed first (the device, its message or a filter), whatever the relay then raised.
            raise content.error from None
        raise
    if content.error is not None:
        raise content.error
    if not content.ended:
        raise Failure("the relay plugin returned before it had read the whole message")
    if not isinstance(receipt, Receipt):
        raise Failure("the relay plugin's send() returned no Receipt, so nobody knows who has the message")
    return receipt


async def _asked(
    name: str, method: Callable[_Arguments, Awaitable[_Answer]], *args: _Arguments.args, **kwargs: _Arguments.kwargs
) -> _Answer:
    """A filter's answer. What it raises is raised again with its name, for the log."""
    try:
        return await method(*args, **kwargs)
    except Refused as refused:
        detail = f"filter {name}: {refused.detail}"
        raise Refused(refused.code, refused.enhanced, refused.text, detail=detail) from None
    except Failure as failure:
        # Not of the same kind: the device would read that the backend has failed, but the filter has.
        raise Failure(f"filter {name}: {failure.detail}", look_at=failure.look_at) from failure
    except Exception as error:
        raise FilterBroken(f"filter {name}: {type(error).__name__}: {error}") from error


def _checked(name: str, path: object, *, null: bool) -> str:
    """A path that a filter has chosen: it goes into a command to the backend, so it must be one path and no more."""
    try:
        if isinstance(path, str) and (path or null) and parse(f"<{path}>") == (path, {}):
            return path
    except BadPath:
        pass
    raise FilterBroken(f"filter {name}: gave {path!r}, which is no address")
