"""AUTH (RFC 4954): from the command's argument, over challenges, to a login; and who accepts it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from .. import sasl
from ..contracts import Login
from ..replies import SMTP
from .arguments import Rejected

__all__ = ("KEYWORDS", "LOGIN_DELAY_SECONDS", "Verifier", "anybody", "authenticate")

LOGIN_DELAY_SECONDS = 2.0
"""Between a refused login and its 535."""

_MECHANISMS = "LOGIN PLAIN"

KEYWORDS = (f"AUTH {_MECHANISMS}", f"AUTH={_MECHANISMS}")
"""Lines of EHLO. The second is how drafts before RFC 2554 wrote it, and all that clients of that age look for; the
oldest compare it with ``AUTH=LOGIN``. CRAM-MD5 is not among them: some Ricoh devices take it first and then give up."""


class Verifier(Protocol):
    """Judges logins."""

    async def __call__(self, login: Login, address: str) -> None:
        """Return where the login of a client at ``address`` may pass.

        Raises :class:`LoginRefused`; any other failure is told as temporary.
        """


async def anybody(login: Login, address: str) -> None:
    """Accept every login, for devices that insist on one. They may do no more than devices that don't log in."""


async def authenticate(argument: str, ask: Callable[[str], Awaitable[bytes]], *, judged: bool = True) -> Login:
    """The login that the client gives. ``ask`` sends a challenge in base64 and returns the line of the response;
    ``judged``: somebody will look at it.

    Raises :class:`Rejected`, and what ``ask`` raises.
    """
    name, blank, response = argument.partition(" ")
    try:
        exchange = sasl.begin(sasl.Mechanism(name.upper()), judged=judged)
    except ValueError:
        raise Rejected(SMTP.UNKNOWN_MECHANISM if name else SMTP.SYNTAX) from None
    try:
        login = exchange.respond(sasl.initial(response.strip().encode())) if blank else None
        while login is None:
            line = await ask(sasl.challenge(exchange))
            login = exchange.respond(sasl.decode(line.rstrip(b" \t")))
    except sasl.Malformed:
        # The client is not told why: 501 is also the reply to a client that gave up with "*".
        raise Rejected(SMTP.MALFORMED_RESPONSE) from None
    return login
