"""The credentials ``oauth2``: a current access token for the account that logs in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property

from legacy_email_proxy.contracts import (
    Account,
    BearerToken,
    Context,
    Dialogue,
    Failure,
    Figure,
    Finding,
    Level,
    NoCredentials,
    Password,
    SettingsMistake,
    TokenStatus,
)

from .configuration import Configuration, configured
from .consent import consent
from .grants import Grants
from .http import Endpoints
from .providers import PROVIDERS
from .records import TokenStore
from .shared_store import SharedStore
from .store import Store
from .tokens import Keeper

__all__ = ("OAuth2Credentials",)

_ONLY_ACCOUNT = "default"
"""The name of the token file when the account has no name."""


class OAuth2Credentials:
    """See :class:`~legacy_email_proxy.contracts.Authorizable`. Both backends of an account share one token.

    Raises :class:`~legacy_email_proxy.contracts.SettingsMistake` with every mistake in its settings.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        mistakes: list[str] = []
        try:
            self._configuration: Configuration = configured(context.settings)
        except SettingsMistake as mistake:
            mistakes.extend(mistake.lines)
        try:
            self._tls = context.tls("OAUTH2_CA_FILE")
        except SettingsMistake as mistake:
            mistakes.extend(mistake.lines)
        try:
            self._state = context.shared_state
        except SettingsMistake as mistake:
            mistakes.extend(mistake.lines)
        if mistakes:
            raise SettingsMistake(*mistakes)
        self._grants = Grants(self._configuration, Endpoints(self._tls))

    async def secret(self, account: Account) -> BearerToken:
        """See :meth:`Credentials.secret`."""
        return await self._keeper_for(account).token()

    async def refused(self, account: Account, secret: Password | BearerToken) -> bool:
        """See :meth:`Credentials.refused`."""
        return await self._keeper_for(account).refused(secret)

    async def start(self) -> None:
        """See :meth:`StartingCredentials.start`: keep alive a refresh token that would expire unused."""
        self._keeper.start()

    async def probe(self) -> Sequence[Finding]:
        """Get a new token, and report it: a stored token may work for hours after the client secret has expired."""
        try:
            await self._keeper.fresh()
        except Failure as failure:
            text, _, advice = failure.detail.partition(" -> ")
            otherwise = f"look at {failure.look_at}" if failure.look_at else "try again later"
            return (Finding(Level.BAD, text, advice or otherwise),)
        record = await self._keeper.current()
        left = record.expires - datetime.now(UTC).timestamp()
        scope = f", for {record.scope}" if record.scope else ""
        findings = [
            Finding(Level.GOOD, f"there is a token by {self._configuration.grant}, good for {left:.0f} s{scope}")
        ]
        if self._keeper.renewed_early:
            text = "a mail server refused the stored token before its time was over, so it was renewed"
            advice = "if that happens again and again: does the provider revoke tokens, or the account lack a right?"
            findings.append(Finding(Level.WARNING, text, advice))
        if self._context.settings["OAUTH2_STORE_KEY"] is None and not self._configuration.is_app:
            advice = "set OAUTH2_STORE_KEY_FILE, unless STATE_DIR is encrypted anyway"
            findings.append(Finding(Level.WARNING, "the refresh token is stored without encryption", advice))
        return findings

    async def authorize(self, dialogue: Dialogue, *, listen: bool) -> None:
        """See :meth:`Authorizable.authorize`."""
        async with self._store().room():
            # Only a test: if the token can't be stored, the owner should not be asked to consent.
            pass
        granted = await consent(self._configuration, self._grants, dialogue, listen=listen)
        await self._keeper.adopt(granted)

    async def status(self) -> TokenStatus:
        """See :meth:`Authorizable.status`."""
        try:
            record = await self._store().load()
        except Failure as failure:
            return TokenStatus(self._configuration.grant, error=str(failure))
        return TokenStatus(
            record.grant or self._configuration.grant,
            record.scope,
            _moment(record.expires),
            _moment(record.obtained),
            record.error or self._keeper.missing(record),
        )

    async def figures(self) -> Sequence[Figure]:
        """See :meth:`~legacy_email_proxy.contracts.Observed.figures`: when token, certificate and consent end."""
        record = await self._keeper.current()
        certificate = self._context.settings["OAUTH2_CLIENT_CERT"]
        ends = [record.consent_ends]
        if certificate is not None:
            from .assertions import certificate_end  # loaded where a key is set; see `configuration`

            ends.append(certificate_end(certificate.reveal()))
        told = [Figure("token_expiry_timestamp_seconds", record.expires)] if record.expires else []
        told += [Figure("credential_expiry_timestamp_seconds", moment) for moment in ends if moment]
        offset = self._grants.clock_offset
        return told if offset is None else [*told, Figure("clock_offset_seconds", offset)]

    async def aclose(self) -> None:
        """See :meth:`Credentials.aclose`."""
        await self._keeper.aclose()
        if "_mail_keeper" in vars(self):
            await self._mail_keeper.aclose()

    def _store(self, kind: str = "") -> TokenStore:
        name, key = f"{self._context.account or _ONLY_ACCOUNT}{kind}", self._context.settings["OAUTH2_STORE_KEY"]
        own = Store(lambda: self._context.state_dir, name, key)
        return own if self._state is None else SharedStore(self._state, name, key, own)

    def _keeper_for(self, account: Account) -> Keeper:
        """A token is for one service: one for Microsoft Graph is of no use to the mail servers of the same account."""
        if self._configuration.provider != "microsoft365-graph" or account.leg == "graph":
            return self._keeper
        if not self._configuration.is_app:
            detail = f"the consent is for Microsoft Graph, and gives no token for {account.leg.upper()}"
            raise NoCredentials(f"{detail} -> use client_credentials, or a password there", look_at="OAUTH2_GRANT")
        return self._mail_keeper

    @cached_property
    def _keeper(self) -> Keeper:
        context = self._context
        return Keeper(self._configuration, self._grants, self._store(), context.logger, account=context.account)

    @cached_property
    def _mail_keeper(self) -> Keeper:
        configuration = replace(self._configuration, scope=PROVIDERS["microsoft365"].app_scope)
        grants = Grants(configuration, Endpoints(self._tls))
        return Keeper(configuration, grants, self._store(".mail"), self._context.logger)


def _moment(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None
