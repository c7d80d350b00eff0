"""The ``imap`` maildrop: POP3's view of a folder on an IMAP server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
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

from .accounts import Accounts
from .folder import open_folder
from .probe import failed, inspect
from .server import Security, configured_login, configured_server
from .session import IMAPSession

__all__ = ("IMAPMaildrop",)

_NOBODY = Login("", Secret(""))


class IMAPMaildrop:
    """See :class:`~legacy_email_proxy.contracts.Maildrop`.

    Raises :class:`~legacy_email_proxy.contracts.SettingsMistake` with every mistake in its settings.
    """

    def __init__(self, context: Context) -> None:
        self._logger = context.logger
        self._server = configured_server(context)
        self._login = configured_login(context)
        self._accounts = Accounts(self._server)
        if self._server.security is Security.NONE:
            self._logger.warning(
                "passwords go to the IMAP server in the clear, see BACKEND_IMAP_USE_SSL and BACKEND_IMAP_USE_STARTTLS",
                extra={"facts": {"server": self._server.name}},
            )

    @asynccontextmanager
    async def open(self, client: Client, login: Login | None) -> AsyncIterator[IMAPSession]:
        """Open the folder of ``login``, or of the account in the settings."""
        used = login or self._login
        if used is None:
            detail = "no login: neither the client's nor one in the settings"
            raise CredentialsRefused(detail, look_at="BACKEND_IMAP_USER, POP3_LOGIN")
        with self._accounts.pool(used, clients_own=login is not None) as pool:
            # A connection that is open already proves nothing about the password that this client has just given.
            index = await pool.exchange(partial(open_folder, pool.shelf), fresh=login is not None)
            yield IMAPSession(pool, index, self._logger)

    async def probe(self) -> Sequence[Finding]:
        """Connect, log in and open the folder, on a connection of its own."""
        findings: list[Finding] = []
        with self._accounts.pool(self._login or _NOBODY, clients_own=self._login is None) as pool:
            try:
                await pool.exchange(partial(inspect, self._server, self._login, findings), fresh=True, log_in=False)
            except Failure as failure:
                findings.append(failed(failure))
            except Exception as error:
                self._logger.exception("the probe failed in a way that nobody expected")
                findings.append(Finding(Level.BAD, f"unexpected: {type(error).__name__}", "see the log"))
        return findings

    async def aclose(self) -> None:
        """Log out where that is quick, and close every connection."""
        await self._accounts.aclose()
