"""Our POP3 leg beside Dovecot's own, on identical mailboxes: the same commands to both, and the replies compared.

Ours reads its mailbox through the real `imap` plugin from the same Dovecot. The lines that one takes and the other
refuses stand in :data:`DIFFERENCES`, the messages that differ in `test_messages_that_differ`, each with the reason. A
difference that isn't there fails, and so does one there that is none any more. Texts behind `+OK` and `-ERR` are free.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from interop.proxy import Proxy, running
from realservers.accounts import Account
from realservers.certificates import Certificates
from realservers.dovecot import Dovecot

LAST_TOO = "protocol pop3 {\n  pop3_enable_last = yes\n  pop3_no_flag_updates = yes\n}\n"
"""LAST is off in Dovecot; without flags it counts one session, as RFC 1225 does."""

MESSAGES = [
    b"Subject: plain\r\n\r\nbody\r\n",
    b"Subject: dots\r\n\r\n.\r\n..\r\n.a\r\n",
    b"Subject: bare LF\n\nbody\n.\n",
    b"Subject: no end\r\n\r\nbody",
    b"Subject: header only\r\n\r\n",
    b"Subject: no blank line\r\n",
    b"\r\nno header\r\n",
    b"Subject: \xe9\r\n\r\n\x80\xff\r\n",
    b"Subject: bare CR\r\n\r\na\rb\r\n",
    b"Subject: a long line\r\n\r\n" + b"x" * 20_000 + b"\r\n",
    b"Subject: a long body\r\n\r\n" + b".y\r\n" * 9_000,
]

SAME = [
    *(b"", b"NOPE", b"\xff", b"STAT\r", b"AUTH", b"AUTH PLAIN", b"USER u", b"PASS p", b"APOP a b", b"STLS"),
    *(b"RETR", b"RETR 0", b"RETR -1", b"RETR +1", b"RETR 1_0", b"RETR x", b"RETR 4294967296", b"RETR 99"),
    *(b"TOP", b"TOP 1", b"TOP 1 -1", b"TOP 1 x", b"TOP 0 0", b"TOP 99 1", b"TOP \xd9\xa3 0"),
    *(b"LIST 0", b"LIST 99", b"LIST x", b"LIST 1 2", b"UIDL 0", b"UIDL x", b"UIDL 1 2", b"DELE", b"DELE 99", b"DELE x"),
    *(b"list 1", b"uIdL 1", b"stat", b"noop", b"RSET", b"LAST", b"LIST 01"),
]  # fmt: skip

DIFFERENCES = {
    b"STAT 1": "Dovecot ignores arguments where none belong; RFC 1939 §5 gives STAT none",
    b"NOOP x": "the same",
    b"RSET x": "the same",
    b"NOOP\x00": "to Dovecot a line ends at NUL; to us NUL is an octet that no command has",
    b"LIST 1 ": "Dovecot takes the blank for another argument; devices send such blanks, and nothing else can be meant",
    b"RETR  1": "Dovecot takes several blanks; RFC 1939 §3 separates by a single one",
    b"XTND XLST Subject 1": "Dovecot does not know it; we do, for clients older than UIDL",
}
"""Lines that one of the two takes and the other refuses, and why."""


class POP3:
    """A connection that reads whole replies."""

    def __init__(self, address: tuple[str, int], account: Account) -> None:
        self._socket = socket.create_connection(address, timeout=50)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")
        self._file.readline()
        for line in (f"USER {account.name}", f"PASS {account.password}"):
            reply = self.tell(line.encode())
            assert reply.startswith(b"+OK"), reply
        # Dovecot says +OK to PASS before it has looked at the mailbox, and would show mail that arrives in between.
        self.tell(b"STAT")

    def tell(self, line: bytes) -> bytes:
        """Send a command; the status line of the reply."""
        self._socket.sendall(line + b"\r\n")
        return self._file.readline()

    def listed(self, line: bytes) -> tuple[bytes, bytes]:
        """Send a command; the status line and all behind it, the final dot included."""
        status = self.tell(line)
        rest = b""
        if status.startswith(b"+OK"):
            while not rest.endswith(b"\r\n.\r\n") and rest != b".\r\n":
                octets = self._file.readline()
                assert octets, "the connection ended in a reply"
                rest += octets
        return status, rest

    def quit(self) -> bytes:
        reply = self.tell(b"QUIT")
        self.close()
        return reply

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._file.close()
        self._socket.close()


def kind(status: bytes) -> bytes:
    assert status.endswith(b"\r\n")
    assert len(status) <= 512
    assert status.startswith((b"+OK", b"-ERR")), status
    return status.split()[0]


@pytest.fixture(scope="module")
def server(certificates: Certificates) -> Iterator[Dovecot]:
    with Dovecot.start(certificates.good, settings=LAST_TOO) as server:
        yield server


@pytest.fixture(scope="module")
def front(server: Dovecot) -> Iterator[Proxy]:
    variables = {
        "RELAY_PLUGIN": "none",
        "POP3_LOGIN": "backend",
        "BACKEND_IMAP_HOST": "localhost",
        "BACKEND_IMAP_PORT": str(server.imaps_port),
        "BACKEND_IMAP_CA_FILE": str(server.ca_file),
    }
    with running(variables) as proxy:
        yield proxy


@pytest.fixture
def both(server: Dovecot, front: Proxy) -> Iterator[tuple[POP3, POP3]]:
    """Ours and Dovecot's, each on a mailbox with every message."""
    accounts = [server.add_account(), server.add_account()]
    for account in accounts:
        server.add_messages(account.name, MESSAGES)
    pair = POP3(front.pop3, accounts[0]), POP3((server.plain_host, server.pop3_port), accounts[1])
    yield pair
    for one in pair:
        one.close()


