"""The ``imap`` maildrop: POP3's view of a folder on an IMAP server.

When the folder is opened again, only new messages are listed. This is safe because UIDs only grow (RFC 9051 §2.3.1.1).
If a listing had every message below one UIDNEXT, no other message with such a UID will ever appear. If there are then
as many messages as before, they are the same messages. If the numbers do not fit, the whole folder is listed.

POP3 shows all messages of the folder except those that a setting hides, those that a POP3 client has deleted, and those
that could not be read in several sessions. Hidden messages are not counted either. The server is asked for nothing but
the listing unless a setting needs more.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

from legacy_email_proxy.contracts import (
    Client,
    Context,
    CredentialsRefused,
    Disconnected,
    Failure,
    Figure,
    Finding,
    Level,
    Login,
    Secret,
    timed,
)

from ..backend_settings import IMAP, Encryption
from ..places import connection_figures
from ..tls_trouble import unless_tls_first
from .account_cache import Listed, Shelf
from .connection import Connection
from .deletion import KEYWORD, attributes, can_tag, remove, stays
from .folder_state import Memory, Remembered, SharedMemory
from .listing import DOVECOT, Index, Mailbox, Sizes
from .pool import Accounts
from .probe import failed, inspect, reached
from .session import IMAPSession
from .settings import Deletion, Options, configured_options, configured_server
from .unfetchable import WatchedSession

__all__ = ("IMAPMaildrop", "open_folder", "shown")

_NOBODY = Login("", Secret(""))
_KEYWORD = KEYWORD.lower().encode()


class IMAPMaildrop:
    """See :class:`~legacy_email_proxy.contracts.Maildrop`.

    Raises :class:`~legacy_email_proxy.contracts.SettingsMistake` with every mistake in its settings.
    """

    def __init__(self, context: Context) -> None:
        self._logger = context.logger
        self._context = context
        self._server = configured_server(context)
        self._options = configured_options(context)
        self._shared = context.shared_state
        self._login = self._server.login
        self._accounts = Accounts(self._server, self._logger)
        if self._server.encryption is Encryption.NONE:
            self._logger.warning(
                "passwords go to the IMAP server in the clear, see BACKEND_IMAP_USE_SSL and BACKEND_IMAP_USE_STARTTLS",
                extra={"facts": {"server": self._server.name}},
            )

    @asynccontextmanager
    async def open(self, client: Client, login: Login | None) -> AsyncIterator[WatchedSession]:
        """Open the folder of ``login`` or, without one, of the account in the settings."""
        used = login or self._login
        if used is None:
            detail = "no login: neither the client's nor one in the settings"
            raise CredentialsRefused(detail, look_at="BACKEND_IMAP_USER, POP3_LOGIN")
        with self._accounts.pool(used, clients_own=login is not None) as pool:
            # A client's own password must be checked by a new login: a connection that is open already proves nothing.
            memory = self._memory(used)
            if login is None:
                index = await pool.openings.join(
                    lambda opening: pool.exchange(partial(self._list, pool.shelf, memory, opening.begun))
                )
            else:
                index = await pool.exchange(
                    partial(self._list, pool.shelf, memory, lambda: None), address=client.address, fresh=True
                )
            session = IMAPSession(pool, index, partial(self._remove, memory), self._logger, client.address)
            yield WatchedSession(session, self._options, memory, self._logger)

    def _memory(self, login: Login) -> Memory:
        identity = self._server.name, login.user, self._server.folder
        if self._shared is not None:
            return SharedMemory(self._shared, lambda: self._context.state_dir, *identity)
        return Memory(lambda: self._context.state_dir, *identity)

    def _list(self, shelf: Shelf, memory: Memory, begin: Callable[[], None], connection: Connection) -> Index:
        begin()
        with timed("pop3", "list"):
            return shown(connection, open_folder(shelf, connection, self._logger), self._options, memory, self._logger)

    def _remove(self, memory: Memory, connection: Connection, uidvalidity: int, uids: Collection[int]) -> None:
        deletion = self._options.deletion
        remove(connection, uidvalidity, uids, deletion, memory)
        if deletion in (Deletion.EXPUNGE, Deletion.TRASH) and stays(deletion, connection):
            # A plain EXPUNGE would also remove what other clients have marked.
            self._logger.warning(
                "messages are only marked as deleted, because the server can not expunge single messages (UIDPLUS)",
                extra={"facts": {"messages": len(uids)}},
            )

    async def probe(self) -> Sequence[Finding]:
        """Connect, log in and open the folder, on a connection of its own."""
        findings: list[Finding] = []
        with self._accounts.pool(self._login or _NOBODY, clients_own=self._login is None) as pool:
            try:
                memory = self._memory(self._login) if self._login else None
                inspecting = pool.exchange(
                    partial(inspect, self._server, self._login, self._options, memory, findings),
                    fresh=True,
                    log_in=self._login is not None,
                    reached=lambda connection: findings.extend(reached(self._server, connection)),
                    untouched=lambda: not findings,
                )
                await unless_tls_first(
                    inspecting, self._server, IMAP, lambda: bool(findings), silent_seconds=self._server.patience.silent
                )
            except Failure as failure:
                findings.append(failed(failure))
            except Exception as error:
                self._logger.exception("the probe failed in a way that nobody expected")
                findings.append(Finding(Level.BAD, f"unexpected: {type(error).__name__}", "see the log"))
        return findings

    async def figures(self) -> Sequence[Figure]:
        """See :meth:`~legacy_email_proxy.contracts.Observed.figures`."""
        paused = Figure("backend_paused_seconds", self._accounts.paused_seconds())
        return [*connection_figures(*self._accounts.counts()), paused]

    async def aclose(self) -> None:
        """Log out if that goes quickly, and close every connection."""
        await self._accounts.aclose()


def open_folder(shelf: Shelf, connection: Connection, logger: logging.Logger) -> Index:
    """SELECT the folder and list what is not known yet, in the worker thread. The result is kept on ``shelf``.

    Messages whose row in the listing can't be read are not shown, and the log says how many and why. If no message
    could be read, it raises :class:`Disconnected`: the client would believe that the maildrop is empty.
    """
    mailbox = connection.select()
    listed = shelf.listed
    sizes = None if listed is None else _continued(listed, mailbox, connection)
    undisturbed = True
    if listed is not None and sizes is listed.index.sizes:
        index = listed.index  # The same object, so that sessions share it.
    else:
        if sizes is None:
            listing = connection.listing()
            sizes, undisturbed = listing.sizes(), listing.undisturbed
            if listing.fault:
                undisturbed = False
                if not sizes:
                    raise Disconnected(f"could not list the folder, the server broke the protocol: {listing.fault}")
                facts = {"shown": len(sizes), "of": mailbox.exists, "cause": listing.fault}
                logger.warning("the server's listing can not be read whole", extra={"facts": facts})
        index = Index(mailbox.uidvalidity, sizes)
    if undisturbed and len(sizes) == sizes.below(mailbox.uidnext) == mailbox.exists:
        shelf.listed = Listed(mailbox.uidnext, index)
    return index


def _continued(listed: Listed, mailbox: Mailbox, connection: Connection) -> Sizes | None:
    """The known listing with the messages that have come since; ``None`` if that may not be the whole folder."""
    known = listed.index.sizes
    if mailbox.uidvalidity != listed.index.uidvalidity or not listed.uidnext <= mailbox.uidnext:
        return None
    arrived = mailbox.exists - len(known)
    if mailbox.uidnext == listed.uidnext:
        return known if arrived == 0 else None
    if arrived < 0:
        return None
    listing = connection.listing(listed.uidnext)
    later = listing.sizes()
    # Messages that came after SELECT are in the listing too, but must not be counted here.
    proven = listing.undisturbed and not listing.fault and later.below(mailbox.uidnext) == arrived
    return known.with_later(later) if proven else None


def shown(
    connection: Connection,
    index: Index,
    options: Options,
    memory: Memory,
    logger: logging.Logger,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Index:
    """The part of ``index`` that a session shows; ``index`` lists the selected folder. In the worker thread."""
    hidden = _remembered(connection, index, options, memory) | _by_attributes(connection, index, options, logger, clock)
    limit = options.newest_messages
    if not hidden and limit is None and options.unique_ids is DOVECOT:
        return index
    uids = [uid for uid in index.uids if uid not in hidden]
    if limit is not None:
        uids = uids[-limit:]
    return index.only(uids, options.unique_ids)


def _remembered(connection: Connection, index: Index, options: Options, memory: Memory) -> set[int]:
    staying = stays(options.deletion, connection)
    if not staying and options.hide_after is None:
        return set()
    remembered = memory.recall(index.uidvalidity)
    present = set(index.uids)
    if remembered.keep_failures(present):

        def prune(latest: Remembered) -> None:
            latest.keep_failures(present)

        memory.change(index.uidvalidity, prune)
    hidden = remembered.hidden if staying else set()
    if options.hide_after is not None:
        hidden |= {uid for uid, count in remembered.failures.items() if count >= options.hide_after}
    return hidden


def _by_attributes(
    connection: Connection, index: Index, options: Options, logger: logging.Logger, clock: Callable[[], datetime]
) -> set[int]:
    items = []
    if stays(options.deletion, connection) and can_tag(connection):
        items.append("FLAGS")
    since = None
    if options.newest_days is not None:
        since = clock() - timedelta(days=options.newest_days)
        items.append("INTERNALDATE")
    if not items:
        return set()

    def note(fault: str) -> None:
        logger.warning(
            "messages are not shown, because flags or dates can not be read", extra={"facts": {"cause": fault}}
        )

    return {
        uid
        for uid, found in attributes(connection, index.uids, *items, note=note)
        if found is None
        or _KEYWORD in found.flags
        or (since is not None and found.arrived is not None and found.arrived < since)
    }
