"""What can be wrong with the settings of alerts: a way that does not work is found at the start, not on the bad day."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

__all__ = ("alert_mistakes",)


def alert_mistakes(settings: Mapping[str, Any], *, sends: bool) -> list[str]:
    """One line for each mistake; ``sends``: there is an account through which mail can go out."""
    mistakes = []
    url = settings["ALERT_WEBHOOK_URL"]
    if url is not None and not _is_address(url.reveal()):
        # It is a secret, so it is not shown.
        mistakes.append("ALERT_WEBHOOK_URL: that is no address; write one like https://chat.firm.example/hook")
    for address in settings["ALERT_MAIL_TO"] or ():
        if not ("@" in address and address.isprintable() and " " not in address and "<" not in address):
            mistakes.append(f"ALERT_MAIL_TO: {address!r} is no address; write one like admin@firm.example")
    if settings["ALERT_MAIL_TO"] and not sends:
        mistakes.append("ALERT_MAIL_TO: there is no relay through which mail could go out")
    if settings["ALERT_COMMAND"] is not None:
        try:
            if not shlex.split(settings["ALERT_COMMAND"]):
                mistakes.append("ALERT_COMMAND: there is no command in it")
        except ValueError as error:
            mistakes.append(f"ALERT_COMMAND: it can not be split into words: {str(error).lower()}")
    return mistakes


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 (raises for a wrong one)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