@pytest.mark.parametrize("line", [*SAME, *DIFFERENCES], ids=lambda line: line.decode("ascii", "backslashreplace"))
def test_each_line(line: bytes, both: tuple[POP3, POP3]) -> None:
    ours, theirs = (kind(one.tell(line)) for one in both)
    assert (ours != theirs) == (line in DIFFERENCES), (ours, theirs)


def test_each_message(both: tuple[POP3, POP3]) -> None:
    ours, theirs = both
    assert ours.tell(b"STAT") == theirs.tell(b"STAT")
    for number in range(1, len(MESSAGES) + 1):
        for line in (b"RETR %d", b"TOP %d 0", b"TOP %d 1", b"TOP %d 5000"):
            one, other = ours.listed(line % number), theirs.listed(line % number)
            assert one[1] == other[1], (line, MESSAGES[number - 1][:40])
            assert line.startswith(b"TOP") or one[0] == other[0]


def nul_is_0x80(theirs: bytes) -> bytes:
    """Dovecot's IMAP, from which we read, can't send NUL and sends 0x80 (RFC 3501 §4.3); its POP3 can."""
    return theirs.replace(b"\x00", b"\x80")


def first_dot_is_stuffed(theirs: bytes) -> bytes:
    """Dovecot leaves a dot that is a message's first octet as it is; RFC 1939 §3 stuffs it, or it would be lost."""
    return b"." + theirs


@pytest.mark.parametrize(
    ("message", "difference"),
    [(b"Subject: nul\r\n\r\n\x00\r\n", nul_is_0x80), (b".Subject: x\r\n\r\n", first_dot_is_stuffed)],
)
def test_messages_that_differ(
    server: Dovecot, front: Proxy, message: bytes, difference: Callable[[bytes], bytes]
) -> None:
    account = server.add_account()
    server.add_message(account.name, message)
    ours, theirs = POP3(front.pop3, account), POP3((server.plain_host, server.pop3_port), account)
    assert ours.tell(b"LIST 1") == theirs.tell(b"LIST 1")
    one, other = ours.listed(b"RETR 1"), theirs.listed(b"RETR 1")
    ours.close()
    theirs.close()
    assert one[0] == other[0]
    assert one[1] != other[1]
    assert one[1] == difference(other[1])


@pytest.mark.quirk("pop3-P2")
def test_unique_ids_are_dovecots(server: Dovecot, front: Proxy) -> None:
    """On one mailbox: a site that comes from Dovecot, or goes back to it, downloads nothing twice."""
    account = server.add_account()
    server.add_messages(account.name, MESSAGES)
    ours, theirs = POP3(front.pop3, account), POP3((server.plain_host, server.pop3_port), account)
    one, other = ours.listed(b"UIDL"), theirs.listed(b"UIDL")
    ours.close()
    theirs.close()
    assert one[1] == other[1]
    assert one[1].count(b"\r\n") == len(MESSAGES) + 1


@pytest.mark.quirk("pop3-P14")
def test_unique_ids_never_recur(server: Dovecot, front: Proxy) -> None:
    """Also when the newest message or all of them are deleted: a client would take new mail for read mail."""
    account = server.add_account()
    seen: set[bytes] = set()
    for _ in range(4):
        server.add_messages(account.name, MESSAGES[:3])
        session = POP3(front.pop3, account)
        lines = session.listed(b"UIDL")[1].split(b"\r\n")[:-2]
        fresh = {line.split()[1] for line in lines}
        assert len(fresh) == 3
        assert not fresh & seen
        seen |= fresh
        for number in (1, 2, 3):
            session.tell(b"DELE %d" % number)
        assert kind(session.quit()) == b"+OK"


NUMBERS = st.integers(1, 6)
MESSAGE = st.integers(0, len(MESSAGES) - 1)


