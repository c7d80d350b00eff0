"""The logins of one session: USER and PASS, and AUTH with its challenges, up to the credentials that they give."""

from __future__ import annotations

from collections.abc import Callable

from .. import sasl
from ..replies import pop3_line
from ..sasl import Mechanism
from .commands import Command, Mistake
from .requests import Open, Reply
from .wire import END_OF_REPLY, MAX_LINE_OCTETS, encode_line

__all__ = ("MAX_REFUSED_MECHANISMS", "Authorization")

MAX_REFUSED_MECHANISMS = 10
"""How often AUTH may name an unknown mechanism before that counts as an error: clients try all that they know."""

_MECHANISMS = b"".join(map(encode_line, (pop3_line("mechanisms", ok=True), *Mechanism))) + END_OF_REPLY


class Authorization:
    """What the client said so far. ``user`` is whom it named, before and after the login; ``judged``: somebody checks
    the user and password.
    """

    __slots__ = ("_exchange", "_judged", "_refused_mechanisms", "user")

    def __init__(self, *, judged: bool) -> None:
        self._judged = judged
        self.user: str | None = None
        self._exchange: sasl.Exchange | None = None
        self._refused_mechanisms = 0

    @property
    def max_line_octets(self) -> int:
        """How long the next line may be: a response is longer than a command."""
        return sasl.MAX_RESPONSE_OCTETS if self._exchange else MAX_LINE_OCTETS

    def take_exchange(self) -> sasl.Exchange | None:
        """The exchange for which the next line is a response. It is forgotten here, until another challenge sets it."""
        exchange, self._exchange = self._exchange, None
        return exchange

    def take_user(self, user: str) -> Reply:
        """USER."""
        if self.user is not None:
            raise Mistake("PASS is expected after USER")
        self.user = user
        # The same reply for every name: nobody may learn without a password which users there are.
        return Reply(encode_line(pop3_line("send PASS", ok=True)))

    def take_password(self, command: Command) -> Open:
        """PASS."""
        if self.user is None:
            raise Mistake("send USER first")
        return Open(self.user, command.password)

    def authenticate(self, command: Command) -> Reply | Open:
        """AUTH."""
        if not command.mechanism:
            return Reply(_MECHANISMS)
        if command.mechanism not in Mechanism.__members__:
            # Never "+OK" here: the client would send its response, and that would be read as commands.
            text = "that mechanism is not offered"
            self._refused_mechanisms += 1
            if self._refused_mechanisms > MAX_REFUSED_MECHANISMS:
                raise Mistake(text)
            return Reply(encode_line(pop3_line(text)))
        exchange = sasl.begin(Mechanism(command.mechanism), judged=self._judged)
        if command.initial_response is None:
            return self._challenge(exchange)
        return self._respond(exchange, sasl.initial, command.initial_response.reveal().encode("latin-1"))

    def respond(self, exchange: sasl.Exchange, line: bytes) -> Reply | Open:
        """The client's response to the challenge."""
        return self._respond(exchange, sasl.decode, line.rstrip(b" \t"))

    def _respond(self, exchange: sasl.Exchange, decode: Callable[[bytes], bytes], line: bytes) -> Reply | Open:
        try:
            login = exchange.respond(decode(line))
        except sasl.Malformed as malformed:
            raise Mistake(str(malformed)) from None
        if login is None:
            return self._challenge(exchange)
        self.user = login.user
        return Open(login.user, login.password)

    def _challenge(self, exchange: sasl.Exchange) -> Reply:
        self._exchange = exchange
        return Reply(encode_line(f"+ {sasl.challenge(exchange)}"))
