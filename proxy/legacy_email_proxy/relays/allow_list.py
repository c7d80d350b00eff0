"""Who may send and to whom: ``SMTP_ALLOWED_SENDERS`` and ``SMTP_ALLOWED_RECIPIENTS``, a filter before all others."""

from __future__ import annotations

from ..contracts import Context, Envelope, Filter, SettingsMistake
from ..replies import SMTP, refusal
from .addresses import Addresses

__all__ = ("GuardFilter",)


class GuardFilter(Filter):
    """Lets through what the lists hold; a list that is not set holds everybody. Raises :class:`SettingsMistake`."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        lists: list[Addresses | None] = []
        mistakes = []
        for variable in ("SMTP_ALLOWED_SENDERS", "SMTP_ALLOWED_RECIPIENTS"):
            given = context.settings[variable]
            try:
                lists.append(None if given is None else Addresses.parse(given))
            except ValueError as error:
                mistakes.append(f"{variable}: {error}")
        if mistakes:
            raise SettingsMistake(*mistakes)
        self._senders, self._recipients = lists

    async def reverse_path(self, envelope: Envelope) -> str:
        """The sender, if it may send."""
        if self._senders is not None and not self._senders.holds(envelope.reverse_path):
            raise refusal(SMTP.SENDER_NOT_ALLOWED, "not in SMTP_ALLOWED_SENDERS")
        return envelope.reverse_path

    async def forward_path(self, envelope: Envelope, forward_path: str) -> str:
        """The recipient, if it may be sent to."""
        if self._recipients is not None and not self._recipients.holds(forward_path):
            raise refusal(SMTP.RECIPIENT_NOT_ALLOWED, "not in SMTP_ALLOWED_RECIPIENTS")
        return forward_path
