"""Getting in: what goes on the wire, and what each way of being refused means (fault matrix C1–C5)."""

from __future__ import annotations

import base64
import logging
import socket

import pytest

from fakes.imap import Action, Connection, Cut, Drip, Drop, Hang, Mailbox, Reset
from fakes.server import Step
from imap.support import CLIENT, SHORT, USER, login, maildrop_for, pair, patient
from legacy_email_proxy.contracts import (
    CredentialsRefused,
    Disconnected,
    Failure,
    LoginRefused,
    Secret,
    Unreachable,
    Unusable,
    Unverified,
)
from legacy_email_proxy_plugins.imap.response_codes import Busy, NotUnderstood
from realservers.certificates import Certificate, Certificates

LOGIN_ONLY = ("UIDPLUS",)
IMPATIENT = {"connect": 1.0, "read": SHORT, "command": 1.0}

CREDENTIALS = [
    ("alice", "secret"),
    ("alice", "p w"),
    ("al ice", 'quo"te'),
    ('al"ice', "back\\slash"),
    ("a\\", "\\"),
    ("alice", "{5}"),
    ("{5+}", "%*()[]"),
    ("älice", "pässwörd"),
    ("alice", "日本語"),
    ("alice", " leading and trailing "),
    ("alice", "NIL"),
    ("alice", "x" * 256),
    ("alice@example.test", '" "'),
    ("alice", "\t\x01"),
    ("alice", '"quoted"'),
]


@pytest.mark.fault("C5")
@pytest.mark.parametrize("capabilities", [("AUTH=PLAIN",), LOGIN_ONLY])
@pytest.mark.parametrize(("user", "password"), CREDENTIALS)
async def test_the_server_sees_exactly_this_login(
    certificates: Certificates, capabilities: tuple[str, ...], user: str, password: str
) -> None:
    accounts = {(user, password): Mailbox.of(b"x")}
    async with pair(certificates.good, accounts=accounts, capabilities=capabilities, POP3_LOGIN="backend") as pairs:
        maildrop, server = pairs
        async with maildrop.open(CLIENT, login(user, password)) as session:
            assert len(session.entries) == 1
    (connection,) = server.connections
    assert (connection.user, connection.password) == (user, password)
    names = [command.split(" ")[0] for command in connection.commands]
    auth = "AUTHENTICATE" if capabilities == ("AUTH=PLAIN",) else "LOGIN"
    assert names == ["CAPABILITY", auth, "CAPABILITY", "SELECT", "UID", "LOGOUT"], "one login, and no command besides"


async def test_what_the_answer_to_the_login_told_is_not_asked_again(certificates: Certificates) -> None:
    box = Mailbox.of(b"x")

    def welcome(connection: Connection, _: str) -> bytes:
        connection.mailbox = box
        return b"TAG OK [CAPABILITY IMAP4rev1 UIDPLUS ID] welcome\r\n"

    async with pair(certificates.good, mailbox=box, script={"PLAIN": welcome}) as (maildrop, server):
        async with maildrop.open(CLIENT, None):
            names = [command.split(" ")[0] for command in server.commands]
    assert names == ["CAPABILITY", "AUTHENTICATE", "ID", "SELECT", "UID"]


@pytest.mark.parametrize("step", ["TLS", "GREETING"])
@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (b"* BYE [LIMIT] ten for each user\r\n", Busy),
        (b"* bye [INUSE]\r\n", Busy),
        (b"* BYE Too many connections\r\n", Busy),
        (b"* BYE [SERVERBUG] try again later\r\n", Unreachable),
        (b"* BYE\r\n", Unreachable),
    ],
)
async def test_a_farewell_in_place_of_a_greeting(
    certificates: Certificates, step: str, said: bytes, kind: type[Failure]
) -> None:
    async with pair(certificates.good, b"x", script={step: Drop(said)}) as (maildrop, _):
        with pytest.raises(kind) as raised:
            async with maildrop.open(CLIENT, None):
                pass
    assert "BACKEND_IMAP_MAX_CONNECTIONS" in str(raised.value)
    assert said[5:].strip().decode() in str(raised.value)
    assert "greet" not in str(raised.value)


