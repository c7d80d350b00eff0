"""The credentials ``password``: each leg's password from its setting (entry point ``password``)."""

from __future__ import annotations

from collections.abc import Sequence

from legacy_email_proxy.contracts import Account, BearerToken, Context, Finding, NoCredentials, Password

__all__ = ("PasswordCredentials",)


class PasswordCredentials:
    """See :class:`~legacy_email_proxy.contracts.Credentials`."""

    def __init__(self, context: Context) -> None:
        self._settings = context.settings

    async def secret(self, account: Account) -> Password:
        """The password in ``BACKEND_IMAP_PASS`` or ``BACKEND_SMTP_PASS``."""
        variable = f"BACKEND_{account.leg.upper()}_PASS"
        password = self._settings[variable]
        if password is None:
            raise NoCredentials("there is no password to log in with", look_at=variable)
        return Password(password.reveal())

    async def refused(self, account: Account, secret: Password | BearerToken) -> bool:
        """There is no other password to try."""
        return False

    async def probe(self) -> Sequence[Finding]:
        """Nothing to check here: only the backend can say whether a password is right."""
        return ()

    async def aclose(self) -> None:
        """There is nothing to close."""
