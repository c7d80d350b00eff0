"""How each account's token stands, as the service that uses it knows: what ``authorize --status`` asks for.

Only that service knows which accounts and settings it runs with. The command may have been called with others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, cast

from ..build import Composition
from ..contracts import Authorizable, Failure, TokenStatus
from .socket import Answers, Handler

__all__ = ("status_of", "tokens")

_STATUS_SECONDS = 5.0
"""The token's file may be on a disk that hangs."""


def tokens(current: Callable[[], Composition]) -> Handler:
    """A handler that gives one answer for each account that has credentials with a token."""

    async def answer(request: Mapping[str, Any], by: str) -> Answers:
        for account in current().accounts:
            for credentials in account.credentials.values():
                if hasattr(credentials, "status"):
                    status = await _status(cast(Authorizable, credentials))
                    yield {
                        "account": account.name, "grant": status.grant, "scope": status.scope, "error": status.error,
                        "expires": _plain(status.expires), "refreshed": _plain(status.refreshed),
                    }  # fmt: skip

    return answer


async def _status(credentials: Authorizable) -> TokenStatus:
    try:
        async with asyncio.timeout(_STATUS_SECONDS):
            return await credentials.status()
    except TimeoutError:
        return TokenStatus("", error=f"no answer within {_STATUS_SECONDS:g} s")
    except Failure as failure:
        return TokenStatus("", error=str(failure))


def status_of(answer: Mapping[str, Any]) -> TokenStatus:
    """The command's side: the status that an answer tells."""
    return TokenStatus(
        answer["grant"], answer["scope"], _moment(answer["expires"]), _moment(answer["refreshed"]), answer["error"]
    )


def _plain(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
