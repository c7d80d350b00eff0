"""The accounts of a test's mail server: for each a file with name and password, which the server reads at the login."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOMAIN = "example.test"
KNOWN = ("alice", "bob", "carol")


@dataclass(frozen=True)
class Account:
    """Who logs in, with what, and the address whose mail arrives there."""

    name: str
    password: str

    @property
    def address(self) -> str:
        return f"{self.name}@{DOMAIN}"


class Accounts:
    """The accounts of one server: `alice`, `bob` and `carol` from the start, and fresh ones as the tests ask for them.

    Each has a password of its own, so that what one password opens never is what another one should have opened.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o755)
        self._folder = folder
        self._accounts: dict[str, Account] = {}
        for name in KNOWN:
            self.add(name, f"{name}'s password")

    def __getitem__(self, name: str) -> Account:
        return self._accounts[name]

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts.values())

    def add(self, name: str | None = None, password: str | None = None) -> Account:
        """A new account, valid at once; without a name it gets one that no other test has."""
        account = Account(name or f"user{len(self._accounts)}", secrets.token_hex(8) if password is None else password)
        if account.name in self._accounts:
            raise ValueError(f"there already is an account {account.name}")
        self._accounts[account.name] = account
        # In base64, because the file's fields end at a colon and a password may hold one.
        encoded = base64.b64encode(account.password.encode()).decode("ascii")
        (self._folder / account.name).write_text(f"{account.name}:{{PLAIN.b64}}{encoded}\n")
        return account
