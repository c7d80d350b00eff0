"""The ``imap`` maildrop: POP3's view of a folder on an IMAP server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial

from legacy_email_proxy.contracts import (
    Client,
    Context,
    CredentialsRefused,
    Failure,
    Finding,
    Level,
    Login,
    Secret,
)

from .account_cache import Shelf
from .connection import Connection
from .deletion import remove, stays
from .folder import open_folder
from .folder_state import Memory
from .listing import Index
from .pool import Accounts
from .probe import failed, inspect, reached
from .session import IMAPSession
from .settings import Deletion, Security, configured_login, configured_options, configured_server
from .unfetchable import WatchedSession
from .view import shown

__all__ = ("IMAPMaildrop",)

_NOBODY = Login("", Secret(""))


class IMAPMaildrop:
    """See :class:`~legacy_email_proxy.contracts.Maildrop`.

    Raises :class:`~legacy_email_proxy.contracts.SettingsMistake` with every mistake in its settings.
    """

    def __init__(self, context: Context) -> None:
        self._logger = context.logger
        self._context = context
        self._server = configured_server(context)
        self._options = configured_options(context)
        self._login = configured_login(context)
        self._accounts = Accounts(self._server, self._logger)
        if self._server.security is Security.NONE:
            self._logger.warning(
                "passwords go to the IMAP server in the clear, see BACKEND_IMAP_USE_SSL and BACKEND_IMAP_USE_STARTTLS",
                extra={"facts": {"server": self._server.name}},
            )

    @asynccontextmanager
    async def open(self, client: Client, login: Login | None) -> AsyncIterator[WatchedSession]:
        """Open the folder of ``login``, or of the account in the settings."""
        used = login or self._login
        if used is None:
            detail = "no login: neither the client's nor one in the settings"
            raise CredentialsRefused(detail, look_at="BACKEND_IMAP_USER, POP3_LOGIN")
        with self._accounts.pool(used, clients_own=login is not None) as pool:
            # A connection that is open already proves nothing about the password that this client has just given.
            memory = self._memory(used)
            if login is None:
                index = await pool.openings.join(
                    lambda opening: pool.exchange(partial(self._list, pool.shelf, memory, opening.begun))
                )
            else:
                index = await pool.exchange(partial(self._list, pool.shelf, memory, lambda: None), fresh=True)
            session = IMAPSession(pool, index, partial(self._remove, memory), self._logger)
            yield WatchedSession(session, self._options, memory, self._logger)

    def _memory(self, login: Login) -> Memory:
        return Memory(lambda: self._context.state_dir, self._server.name, login.user, self._server.folder)

    def _list(self, shelf: Shelf, memory: Memory, begin: Callable[[], None], connection: Connection) -> Index:
        begin()
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
                await pool.exchange(
                    partial(inspect, self._server, self._login, self._options, memory, findings),
                    fresh=True,
                    log_in=self._login is not None,
                    reached=lambda connection: findings.extend(reached(self._server, connection)),
                    untouched=lambda: not findings,
                )
            except Failure as failure:
                findings.append(failed(failure))
            except Exception as error:
                self._logger.exception("the probe failed in a way that nobody expected")
                findings.append(Finding(Level.BAD, f"unexpected: {type(error).__name__}", "see the log"))
        return findings

    async def aclose(self) -> None:
        """Log out where that is quick, and close every connection."""
        await self._accounts.aclose()
