"""The server's half of SCRAM, for the fakes: by the library whose client's half we use, as no other is at hand.

Real Dovecot is the judge of whether both are right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from scramp import ScramMechanism


def scram_server(name: str, accounts: Iterable[tuple[str, str]]) -> tuple[Any, Callable[[], str]]:
    """A server for one exchange, and who logs in, as far as that has been said."""
    mechanism = ScramMechanism(name)
    passwords = dict(accounts)
    users = [""]

    def known(user: str) -> Any:
        users.append(user)
        return mechanism.make_auth_info(passwords[user]) if user in passwords else None

    return mechanism.make_server(known), lambda: users[-1]
