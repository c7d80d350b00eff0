"""Messages that the server does not hand out: each is named in the log, and one that never comes can be hidden, so that
it does not block a device for ever. None is deleted: the core deletes nothing that the client did not get.

Some servers hand out a text of their own in place of a message that they can not read, as if it were it. A device would
take it for the message, and delete the message. Each row of the table is one server's text, told by all of its marks
together, so that neither a mail *about* such a failure, nor one that quotes the text, is taken for one.

Other servers send no substitute; what they do is a failure by itself. Dovecot closes the connection, answers NO
(``imap_fetch_failure``) or NIL, or an empty string (``obox_fetch_lost_mails_as_empty``); Cyrus answers OK and nothing,
with ``* OK Message 7 no longer exists`` before it; Exchange does so, too. Of Zimbra, Domino and GroupWise nothing of
either kind was found in public.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

import anyio.to_thread

from legacy_email_proxy.contracts import Entry, Failure, MessageGone, MessageUnavailable

from .folder_state import Memory, Remembered
from .session import IMAPSession
from .settings import Options

__all__ = ("MAX_OCTETS", "WatchedSession", "could_be_substitute", "is_substitute")

MAX_OCTETS = 8192
"""Substitutes have some 700 octets, and the subject and sender of the message in them."""


class WatchedSession:
    """See :class:`~legacy_email_proxy.contracts.MaildropSession`; passes everything on to ``session``."""

    def __init__(self, session: IMAPSession, options: Options, memory: Memory, logger: logging.Logger) -> None:
        self._session = session
        self._options = options
        self._memory = memory
        self._logger = logger
        self._counted: set[str] = set()
        self._failed: set[int] | None = None

    @property
    def entries(self) -> Sequence[Entry]:
        """The messages as they were when the maildrop was opened."""
        return self._session.entries

    async def retrieve(self, unique_id: str) -> AsyncGenerator[bytes, None]:
        """The whole message. Raises :class:`MessageUnavailable` also for what the server sent in its place."""
        try:
            # Not a generator of its own: that would cost each small message as much as finding it does.
            octets = await self._session.read_ahead(unique_id)
            if octets is not None:
                if self._is_substitute(unique_id, octets):
                    raise _substituted()
                yield octets
            else:
                async with aclosing(self._session.stream(unique_id)) as pieces:
                    first = True
                    async for piece in pieces:
                        if first and self._is_substitute(unique_id, piece):
                            # A substitute has one piece. Left before its end, it would cost the connection.
                            following = await anext(pieces, None)
                            if following is None:
                                raise _substituted()
                            yield piece
                            yield following
                        else:
                            yield piece
                        first = False
        except (MessageGone, MessageUnavailable) as failure:
            await self._note(unique_id, failure)
            raise
        if self._options.hide_after is not None:
            try:
                await self._note_success(unique_id)
            except Failure as failure:
                # The client has the message. Raised here, this would look to it like a message that broke off.
                self._logger.warning("can not remember that a message came", extra={"facts": {"cause": str(failure)}})

    async def top(self, unique_id: str, lines: int) -> AsyncGenerator[bytes, None]:
        """The header and at least the first ``lines`` lines of the body."""
        try:
            async with aclosing(self._session.top(unique_id, lines)) as pieces:
                first = True
                async for piece in pieces:
                    if first and could_be_substitute(piece):
                        break
                    first = False
                    yield piece
                else:
                    return
        except (MessageGone, MessageUnavailable) as failure:
            await self._note(unique_id, failure)
            raise
        # A header alone can't tell. Such a message is small, if it is what it seems to be.
        async with aclosing(self.retrieve(unique_id)) as pieces:
            async for piece in pieces:
                yield piece

    def _is_substitute(self, unique_id: str, first_piece: bytes) -> bool:
        return is_substitute(first_piece, partial(self._listed, unique_id))

    def _listed(self, unique_id: str) -> int:
        return next((entry.octets for entry in self.entries if entry.unique_id == unique_id), 0)

    async def _note(self, unique_id: str, failure: Failure) -> None:
        if unique_id in self._counted:
            return
        facts: dict[str, object] = {"unique_id": unique_id, "cause": str(failure)}
        if self._options.hide_after is not None:
            # "Gone" counts, too: some servers say so of a message that they list again next time.
            uid, uidvalidity = self._session.identity(unique_id)

            def count(remembered: Remembered) -> None:
                remembered.failures[uid] = remembered.failures.get(uid, 0) + 1
                facts["sessions"] = remembered.failures[uid]

            await anyio.to_thread.run_sync(self._memory.change, uidvalidity, count)
        elif isinstance(failure, MessageGone):
            return
        self._counted.add(unique_id)
        self._logger.warning("a message can not be had from the server; it is left where it is", extra={"facts": facts})

    async def _note_success(self, unique_id: str) -> None:
        """Only failures in one session after the other count: one that came in between was no fault of the message."""
        uid, uidvalidity = self._session.identity(unique_id)
        if self._failed is None:
            # Once in a session: for every message of a large folder it would take longer than to read them.
            known = await anyio.to_thread.run_sync(self._memory.recall, uidvalidity)
            self._failed = set(known.failures)
        if uid in self._failed or unique_id in self._counted:
            self._failed.discard(uid)
            self._counted.discard(unique_id)

            def forget(remembered: Remembered) -> None:
                remembered.failures.pop(uid, None)

            await anyio.to_thread.run_sync(self._memory.change, uidvalidity, forget)

    async def commit(self, deleted: Collection[str]) -> None:
        """Delete these messages."""
        if self._options.read_only:
            raise Failure("the maildrop is set to be read-only, so nothing was deleted", look_at="POP3_READ_ONLY")
        await self._session.commit(deleted)


def _substituted() -> MessageUnavailable:
    return MessageUnavailable("the server sent a substitute for the message, saying that it failed")


@dataclass(frozen=True, slots=True)
class _Substitute:
    """``fields`` are the whole values of header fields, runs of blanks made one; ``bare`` means that there are no other
    fields. ``size_tells`` means that a text with the octets that were listed for it is no substitute: it is a stored
    copy of one, or the server has put it in the message's place for good.
    """

    fields: dict[bytes, re.Pattern[bytes]]
    body: re.Pattern[bytes] = re.compile(rb".*", re.DOTALL)
    bare: bool = False
    size_tells: bool = True


_TABLE = (
    # Exchange, for what it can't convert, such as odd calendar items. The body has the same in other words, and names
    # subject and sender. OfflineIMAP issue 62, FreeScout issue 3203, MailKit issue 1615.
    _Substitute({b"subject": re.compile(rb"Retrieval using the IMAP4 protocol failed for the following message: \d+")}),
    # Courier, when the file is not there: another client has just expunged the message, or changed its flags, which
    # renames the file. It counts RFC822.SIZE by the same text, so the octets that were listed prove nothing. A stored
    # copy of it would be refused as well: there is nothing in it that anybody could miss.
    # courier-imap, imap/fetch.c, "unavailable" and open_cached_fp.
    _Substitute(
        {
            b"from": re.compile(rb"System Administrator <root@localhost>"),
            b"subject": re.compile(rb"message unavailable"),
        },
        re.compile(rb"This message is no longer available on the server\.\s*"),
        bare=True,
        size_tells=False,
    ),
    # hMailServer, when the file is not there, for example because a virus scanner has moved it away. The text is stored
    # as the message, and listed with its own octets from then on. An administrator may have translated it.
    # hmailserver, PersistentMessage.cpp, EnsureFileExistance, and MESSAGE_FILE_MISSING in hm_servermessages.
    _Substitute(
        {b"from": re.compile(rb"Postmaster"), b"subject": re.compile(rb"Message undeliverable")},
        re.compile(rb"The mail server could not deliver the message to you since the file .*", re.DOTALL),
    ),
)

_WORDS = (b"Retrieval", b"message unavailable", b"Message undeliverable")
"""Nearly every message has none of them, and looking for them costs little."""

_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_FIELD = re.compile(rb"^([\x21-\x39\x3b-\x7e]+):((?:[^\r\n]|\r?\n[ \t])*)", re.MULTILINE)


def could_be_substitute(octets: bytes) -> bool:
    """Whether the header, with which ``octets`` begins, is one of a substitute. Only the whole message can tell."""
    return _row(octets) is not None


def is_substitute(octets: bytes, listed: Callable[[], int]) -> bool:
    """Whether ``octets``, the first piece of a message that was ``listed`` with so many octets, is a substitute."""
    # In this order, because nearly every message ends the question at once, and looking up its size takes time.
    if len(octets) > MAX_OCTETS:
        return False
    row = _row(octets)
    if row is None or not row.body.fullmatch(_BLANK_LINE.split(octets, maxsplit=1)[-1]):
        return False
    return not (row.size_tells and len(octets) == listed())


def _row(octets: bytes) -> _Substitute | None:
    if not any(word in octets for word in _WORDS):
        return None
    header = _BLANK_LINE.split(octets, maxsplit=1)[0]
    fields = {name.lower(): b" ".join(value.split()) for name, value in _FIELD.findall(header)}
    for row in _TABLE:
        there = all(value.fullmatch(fields.get(name, b"")) for name, value in row.fields.items())
        if there and not (row.bare and fields.keys() - row.fields.keys()):
            return row
    return None