@pytest.mark.fault("C5")
@pytest.mark.parametrize("capabilities", [("AUTH=PLAIN",), LOGIN_ONLY])
@pytest.mark.parametrize("password", ["a\rb", "a\nb", "x\r\nX1 DELETE INBOX", "a\0b"])
async def test_what_would_end_the_command_is_never_sent(
    certificates: Certificates, capabilities: tuple[str, ...], password: str
) -> None:
    async with pair(certificates.good, b"x", capabilities=capabilities) as (maildrop, server):
        for user, secret in (("alice", password), (password, "secret")):
            with pytest.raises(LoginRefused):
                async with maildrop.open(CLIENT, login(user, secret)):
                    pass
    assert all(connection.commands == ["CAPABILITY"] for connection in server.connections)


async def test_octets_that_are_no_utf8_arrive_as_they_are(certificates: Certificates) -> None:
    password = b"p\xe4ss".decode("utf-8", "surrogateescape")
    async with pair(certificates.good, b"x", script={"AUTHENTICATE": b"+ \r\n"}) as (maildrop, server):
        patient(maildrop, **IMPATIENT)
        with pytest.raises(Disconnected):
            async with maildrop.open(CLIENT, login("alice", password)):
                pass
    assert base64.b64encode(b"\0alice\0p\xe4ss") in server.octets


ANSWERS: list[tuple[Action, type[Failure], type[Failure]]] = [
    # What the server does, what it means for the settings' login, and for a client's.
    ("NO [AUTHENTICATIONFAILED] wrong", CredentialsRefused, LoginRefused),
    ("NO wrong password", CredentialsRefused, LoginRefused),
    ("NO [ALERT] Invalid credentials (Failure)", CredentialsRefused, LoginRefused),
    ("NO [AUTHENTICATIONFAILED] too many wrong passwords, try again later", CredentialsRefused, LoginRefused),
    ("NO Too many login failures, account locked", CredentialsRefused, LoginRefused),
    ("NO Invalid login, please try again", CredentialsRefused, LoginRefused),
    ("NO [EXPIRED] password expired", CredentialsRefused, LoginRefused),
    ("NO [AUTHORIZATIONFAILED] IMAP is off", CredentialsRefused, LoginRefused),
    ("NO [CONTACTADMIN] call us", CredentialsRefused, Failure),
    ("NO [UNAVAILABLE] Temporary authentication failure.", Busy, Busy),
    ("NO [INUSE] later", Busy, Busy),
    ("NO [LIMIT] later", Busy, Busy),
    ("NO [ALERT] Too many simultaneous connections. (Failure)", Busy, Busy),
    ("NO [PRIVACYREQUIRED] use TLS", Unusable, Unusable),
    ("NO [SERVERBUG] Internal error occurred, try again later", Failure, Failure),
    ("NO Internal error", Failure, Failure),
    ("BAD what?", NotUnderstood, NotUnderstood),
    ("BAD [AUTHENTICATIONFAILED] what?", NotUnderstood, NotUnderstood),
    (b"* BYE going down\r\n", Disconnected, Disconnected),
    (Drop(b"* BYE [UNAVAILABLE] too many connections\r\n"), Busy, Busy),
    (Drop(), Disconnected, Disconnected),
    (Reset(), Disconnected, Disconnected),
    (Hang(), Disconnected, Disconnected),
    (Drip(octets=b"* OK still working\r\n"), Disconnected, Disconnected),
    (b"* OK noise\r\n" * 50_000, Disconnected, Disconnected),
    (b"* CAPABILITY" + b" X" * 1_000_000 + b"\r\n", Disconnected, Disconnected),
    (b"+ \xff\r\n+ \r\n+ again\r\n", Disconnected, Disconnected),
    (b"TAG1 OK for somebody else\r\n", Disconnected, Disconnected),
    (b"garbage\r\n", Disconnected, Disconnected),
    (b"* OK {1000000000000000}\r\n", Disconnected, Disconnected),
    (b"TAG OK welcome\r\n* BYE or not\r\n", Disconnected, Disconnected),
]


@pytest.mark.quirk("imap-B15", "imap-B28")
@pytest.mark.fault("C3", "C25")
@pytest.mark.parametrize("capabilities", [("AUTH=PLAIN",), LOGIN_ONLY])
@pytest.mark.parametrize(("answer", "for_ours", "for_clients"), ANSWERS)
async def test_what_an_answer_to_the_login_means(
    certificates: Certificates,
    capabilities: tuple[str, ...],
    answer: Action,
    for_ours: type[Failure],
    for_clients: type[Failure],
) -> None:
    script: dict[Step, Action] = {"AUTHENTICATE": answer, "LOGIN": answer}
    async with pair(
        certificates.good, b"x", script=script, capabilities=capabilities, seconds=IMPATIENT
    ) as (maildrop, server):  # fmt: skip
        for given, kind in ((None, for_ours), (login(), for_clients)):
            with pytest.raises(Failure) as raised:
                async with maildrop.open(CLIENT, given):
                    pass
            assert type(raised.value) is kind, raised.value.detail
        await server.until(lambda server: server.open_connections == 0)
    assert not any("SELECT" in command for command in server.commands)
    assert len(server.connections) == 2, "one try each"


