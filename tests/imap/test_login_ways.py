"""Which ways to log in are tried: a server's dislike of one is no verdict on the password, and no try is wasted."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Sequence

import pytest

from fakes.imap import Action, Connection, Drop, Mailbox
from fakes.server import Step
from imap.support import CLIENT, PASSWORD, USER, login, pair
from legacy_email_proxy.contracts import (
    CredentialsRefused,
    Disconnected,
    Failure,
    LoginRefused,
    Secret,
    Unusable,
)
from legacy_email_proxy_plugins.backend_settings import Encryption
from legacy_email_proxy_plugins.imap.login import LOGIN, LoginWays
from realservers.certificates import Certificates

PLAIN, SCRAM, SCRAM_1 = "AUTH=PLAIN", "AUTH=SCRAM-SHA-256", "AUTH=SCRAM-SHA-1"

TAKEN_BY_LOGIN: list[tuple[str, Action]] = [
    ("AUTHENTICATE", "BAD what?"),
    ("AUTHENTICATE", "NO [CANNOT] no such mechanism"),
    ("AUTHENTICATE", "NO unsupported authentication mechanism"),
    ("PLAIN", "NO AUTHENTICATE failed."),
    ("PLAIN", "NO PLAIN authentication disabled"),
    ("PLAIN", "BAD what?"),
]


@pytest.mark.parametrize(("step", "answer"), TAKEN_BY_LOGIN)
@pytest.mark.parametrize("clients_own", [True, False])
async def test_a_server_that_does_not_like_plain_gets_login(
    certificates: Certificates, step: str, answer: Action, clients_own: bool
) -> None:
    async with pair(certificates.good, b"x", script={step: answer}) as (maildrop, server):
        for _ in range(2):
            async with maildrop.open(CLIENT, login() if clients_own else None) as session:
                assert len(session.entries) == 1
        assert (server.connections[-1].user, server.connections[-1].password) == (USER, PASSWORD)
        assert server.times("LOGIN") == (2 if clients_own else 1)
        assert server.times(step) == 1, "what has worked is the first from then on"


JUDGED = [
    "NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)",
    "NO [ALERT] Application-specific password required",
    "NO [ALERT] Invalid credentials (Failure)",
    "NO [EXPIRED] change it",
    "NO Invalid user name or password.",
    "NO Account is locked",
    "NO Too many login failures",
]


@pytest.mark.parametrize("answer", JUDGED)
@pytest.mark.parametrize("clients_own", [True, False])
async def test_a_password_that_is_called_wrong_is_one_strike(
    certificates: Certificates, answer: str, clients_own: bool
) -> None:
    kind = LoginRefused if clients_own else CredentialsRefused
    async with pair(certificates.good, b"x", script={"PLAIN": answer}) as (maildrop, server):
        with pytest.raises(kind):
            async with maildrop.open(CLIENT, login() if clients_own else None):
                pass
        assert (server.times("PLAIN"), server.times("LOGIN")) == (1, 0)


async def test_what_has_worked_is_believed_when_it_refuses(certificates: Certificates) -> None:
    script: dict[Step, Action] = {("PLAIN", 2): "NO AUTHENTICATE failed."}
    async with pair(certificates.good, b"x", script=script) as (maildrop, server):
        async with maildrop.open(CLIENT, login()):
            pass
        with pytest.raises(LoginRefused):
            async with maildrop.open(CLIENT, login()):
                pass
        assert server.times("LOGIN") == 0


async def test_a_password_refused_both_ways_gets_one_try_at_a_time(certificates: Certificates) -> None:
    script: dict[Step, Action] = {"PLAIN": "NO failed", ("LOGIN", 1): "NO failed", ("LOGIN", 2): "NO failed"}
    async with pair(certificates.good, b"x", script=script) as (maildrop, server):
        tries = []
        for _ in range(5):
            with pytest.raises(LoginRefused):
                async with maildrop.open(CLIENT, login()):
                    pass
            tries.append((server.times("PLAIN"), server.times("LOGIN")))
            if len(tries) == 3:
                break
        assert tries == [(1, 1), (1, 2), (2, 2)]
        async with maildrop.open(CLIENT, login()) as session:  # The server has come to its senses, for LOGIN.
            assert len(session.entries) == 1


SECOND: list[tuple[Action, Action, type[Failure], str]] = [
    # What PLAIN and LOGIN are answered, and what comes of it.
    ("BAD what?", "NO [AUTHENTICATIONFAILED] wrong", CredentialsRefused, "AUTHENTICATIONFAILED"),
    ("NO failed", "BAD what?", CredentialsRefused, "failed"),
    ("NO failed", Drop(), CredentialsRefused, "failed"),
    ("NO failed", Drop(b"* BYE that is enough\r\n"), CredentialsRefused, "failed"),
    ("BAD what?", Drop(), Disconnected, "did not understand"),
    ("NO failed", "NO failed again", CredentialsRefused, "failed again"),
]


@pytest.mark.parametrize(("first", "second", "kind", "words"), SECOND)
async def test_which_of_two_answers_counts(
    certificates: Certificates, first: Action, second: Action, kind: type[Failure], words: str
) -> None:
    script: dict[Step, Action] = {"PLAIN": first, "LOGIN": second}
    async with pair(certificates.good, b"x", script=script) as (maildrop, server):
        with pytest.raises(kind, match=words):
            async with maildrop.open(CLIENT, None):
                pass
        assert (server.times("PLAIN"), server.times("LOGIN")) == (1, 1)


CHALLENGES = [b"+\r\n", b"+ go ahead\r\n", b"+ GO AHEAD\n", b"+ \n", b"+ Z28=\r\n", b"+ =\r\n", b"+ \xff\r\n"]


async def test_a_bare_line_feed_behind_the_login(certificates: Certificates) -> None:
    """GNU imap4d ends that one line so, where the login was by AUTHENTICATE."""

    def logged_in(connection: Connection, _: str) -> bytes:
        connection.mailbox = mailbox
        return b"TAG OK AUTHENTICATE PLAIN authentication successful\n"

    mailbox = Mailbox.of(b"x")
    script: dict[Step, Action] = {"PLAIN": logged_in}
    async with pair(certificates.good, mailbox=mailbox, script=script) as (maildrop, _):
        async with maildrop.open(CLIENT, None) as session:
            assert len(session.entries) == 1


@pytest.mark.parametrize("challenge", CHALLENGES)
@pytest.mark.parametrize("mechanism", [PLAIN, SCRAM])
async def test_whatever_asks_for_the_first_response(
    certificates: Certificates, challenge: bytes, mechanism: str
) -> None:
    """Some servers have words in it that are no base64, or end it with a bare LF."""
    capabilities = (mechanism, "LOGINDISABLED")
    async with pair(certificates.good, b"x", capabilities=capabilities) as (maildrop, server):
        server.challenge = challenge
        async with maildrop.open(CLIENT, None) as session:
            assert len(session.entries) == 1
        assert server.connections[0].password == PASSWORD


@pytest.mark.parametrize("mechanism", [SCRAM, SCRAM_1])
@pytest.mark.parametrize("disabled", [("LOGINDISABLED",), ()])
async def test_scram_where_plain_is_not_offered(
    certificates: Certificates, mechanism: str, disabled: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    capabilities = ("AUTH=CRAM-MD5", mechanism, *disabled)
    async with pair(certificates.good, b"x", capabilities=capabilities) as (maildrop, server):
        async with maildrop.open(CLIENT, None) as session:
            assert len(session.entries) == 1
        assert PASSWORD.encode() not in server.octets
        assert base64.b64encode(PASSWORD.encode())[4:-4] not in server.octets
        assert server.connections[0].commands[1] == f"AUTHENTICATE {mechanism.removeprefix('AUTH=')}"
    assert "imapclient" in caplog.text
    assert PASSWORD not in caplog.text


async def test_a_user_whose_key_the_server_does_not_have(certificates: Certificates) -> None:
    """It may all the same know the password, in another form, and take LOGIN."""
    script: dict[Step, Action] = {"SCRAM": "NO [AUTHENTICATIONFAILED] Authentication failed."}
    async with pair(certificates.good, b"x", script=script, capabilities=(SCRAM,)) as (maildrop, server):
        async with maildrop.open(CLIENT, login()) as session:
            assert len(session.entries) == 1
        assert (server.times("SCRAM"), server.times("LOGIN")) == (1, 1)


async def test_a_wrong_password_where_scram_and_login_are_taken(certificates: Certificates) -> None:
    async with pair(certificates.good, b"x", capabilities=(SCRAM,)) as (maildrop, server):
        tries = []
        for _ in range(4):
            with pytest.raises(LoginRefused):
                async with maildrop.open(CLIENT, login(USER, "wrong")):
                    pass
            tries.append(server.times("SCRAM") + server.times("LOGIN"))
        assert tries == [2, 3, 4, 5]


async def test_a_wrong_password_by_scram(certificates: Certificates) -> None:
    async with pair(certificates.good, b"x", capabilities=(SCRAM, "LOGINDISABLED")) as (maildrop, _):
        with pytest.raises(LoginRefused):
            async with maildrop.open(CLIENT, login(USER, "wrong")):
                pass
        with pytest.raises(LoginRefused):
            async with maildrop.open(CLIENT, login("nobody", PASSWORD)):
                pass
        with pytest.raises(LoginRefused, match="can't be used with SCRAM"):
            async with maildrop.open(CLIENT, login(USER, "\x07bell")):
                pass


@pytest.mark.parametrize(
    ("final", "words"),
    [
        ("", "without showing that it knows the password"),
        ("v=eHh4", "broke the protocol of SCRAM-SHA-256"),
        ("what?", "broke the protocol of SCRAM-SHA-256"),
    ],
)
async def test_who_does_not_know_the_password_does_not_let_us_in(
    certificates: Certificates, final: str, words: str
) -> None:
    async with pair(certificates.good, b"x", capabilities=(SCRAM, "LOGINDISABLED")) as (maildrop, server):
        server.server_final = final
        with pytest.raises(Disconnected, match=words):
            async with maildrop.open(CLIENT, None):
                pass
        assert not any("SELECT" in command for command in server.commands)


async def test_what_scram_says_of_a_refusal_is_told(certificates: Certificates) -> None:
    script: dict[Step, Action] = {"SCRAM": "NO [AUTHENTICATIONFAILED] no"}
    capabilities = (SCRAM, "LOGINDISABLED")
    async with pair(certificates.good, b"x", script=script, capabilities=capabilities) as (maildrop, server):
        server.server_final = "e=other-error"
        with pytest.raises(CredentialsRefused, match="e=other-error"):
            async with maildrop.open(CLIENT, None):
                pass


ORDERS = [
    ((PLAIN,), ["PLAIN", LOGIN]),
    ((PLAIN, "LOGINDISABLED"), ["PLAIN"]),
    ((PLAIN, SCRAM), ["PLAIN", LOGIN]),
    ((PLAIN, SCRAM, "LOGINDISABLED"), ["PLAIN", "SCRAM-SHA-256"]),
    ((SCRAM_1, SCRAM), ["SCRAM-SHA-256", LOGIN]),
    ((SCRAM_1, "AUTH=LOGIN", "LOGINDISABLED"), ["SCRAM-SHA-1"]),
    (("AUTH=CRAM-MD5", "AUTH=XOAUTH2"), [LOGIN]),
    ((), [LOGIN]),
]


@pytest.mark.parametrize(("capabilities", "ways"), ORDERS)
def test_the_order(capabilities: Sequence[str], ways: list[str]) -> None:
    assert LoginWays().of(login(), capabilities, Encryption.IMPLICIT) == ways


NO_WAY = [
    (("AUTH=CRAM-MD5",), Encryption.IMPLICIT, "BACKEND_IMAP_HOST, BACKEND_IMAP_PORT", "CRAM-MD5; the proxy knows"),
    (("AUTH=XOAUTH2",), Encryption.STARTTLS, "BACKEND_IMAP_CREDENTIALS", "XOAUTH2; the proxy knows"),
    ((), Encryption.NONE, "BACKEND_IMAP_USE_SSL, BACKEND_IMAP_USE_STARTTLS", "before TLS"),
]


@pytest.mark.parametrize(("offered", "encryption", "look_at", "words"), NO_WAY)
def test_where_to_look_when_there_is_no_way(
    offered: tuple[str, ...], encryption: Encryption, look_at: str, words: str
) -> None:
    with pytest.raises(Unusable, match=words) as failure:
        LoginWays().of(login(), (*offered, "LOGINDISABLED"), encryption)
    assert failure.value.look_at == look_at


def test_what_is_remembered_of_refusals_is_bounded() -> None:
    ways = LoginWays()
    for number in range(5000):
        ways._remember(login(f"user {number}"))
    assert len(ways._refused) <= 1000


@pytest.mark.parametrize(("tls", "look_at"), [("implicit", "BACKEND_IMAP_HOST"), ("none", "BACKEND_IMAP_USE_SSL")])
async def test_a_server_that_sees_no_tls(certificates: Certificates, tls: str, look_at: str) -> None:
    async with pair(
        certificates.good, b"x", script={"PLAIN": "NO [PRIVACYREQUIRED] use TLS"}, encryption=tls  # type: ignore[arg-type]
    ) as (maildrop, _):  # fmt: skip
        with pytest.raises(Unusable) as failure:
            async with maildrop.open(CLIENT, None):
                pass
        assert failure.value.look_at.startswith(look_at)


@pytest.mark.parametrize("password", ["A", "5", "temp", "Geheim"])
@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ('[AUTHENTICATIONFAILED] A user 5.7.8 said LOGIN "ALICE" "{}" AGFsaWNl', CredentialsRefused),
        ("[UNAVAILABLE] {} later", Failure),
    ],
)
async def test_a_password_is_hidden_and_the_code_is_not(
    certificates: Certificates, password: str, said: str, kind: type[Failure]
) -> None:
    script: dict[Step, Action] = {"PLAIN": f"NO {said.format(password.upper())}"}
    async with pair(
        certificates.good,
        accounts={(USER, password): Mailbox()},
        script=script,
        BACKEND_IMAP_PASS=Secret(password),
    ) as (maildrop, _):
        with pytest.raises(kind) as failure:
            async with maildrop.open(CLIENT, None):
                pass
    code = said.partition("]")[0] + "]"
    assert code in failure.value.detail
    words = re.findall(r"[A-Z0-9]+", failure.value.detail.replace(code, "").replace("5.7.8", ""))
    assert password.upper() not in words
    assert failure.value.detail.count("***") <= 3
