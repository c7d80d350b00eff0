"""AUTH: how long a response may be, what happens when it doesn't come, and that none of it is told to anybody."""

from __future__ import annotations

import asyncio
import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_email_proxy.contracts import Login, LoginRefused, Secret, Unreachable
from legacy_email_proxy.sasl import MAX_RESPONSE_OCTETS
from legacy_email_proxy.smtp.arguments import Rejected
from legacy_email_proxy.smtp.authentication import anybody, authenticate
from smtp.conftest import Leg, StartLeg
from waiting import until

HELLO = b"HELO x\r\n"


def b64(octets: bytes) -> bytes:
    return base64.b64encode(octets)


class Judge:
    """Remembers the logins; those with the password ``wrong`` are refused."""

    def __init__(self) -> None:
        self.logins: list[Login] = []

    async def __call__(self, login: Login, address: str) -> None:
        self.logins.append(login)
        match login.password.reveal():
            case "wrong-xyz":
                raise LoginRefused("no such login")
            case "broken-xyz":
                raise Unreachable("the directory is down")
            case "bug-xyz":
                raise ValueError("bug")


def ended(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [vars(record)["facts"] for record in caplog.records if record.getMessage() == "smtp session ended"]


@pytest.mark.parametrize("octets", [9000, MAX_RESPONSE_OCTETS // 4 * 3 - 6])
async def test_a_response_may_be_longer_than_a_command(start_leg: StartLeg, octets: int) -> None:
    judge = Judge()
    leg = await start_leg(verifier=judge)
    response = b64(b"\x00u\x00" + b"t" * octets) + b"\r\n"
    assert len(response) <= MAX_RESPONSE_OCTETS
    replies = await leg.exchange(HELLO + b"AUTH PLAIN\r\n" + response + b"QUIT\r\n")
    assert [line[:3] for line in replies.splitlines()[2:]] == [b"334", b"235", b"221"]
    assert judge.logins == [Login("u", Secret("t" * octets))]


async def test_an_endless_response_is_one_mistake_and_bounded(start_leg: StartLeg) -> None:
    leg = await start_leg(verifier=anybody)
    async with leg.connected() as (reader, writer):
        writer.write(HELLO + b"AUTH PLAIN\r\n")
        await reader.readuntil(b"334 \r\n")
        (session,) = leg.server._connections
        held = 0
        for _ in range(100):
            writer.write(b"QUFB" * 4000)
            await writer.drain()
            await asyncio.sleep(0)
            held = max(held, len(session.incoming))
        # The rest of that line is no command, what follows it is.
        writer.write(b"\r\nNOOP\r\nQUIT\r\n")
        replies = (await reader.read()).splitlines()
    assert [line[:9] for line in replies] == [b"500 5.5.6", b"250 2.0.0", b"221 2.0.0"]
    # What one read of the socket brings comes on top.
    assert held < MAX_RESPONSE_OCTETS + (1 << 17)


async def test_who_stops_in_the_middle_is_cut_off_as_idle(
    start_leg: StartLeg, caplog: pytest.LogCaptureFixture
) -> None:
    leg = await start_leg(verifier=anybody, idle_seconds=0.1)
    replies = await leg.exchange(HELLO + b"AUTH LOGIN\r\ndXNl", half_close=False)
    assert replies.splitlines()[-1].startswith(b"421 4.4.2 ")
    assert await leg.exchange(HELLO + b"AUTH LOGIN\r\ndXNl") == b"".join(replies.splitlines(keepends=True)[:-1])
    await until(lambda: len(ended(caplog)) == 2)
    assert [facts["verdict"] for facts in ended(caplog)] == ["idle", "dropped"]


async def test_a_drain_does_not_wait_for_a_response(start_leg: StartLeg) -> None:
    leg = await start_leg(verifier=anybody)
    async with leg.connected() as (reader, writer):
        writer.write(HELLO + b"AUTH LOGIN\r\n")
        await reader.readuntil(b"334 ")
        draining = asyncio.create_task(leg.server.drain(30))
        async with asyncio.timeout(5):
            assert (await reader.read()).splitlines()[-1].startswith(b"421 4.3.2 ")
    await draining


async def test_guessing_ends_the_session(start_leg: StartLeg) -> None:
    judge = Judge()
    leg = await start_leg(verifier=judge)
    guess = b"AUTH PLAIN " + b64(b"\x00u\x00wrong-xyz") + b"\r\n"
    replies = (await leg.exchange(HELLO + guess * 50)).splitlines()
    assert replies[-1] == b"421 4.7.0 Too many errors, goodbye"
    assert len(judge.logins) == 20


async def test_a_refused_login_is_delayed_and_nothing_else(start_leg: StartLeg) -> None:
    leg = await start_leg(verifier=Judge(), login_delay_seconds=0.3)
    loop = asyncio.get_running_loop()
    for password, delayed in ((b"wrong-xyz", True), (b"broken-xyz", False), (b"right-xyz", False)):
        started = loop.time()
        await leg.exchange(HELLO + b"AUTH PLAIN " + b64(b"\x00u\x00" + password) + b"\r\nQUIT\r\n")
        assert (loop.time() - started >= 0.3) is delayed


async def test_no_secret_in_the_log(start_leg: StartLeg, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    leg = await start_leg(verifier=Judge())
    passwords = [b"wrong-xyz", b"broken-xyz", b"bug-xyz", b"right-xyz"]
    for password in passwords:
        plain = b"AUTH PLAIN " + b64(b"\x00scanner\x00" + password) + b"\r\n"
        login = b"AUTH LOGIN " + b64(b"scanner") + b"\r\n" + b64(password) + b"\r\n"
        spoilt = b"AUTH PLAIN " + b64(b"\x00scanner\x00" + password)[:-1] + b"!\r\n" + b64(password) + b"\r\n"
        long = b"AUTH PLAIN\r\n" + b64(password) * 2000 + b"\r\n"
        for octets in (plain, login, spoilt, long, b"MAIL FROM:<a@b>\r\n" + plain):
            await leg.exchange(HELLO + octets)
    await until(lambda: len(ended(caplog)) == 20)
    text = caplog.text + "".join(repr(vars(record)) for record in caplog.records)
    assert "smtp login failed" in text
    assert "Traceback" in text
    assert "user': 'scanner'" in text
    for password in passwords:
        # base64 of a whole PLAIN response holds that of the password's octets in some alignment.
        for shift in range(3):
            inner = b64(b"\x00" * shift + password)[4 if shift else 0 : -4]
            assert inner.decode() not in text
        assert password.decode() not in text


@pytest.mark.quirk("smtp-C22")
@pytest.mark.parametrize("password", [b"", b"p", "pässword".encode(), "pässword".encode("latin-1"), b" " * 5])
async def test_any_password_of_any_device_may_pass(leg: Leg, start_leg: StartLeg, password: bytes) -> None:
    leg = await start_leg(verifier=anybody)
    for login in (
        b"AUTH PLAIN " + b64(b"\x00u\x00" + password),
        b"AUTH LOGIN\r\n" + b64(b"u") + b"\r\n" + b64(password),
    ):
        assert b"235 2.7.0 Logged in\r\n221 " in await leg.exchange(HELLO + login + b"\r\nQUIT\r\n")


LENIENT = (
    b"AUTH PLAIN " + b64(b"admin\x00scanner\x00x"),
    b"AUTH PLAIN " + b64(b"\x00\x00x"),
    b"AUTH PLAIN " + b64(b"\x00\x00"),
    b"AUTH PLAIN\r\n" + b64(b"\x00ann\x00x"),
    b"AUTH PLAIN " + b64(b"\x00ann\x00xy").rstrip(b"="),
    b"AUTH LOGIN =\r\n" + b64(b"x"),
    b"AUTH LOGIN\r\n\r\n",
    b"AUTH LOGIN\r\n" + b64(b"a").rstrip(b"=") + b"\r\n" + b64(b"xy").rstrip(b"="),
)


@pytest.mark.parametrize("login", LENIENT)
async def test_where_nobody_judges_there_is_little_to_be_wrong(start_leg: StartLeg, login: bytes) -> None:
    leg = await start_leg(verifier=anybody)
    replies = await leg.exchange(HELLO + login + b"\r\nAUTH PLAIN AGEAYg==\r\nQUIT\r\n")
    # One login is enough, also one without a user.
    assert [line[:3] for line in replies.splitlines() if line[:3] != b"334"][2:] == [b"235", b"503", b"221"]


@pytest.mark.parametrize("login", [*LENIENT[:3], LENIENT[5], LENIENT[6]])
async def test_where_somebody_does_nobody_acts_for_another(start_leg: StartLeg, login: bytes) -> None:
    judge = Judge()
    leg = await start_leg(verifier=judge)
    assert b"\r\n501 5.5.2 " in await leg.exchange(HELLO + login + b"\r\nQUIT\r\n")
    assert judge.logins == []


@pytest.mark.quirk("smtp-C11")
async def test_without_the_setting_there_is_no_auth(leg: Leg) -> None:
    replies = await leg.exchange(b"EHLO x\r\nAUTH LOGIN\r\nAUTH PLAIN AHUAcA==\r\nMAIL FROM:<a@b> AUTH=<>\r\nQUIT\r\n")
    assert b"AUTH" not in replies
    assert [line[:3] for line in replies.splitlines()[-4:]] == [b"502", b"502", b"250", b"221"]


RESPONSES = st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(b64))


@given(st.sampled_from(["", "PLAIN", "login", "LOGIN "]), st.text(st.characters(codec="ascii")), st.lists(RESPONSES))
def test_any_octets_are_a_login_or_a_reply(name: str, argument: str, lines: list[bytes]) -> None:
    responses = iter(lines)

    async def ask(challenge: str) -> bytes:
        assert challenge in ("", "VXNlcm5hbWU6", "UGFzc3dvcmQ6")
        return next(responses, b"*")

    outcome: object
    try:
        outcome = asyncio.run(authenticate(name + argument, ask)).user
    except Rejected as rejected:
        outcome = rejected.reply.code in (501, 504)
    assert outcome


@pytest.mark.parametrize(("proven", "told"), [(True, ["", "ann"]), (False, ["", ""])])
async def test_the_relay_is_told_only_who_proved_it(start_leg: StartLeg, proven: bool, told: list[str]) -> None:
    leg = await start_leg(verifier=Judge(), logins_proven=proven)
    mail = b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\nx\r\n.\r\n"
    wrong, right = (b"AUTH PLAIN " + b64(b"\x00ann\x00" + text) + b"\r\n" for text in (b"wrong-xyz", b"right"))
    replies = await leg.exchange(HELLO + wrong + mail + right + mail + b"QUIT\r\n")
    assert replies.count(b"535 5.7.8 ") == replies.count(b"235 2.7.0 ") == 1
    assert [delivered.client.login for delivered in leg.relay.delivered] == told