GREETINGS: list[tuple[Action, type[Failure]]] = [
    (Drop(b"* BYE down for maintenance\r\n"), Unreachable),
    (Drop(b"* BYE [UNAVAILABLE] too many connections from your address\r\n"), Busy),
    (b"* PREAUTH welcome whoever you are\r\n", Unusable),
    (Drop(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Unreachable),
    (Drop(b"\x00\xff\x00garbage\r\n"), Unreachable),
    (Drop(b"220 smtp.example ESMTP\r\n"), Unreachable),
    (Drop(b"* OK no line end"), Unreachable),
    (b"* OK " + b"x" * 100_000 + b"\r\n", Unreachable),
    (Drop(), Unreachable),
    (Reset(), Unreachable),
    (Hang(), Unreachable),
    (Drip(octets=b"* OK "), Unreachable),
]


@pytest.mark.fault("C1")
@pytest.mark.parametrize("encryption", ["implicit", "none"])
@pytest.mark.parametrize(("greeting", "kind"), GREETINGS)
async def test_greetings(certificates: Certificates, greeting: Action, kind: type[Failure], encryption: str) -> None:
    async with pair(
        certificates.good, b"x", script={"GREETING": greeting}, encryption=encryption, seconds=IMPATIENT  # type: ignore[arg-type]
    ) as (maildrop, server):  # fmt: skip
        with pytest.raises(Failure) as raised:
            async with maildrop.open(CLIENT, None):
                pass
    assert type(raised.value) is kind, raised.value.detail
    assert raised.value.look_at
    assert not any(word in server.octets for word in (b"AUTHENTICATE", b"LOGIN"))


@pytest.mark.fault("C1")
@pytest.mark.parametrize("action", [Drop(), Reset(), Hang()])
async def test_no_tls_handshake(certificates: Certificates, action: Action) -> None:
    async with pair(certificates.good, b"x", script={"TLS": action}, seconds=IMPATIENT) as (maildrop, _):
        with pytest.raises(Unreachable):
            async with maildrop.open(CLIENT, None):
                pass


async def test_a_plain_server_on_the_tls_port(certificates: Certificates) -> None:
    async with pair(certificates.good, b"x", encryption="none", BACKEND_IMAP_USE_SSL=True) as (maildrop, _):
        with pytest.raises(Unverified) as raised:
            async with maildrop.open(CLIENT, None):
                pass
    assert "BACKEND_IMAP_USE_SSL" in raised.value.look_at


@pytest.mark.fault("C1")
async def test_nobody_listens(certificates: Certificates) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        maildrop = maildrop_for(taken.getsockname()[1], certificates.good.ca_file)
        with pytest.raises(Unreachable, match="refused") as raised:
            async with maildrop.open(CLIENT, None):
                pass
        await maildrop.aclose()
    assert raised.value.look_at == "BACKEND_IMAP_HOST, BACKEND_IMAP_PORT"


@pytest.mark.fault("C1")
@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 70 + ".test"])
async def test_no_such_name(certificates: Certificates, host: str) -> None:
    maildrop = maildrop_for(993, certificates.good.ca_file, BACKEND_IMAP_HOST=host)
    with pytest.raises(Unreachable) as raised:
        async with maildrop.open(CLIENT, None):
            pass
    await maildrop.aclose()
    assert raised.value.look_at == "BACKEND_IMAP_HOST"


@pytest.mark.fault("C2")
@pytest.mark.parametrize("encryption", ["implicit", "starttls"])
@pytest.mark.parametrize(
    ("name", "reason", "look_at"),
    [
        # No setting of ours mends a wrong clock, or a certificate that the provider has to renew.
        ("expired", "expired", ""),
        ("wrong_host", "not valid for", "BACKEND_IMAP_HOST"),
        ("other_ca", "local issuer|self.signed|unknown", "BACKEND_IMAP_CA_FILE"),
        ("future", "not yet valid", ""),
        ("self_signed", "self.signed", "BACKEND_IMAP_CA_FILE"),
        ("weak_key", "too weak", "BACKEND_IMAP_CA_FILE"),
    ],
)
async def test_certificates_that_do_not_verify(
    certificates: Certificates, name: str, reason: str, look_at: str, encryption: str
) -> None:
    bad: Certificate = getattr(certificates, name)
    async with pair(bad, b"x", encryption=encryption) as (maildrop, server):  # type: ignore[arg-type]
        with pytest.raises(Unverified, match=reason) as raised:
            async with maildrop.open(CLIENT, None):
                pass
        await server.until(lambda server: server.open_connections == 0)
    assert raised.value.look_at == look_at
    commands = [] if encryption == "implicit" else ["CAPABILITY", "STARTTLS"]
    assert server.commands == commands, "nothing was sent before the certificate was verified"
    assert (encryption == "starttls") == bool(server.octets)


