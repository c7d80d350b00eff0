"""``ADMIN_PASSWORD``: whether a password is the right one, with one limit for all ways in which one can be tried."""

from __future__ import annotations

import hmac
import logging

from .. import log
from ..contracts import Login, LoginRefused, Secret
from ..guessing import LoginLimit
from ..reloading import Current

__all__ = ("AdminPassword",)

_log = logging.getLogger("legacy_email_proxy.admin")


class AdminPassword:
    """Judges logins of the admin listener by the password that is set now."""

    def __init__(self, current: Current) -> None:
        self._current = current
        # Of its own, so that wrong passwords here never slow down a device's login.
        self._logins = LoginLimit()

    @property
    def wanted(self) -> Secret | None:
        """The password; ``None`` where none is wanted."""
        password: Secret | None = self._current.composition.settings["ADMIN_PASSWORD"]
        return password or None

    async def prove(self, login: Login, client: str) -> None:
        """Raises ``LoginRefused`` for a wrong password, ``LoginsLimited`` where none may be tried now."""
        wanted = self.wanted
        try:
            async with self._logins.attempt("admin", client, login):
                if wanted is None or not hmac.compare_digest(login.password.fingerprint(), wanted.fingerprint()):
                    raise LoginRefused("wrong password", look_at="ADMIN_PASSWORD")
        except LoginRefused as refused:
            log.event(_log, logging.INFO, "admin login failed", client=client, cause=str(refused))
            raise
