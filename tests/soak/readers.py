"""Devices that read: they fetch and delete, leave mail on the server, take marks back, and hang up without QUIT."""

from __future__ import annotations

import itertools
import poplib
import random
from collections.abc import Callable, Iterable
from contextlib import suppress

from clients import reset_when_closed
from realservers.dovecot import Dovecot
from soak.ledger import Mailbox
from soak.mail import mark, message
from soak.senders import SECONDS, Road

HELD = 25
"""How many messages a mailbox is filled up to."""


class _Session(poplib.POP3):
    """Closes its socket also where the greeting is no welcome."""

    def __init__(self, port: int) -> None:
        try:
            super().__init__("127.0.0.1", port, SECONDS)
        except BaseException:
            with suppress(AttributeError):  # there was no connection
                self.close()
            raise


class Reader:
    """The device that reads one mailbox."""

    def __init__(self, road: Road, mailbox: Mailbox, dovecot: Dovecot, chance: random.Random) -> None:
        self._road = road
        self._mailbox = mailbox
        self._dovecot = dovecot
        self._chance = chance
        self._numbers = itertools.count(1)
        self._names: dict[str, str] = {}
        """The message of each unique-id: that never changes."""
        self._pop: _Session

    def reading(self) -> None:
        """One session after the other, until the end."""
        self._fill(HELD)
        while not self._road.ended.wait(self._chance.uniform(0.2, 1.0)):
            self._mailbox.sessions += 1
            try:
                self._session()
            except (OSError, EOFError, poplib.error_proto) as error:
                self._mailbox.failed += 1
                if "[AUTH]" in str(error):
                    self._mailbox.fault(f"the right password was refused: {error}")
            finally:
                with suppress(AttributeError, OSError):
                    self._pop.close()
            held = len(self._mailbox.put) - len(self._mailbox.deleted) - len(self._mailbox.unsure)
            self._fill(HELD - held)

    def _fill(self, count: int) -> None:
        messages = []
        for _ in range(count):
            name = f"{self._mailbox.user}-{next(self._numbers)}"
            octets = 1_500_000 if self._chance.random() < 0.03 else self._chance.randint(100, 30_000)
            messages.append(message(name, self._road.address, octets, self._chance))
            self._mailbox.put.add(name)
        if messages:
            self._dovecot.add_messages(self._mailbox.user, messages)

    def _session(self) -> None:
        self._pop = _Session(self._road.pop3_port)
        self._pop.user(self._mailbox.user)
        self._pop.pass_(self._mailbox.password)
        names = {}
        for line in self._pop.uidl()[1]:
            number, unique_id = line.decode().split()
            if unique_id not in self._names:
                self._names[unique_id] = mark(_octets(self._pop.top(int(number), 0)[1]))[0]
            names[int(number)] = self._names[unique_id]
            self._mailbox.listed(self._names[unique_id])
        chosen = self._chance.sample(sorted(names), min(len(names), self._chance.randint(1, 8)))
        sessions = (self._fetch, self._look, self._vanish, self._tear, self._reset, self._rush)
        self._chance.choices(sessions, _ODDS)[0]({number: names[number] for number in chosen})

    def _retrieve(self, number: int, name: str) -> None:
        found, whole = mark(_octets(self._pop.retr(number)[1]))
        self._mailbox.retrieved += 1
        if found != name or not whole:
            self._mailbox.fault(f"RETR gave {found!r} (whole: {whole}) for {name}")

    def _delete(self, chosen: dict[int, str]) -> None:
        for number, name in chosen.items():
            self._retrieve(number, name)
            self._pop.dele(number)

    def _quit(self, deleted: Iterable[str], leave: Callable[[], object]) -> None:
        names = set(deleted)
        self._mailbox.unsure |= names  # until we read the answer
        leave()
        self._mailbox.unsure -= names
        self._mailbox.deleted |= names

    def _fetch(self, chosen: dict[int, str]) -> None:
        """As most devices do."""
        self._delete(chosen)
        self._quit(chosen.values(), self._pop.quit)

    def _look(self, chosen: dict[int, str]) -> None:
        """Leave all mail on the server."""
        for number, name in chosen.items():
            if self._chance.random() < 0.5:
                self._retrieve(number, name)
            elif mark(_octets(self._pop.top(number, 5)[1]))[0] != name:
                self._mailbox.fault(f"TOP gave another message than {name}")
        self._quit((), self._pop.quit)

    def _vanish(self, chosen: dict[int, str]) -> None:
        """Delete, and hang up without QUIT: nothing is deleted."""
        self._delete(chosen)
        if self._chance.random() < 0.5:
            reset_when_closed(self._pop.sock)

    def _tear(self, chosen: dict[int, str]) -> None:
        """Hang up in the middle of a message, with others marked: nothing is deleted."""
        first, *others = chosen or (1,)
        for number in others:
            self._pop.dele(number)
        self._pop._putcmd(f"RETR {first}")  # type: ignore[attr-defined]
        self._pop.sock.recv(1000)
        reset_when_closed(self._pop.sock)

    def _reset(self, chosen: dict[int, str]) -> None:
        """Take the marks back, delete one."""
        for number in chosen:
            self._pop.dele(number)
        self._pop.rset()
        last = dict(itertools.islice(chosen.items(), 1))
        self._delete(last)
        self._quit(last.values(), self._pop.quit)

    def _rush(self, chosen: dict[int, str]) -> None:
        """Say QUIT, and do not wait for the answer."""
        self._delete(chosen)
        self._mailbox.unsure |= set(chosen.values())
        self._pop._putcmd("QUIT")  # type: ignore[attr-defined]


_ODDS = (40, 20, 15, 10, 10, 5)


def _octets(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\r\n" for line in lines)