async def test_starttls(certificates: Certificates) -> None:
    async with pair(certificates.good, b"x", encryption="starttls") as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert len(session.entries) == 1
    assert server.connections[0].commands[:4] == ["CAPABILITY", "STARTTLS", "CAPABILITY", "AUTHENTICATE PLAIN"]


STRIPPED: list[tuple[str, Action, type[Failure]]] = [
    ("CAPABILITY", b"* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\nTAG OK done\r\n", Unverified),
    ("STARTTLS", "NO not today", Unverified),
    ("STARTTLS", "BAD what?", Unverified),
    ("STARTTLS", b"TAG OK go\r\n* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] injected\r\n", Unverified),
    ("STARTTLS", b"* PREAUTH\r\nTAG OK go\r\nX OK injected\r\n", Unverified),
    ("STARTTLS", b"TAG OK go\r\n\x16", Unverified),
    ("STARTTLS", Drop(), Unreachable),
    ("STARTTLS", Hang(), Unreachable),
    ("GREETING", b"* PREAUTH come in\r\n", Unusable),
]


@pytest.mark.parametrize(("step", "action", "kind"), STRIPPED)
async def test_starttls_stripped_or_spoilt(
    certificates: Certificates, step: str, action: Action, kind: type[Failure]
) -> None:
    async with pair(
        certificates.good, b"x", encryption="starttls", script={step: action}, seconds=IMPATIENT
    ) as (maildrop, server):  # fmt: skip
        with pytest.raises(Failure) as raised:
            async with maildrop.open(CLIENT, None):
                pass
    assert type(raised.value) is kind, raised.value.detail
    assert not any(word in server.octets for word in (b"AUTHENTICATE", b"LOGIN"))


@pytest.mark.fault("C4")
@pytest.mark.parametrize("mechanisms", [(), ("AUTH=XOAUTH2", "AUTH=OAUTHBEARER")])
async def test_no_usable_mechanism(certificates: Certificates, mechanisms: tuple[str, ...]) -> None:
    async with pair(certificates.good, b"x", capabilities=("LOGINDISABLED", *mechanisms)) as (maildrop, server):
        with pytest.raises(Unusable, match="LOGINDISABLED"):
            async with maildrop.open(CLIENT, None):
                pass
    assert not any(command.startswith(("AUTH", "LOGIN ")) for command in server.commands)


IDS = [
    "NO no",
    "BAD what?",
    b'* ID ((("\r\nTAG OK\x20x\r\n',
    b"* ID NIL\r\nTAG OK x\r\n",
    b"* ID {2}\r\n)(\r\nTAG ok\r\n",
]


@pytest.mark.quirk("imap-B23")
@pytest.mark.parametrize("answer", [*IDS, b"* ID " + b"(" * 60_000 + b"\r\nTAG OK x\r\n"])
async def test_whatever_the_server_says_to_id(certificates: Certificates, answer: Action) -> None:
    async with pair(certificates.good, b"x", script={"ID": answer}) as (maildrop, _):
        async with maildrop.open(CLIENT, None) as session:
            assert len(session.entries) == 1


SELECTS: list[tuple[Action, type[Failure], str]] = [
    ("NO [NONEXISTENT] no such mailbox", Failure, "BACKEND_IMAP_FOLDER"),
    ("NO Unsafe Login", Failure, "BACKEND_IMAP_FOLDER"),
    ("NO [UNAVAILABLE] later", Busy, ""),
    ("BAD User is authenticated but not connected.", Busy, ""),
    (b"* 1 EXISTS\r\nTAG OK no uidvalidity\r\n", Failure, "BACKEND_IMAP_FOLDER"),
    (b"* 1 EXISTS\r\n* OK [UIDVALIDITY 0] x\r\nTAG OK x\r\n", Failure, "BACKEND_IMAP_FOLDER"),
    (b"* OK [UIDVALIDITY 5] x\r\nTAG OK no exists\r\n", Disconnected, ""),
    (b"* 1 EXISTS\r\n* OK [UIDVALIDITY x] x\r\nTAG OK x\r\n", Disconnected, ""),
    (Drop(), Disconnected, ""),
    (Cut(30), Disconnected, ""),
    (Hang(), Disconnected, ""),
]