class Mailboxes(RuleBasedStateMachine):
    """One session after the other on two mailboxes that must stay alike; ``self.model`` is what both must hold."""

    def __init__(self, server: Dovecot, front: Proxy) -> None:
        super().__init__()
        self.server = server
        self.accounts = [server.add_account(), server.add_account()]
        self.addresses = [front.pop3, (server.plain_host, server.pop3_port)]
        self.model: list[bytes] = []
        self.sessions: list[POP3] = []

    @initialize(messages=st.lists(MESSAGE, max_size=5))
    def fill(self, messages: list[int]) -> None:
        self.deliver(messages)
        self.connect()

    def deliver(self, messages: list[int]) -> None:
        # Each with a line of its own, so that the model can tell two of them apart.
        own = [b"X-Number: %d\r\n" % (len(self.model) + n) + MESSAGES[index] for n, index in enumerate(messages)]
        self.model += own
        for account in self.accounts:
            self.server.add_messages(account.name, own)

    def connect(self) -> None:
        self.sessions = [POP3(*pair) for pair in zip(self.addresses, self.accounts, strict=True)]
        self.numbered = [message for message in self.model if message]
        self.marked: set[int] = set()
        self.gone: set[int] = set()
        self.errors = 0
        self.last_differs = False

    def teardown(self) -> None:
        for session in self.sessions:
            session.close()

    def same(self, line: bytes) -> bytes:
        ours, theirs = (session.tell(line) for session in self.sessions)
        assert kind(ours) == kind(theirs), (line, ours, theirs)
        self.errors += ours.startswith(b"-ERR")
        return ours

    def same_octets(self, line: bytes) -> None:
        ours, theirs = (session.listed(line) for session in self.sessions)
        assert kind(ours[0]) == kind(theirs[0]), (line, ours[0], theirs[0])
        assert ours[1] == theirs[1], line
        self.errors += ours[0].startswith(b"-ERR")

    # Both hang up after twenty errors, but what is one they count each in their own way.
    live = precondition(lambda self: self.errors < 15)

    @live
    @rule(number=NUMBERS)
    def dele(self, number: int) -> None:
        if self.same(b"DELE %d" % number).startswith(b"+OK"):
            self.marked.add(number)

    @live
    @rule(number=NUMBERS)
    def retr(self, number: int) -> None:
        self.same_octets(b"RETR %d" % number)
        # To Dovecot's LAST a message counts that RETR could not get; RFC 1225 counts those that were.
        self.last_differs |= number in self.gone

    @live
    @rule(number=NUMBERS, lines=st.integers(0, 4))
    def top(self, number: int, lines: int) -> None:
        self.same_octets(b"TOP %d %d" % (number, lines))

    @live
    @rule(number=NUMBERS)
    def list_one(self, number: int) -> None:
        line = b"LIST %d" % number
        ours, theirs = (session.tell(line) for session in self.sessions)
        assert kind(ours) == kind(theirs)
        assert ours.startswith(b"-ERR") or ours == theirs
        self.errors += ours.startswith(b"-ERR")

    @rule()
    def listings(self) -> None:
        self.same_octets(b"LIST")
        for line in (b"STAT",) if self.last_differs else (b"STAT", b"LAST"):
            ours, theirs = (session.tell(line) for session in self.sessions)
            assert ours == theirs
        # UIDVALIDITY is each mailbox's own, so of the unique-ids only the UIDs are alike.
        ours_too, theirs_too = (session.listed(b"UIDL")[1].split(b"\r\n") for session in self.sessions)
        assert [line[:-8] for line in ours_too] == [line[:-8] for line in theirs_too]

    @rule()
    def rset(self) -> None:
        assert self.same(b"RSET").startswith(b"+OK")
        self.marked.clear()
        self.last_differs = False

    @rule(message=MESSAGE)
    @precondition(lambda self: len(self.model) < 12)
    def arrive(self, message: int) -> None:
        self.deliver([message])

    @rule(number=NUMBERS)
    def another_client_removes(self, number: int) -> None:
        if not 1 <= number <= len(self.numbered) or number in self.gone:
            return
        self.gone.add(number)
        place = self.model.index(self.numbered[number - 1])
        position = sum(1 for message in self.model[: place + 1] if message)
        for account in self.accounts:
            with self.server.connect(account.name) as imap:
                imap.select()
                imap.store(str(position), "+FLAGS", "\\Deleted")
                imap.expunge()
        # Kept as a gap: the numbers in X-Number must not come again.
        self.model[place] = b""

    @rule()
    def drop(self) -> None:
        for session in self.sessions:
            session.close()
        self.agree()
        self.connect()

    @rule()
    def quit_and_return(self) -> None:
        ours, theirs = (session.quit() for session in self.sessions)
        assert kind(ours) == kind(theirs) == b"+OK", (ours, theirs)
        for number in self.marked - self.gone:
            self.model[self.model.index(self.numbered[number - 1])] = b""
        self.agree()
        self.connect()

    def agree(self) -> None:
        """Both mailboxes hold the model, as another mail program sees them."""
        ours, theirs = (self.server.messages(account.name) for account in self.accounts)
        assert ours == theirs
        assert [message.split(b"\r\n")[0] for message in ours] == [m.split(b"\r\n")[0] for m in self.model if m]


@pytest.mark.long
@pytest.mark.timeout(150)
def test_any_sessions_on_both(server: Dovecot, front: Proxy) -> None:
    run_state_machine_as_test(
        lambda: Mailboxes(server, front),  # type: ignore[arg-type]  # anything that makes one
        settings=settings(
            max_examples=20,
            stateful_step_count=25,
            deadline=None,
            # Without shrinking: each try is some fifty logins at real servers.
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
