"""Messages that the server does not hand out. Each is named in the log. With a setting, one that never comes is hidden
after some sessions, because some devices stop at it each time. None is deleted: the core deletes nothing that the
client did not get.

Some servers send a text of their own in place of a message that they can not read. A device would take this substitute
for the message, and delete the real one. Each row of the table describes the substitute of one server. All marks of a
row must be there, so that a mail *about* such a failure, or one that quotes the text, is not taken for a substitute.

Other servers send no substitute, and what they do is a failure anyhow. Dovecot closes the connection, answers NO
(``imap_fetch_failure``) or NIL, or an empty string (``obox_fetch_lost_mails_as_empty``). Cyrus and Exchange answer OK
without the message, Cyrus with ``* OK Message 7 no longer exists`` before it. For Zimbra, Domino and GroupWise nothing
public was found about either.
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
"""The most octets of a substitute: they have some 700, and the subject and sender of the message."""


class WatchedSession:
    """See :class:`~legacy_email_proxy.contracts.MaildropSession`. It forwards all calls to ``session``, refuses
    substitutes, and notes which messages could not be read.
    """

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

    def at_hand(self, unique_id: str, lines: int | None) -> bytes | None:
        """See :class:`~legacy_email_proxy.contracts.ReadySession`. A message is never at hand where it must be noted
        that it came, or where it may be a substitute.
        """
        if lines is not None:
            return self._session.at_hand(unique_id, lines, could_be_substitute)
        if self._options.hide_after is not None:
            return None
        return self._session.at_hand(unique_id, None, lambda octets: self._is_substitute(unique_id, octets))

    async def retrieve(self, unique_id: str) -> AsyncGenerator[bytes, None]:
        """The whole message. Raises :class:`MessageUnavailable` also for what the server sent in its place."""
        try:
            # Without a generator: for a small message it would take as long as looking it up.
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
                            # A substitute has one piece. It is read to its end, or the connection would be closed.
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
                # The client has the message. If this were raised, it would look as if the message had broken off.
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
        # The header alone can not tell, so the whole message is read. A substitute is small.
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
            # MessageGone counts too: some servers report it for a message that they list again the next time.
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
        """Forget earlier failures of a message that came now: only failures in sessions in a row count."""
        uid, uidvalidity = self._session.identity(unique_id)
        if self._failed is None:
            # Once in a session: for each message of a large folder it would take longer than reading the messages.
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
    """What the substitute of one server looks like.

    ``fields`` are patterns for the whole values of header fields, with each run of blanks made one blank. ``bare``: it
    has no other fields. ``size_tells``: a text of exactly the listed size is no substitute but a stored message, for
    example a copy of a substitute, or one that the server has stored in the message's place.
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
"""Nearly every message has none of these, and to look for them is fast."""

_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_FIELD = re.compile(rb"^([\x21-\x39\x3b-\x7e]+):((?:[^\r\n]|\r?\n[ \t])*)", re.MULTILINE)


def could_be_substitute(octets: bytes) -> bool:
    """Whether ``octets`` begins with the header of a substitute. Only the whole message can tell if it is one."""
    return _row(octets) is not None


def is_substitute(octets: bytes, listed: Callable[[], int]) -> bool:
    """Whether ``octets``, the first piece of a message that was ``listed`` with so many octets, is a substitute."""
    # The size is looked up last, because that takes time and nearly every message is decided before.
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