@pytest.mark.fault("C6")
@pytest.mark.parametrize(("answer", "kind", "look_at"), SELECTS)
async def test_the_folder_does_not_open(
    certificates: Certificates, answer: Action, kind: type[Failure], look_at: str
) -> None:
    async with pair(certificates.good, b"x", script={"SELECT": answer}, seconds=IMPATIENT) as (maildrop, _):
        with pytest.raises(Failure) as raised:
            async with maildrop.open(CLIENT, None):
                pass
    assert type(raised.value) is kind, raised.value.detail
    assert look_at in raised.value.look_at


async def test_a_folder_with_an_odd_name(certificates: Certificates) -> None:
    async with pair(certificates.good, b"x", BACKEND_IMAP_FOLDER='Gelöscht "alt" \\ & neu') as (maildrop, server):
        async with maildrop.open(CLIENT, None):
            pass
    assert 'SELECT "Gel&APY-scht \\"alt\\" \\\\ &- neu"' in server.commands


# A wrong password in the settings.


@pytest.mark.quirk("imap-B30", "imap-B31")
async def test_a_refused_login_is_not_repeated_by_every_poll(certificates: Certificates) -> None:
    async with pair(certificates.good, accounts={("somebody", "else"): Mailbox()}) as (maildrop, server):
        for _ in range(20):
            with pytest.raises(CredentialsRefused):
                async with maildrop.open(CLIENT, None):
                    pass
        assert server.times("PLAIN") == 1
        for _ in range(3):
            with pytest.raises(LoginRefused):
                async with maildrop.open(CLIENT, login("mallory", "guess")):
                    pass
        assert server.times("PLAIN") == 4, "a client's own login is asked every time"


async def test_devices_that_start_together_are_one_wrong_password(certificates: Certificates) -> None:
    import anyio

    refused = 0

    async def poll() -> None:
        nonlocal refused
        with pytest.raises(CredentialsRefused):
            async with maildrop.open(CLIENT, None):
                pass
        refused += 1

    async with pair(certificates.good, accounts={("somebody", "else"): Mailbox()}) as (maildrop, server):
        async with anyio.create_task_group() as devices:
            for _ in range(8):
                devices.start_soon(poll)
        assert (refused, server.times("PLAIN")) == (8, 1)


@pytest.mark.parametrize("password", ['hush"hush hush', "p\u00e4ss w\u00f6rd 4 tests"])
async def test_no_password_in_any_log(
    certificates: Certificates, caplog: pytest.LogCaptureFixture, password: str
) -> None:
    caplog.set_level(logging.DEBUG)
    encoded = base64.b64encode(f"\0alice\0{password}".encode()).decode()
    echoing: list[Action] = [
        f"NO what do you mean by {password}",
        f"BAD {encoded} is no command",
        f"NO {'x' * (298 - len(password))} {password}",  # where a long text is cut
        Drop(f"* BYE {password}\r\n".encode()),
        Drop(f"{encoded}\r\n".encode()),
        b"* NO " + password.replace('"', '\\"').encode() + b"\r\nTAG NO no\r\n",
    ]
    details = []
    for capabilities in (("AUTH=PLAIN",), LOGIN_ONLY):
        for answer in [None, *echoing]:
            async with pair(
                certificates.good,
                accounts={("alice", password): Mailbox.of(b"x")},
                script={"PLAIN": answer, "AUTHENTICATE": answer, "LOGIN": answer},
                capabilities=capabilities,
                BACKEND_IMAP_USER="alice",
                BACKEND_IMAP_PASS=Secret(password),
            ) as (maildrop, _):
                try:
                    async with maildrop.open(CLIENT, None):
                        pass
                except Failure as failure:
                    details.append(repr(failure) + str(failure))
                details.extend(map(str, await maildrop.probe()))
    told = caplog.text + "\n".join(details)
    assert details
    of_password = base64.b64encode(password.encode()).decode()
    escaped = password.encode().decode("ascii", "backslashreplace")
    for secret in (password, password.replace('"', '\\"'), escaped, escaped[:-4], encoded, encoded[4:-4], of_password):
        assert secret not in told
    assert USER in told
