"""AUTH: what a response may be, how long, and that none of it is ever read as a command or told to anybody."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_email_proxy import sasl
from legacy_email_proxy.contracts import Login, LoginRefused, Secret
from legacy_email_proxy.pop3.requests import Open, Verdict
from legacy_email_proxy.pop3.session import Session
from legacy_email_proxy.pop3.wire import MAX_LINE_OCTETS
from legacy_email_proxy.sasl import Malformed, Mechanism
from pop3.conftest import StartLeg
from pop3.maildrops import MemoryMaildrop, Play

CLEAN = st.binary(min_size=1, max_size=100).map(lambda octets: bytes(o for o in octets if o >= 32 and o != 127))


def b64(octets: bytes) -> bytes:
    return base64.b64encode(octets)


@given(CLEAN.filter(bool), CLEAN, st.booleans())
def test_credentials_reach_the_backend_octet_for_octet(user: bytes, password: bytes, acting: bool) -> None:
    plain = sasl.begin(Mechanism.PLAIN).respond(b"\x00".join([user if acting else b"", user, password]))
    login = sasl.begin(Mechanism.LOGIN)
    assert login.respond(user) is None
    for credentials in (plain, login.respond(password)):
        assert credentials is not None
        assert credentials.user.encode("utf-8", "surrogateescape") == user
        assert credentials.password.reveal().encode("utf-8", "surrogateescape") == password


@given(st.sampled_from(Mechanism), st.lists(st.binary(max_size=40), min_size=1, max_size=3))
def test_any_response_is_credentials_or_a_mistake(mechanism: Mechanism, responses: list[bytes]) -> None:
    exchange = sasl.begin(mechanism)
    for response in responses:
        try:
            credentials = exchange.respond(response)
        except Malformed:
            return
        if credentials is not None:
            text = credentials.user + credentials.password.reveal()
            assert not any(ord(c) < 32 or ord(c) == 127 for c in text)
            return


NOT_BASE64 = [b"x", b"=", b"ab=c", b"YWI=YWI=", b"YW I=", b"YWI=a", b"\xff\xff\xff\xff", b"YWI=\r", b"*x"]


@pytest.mark.parametrize("line", NOT_BASE64)
def test_what_is_not_base64(line: bytes) -> None:
    with pytest.raises(Malformed, match="not base64"):
        sasl.decode(line)


def test_a_response_may_be_longer_than_a_command() -> None:
    password = b"t" * 9000
    play = Play(MemoryMaildrop())
    play.greet()
    response = b64(b"\x00user\x00" + password)
    assert MAX_LINE_OCTETS < len(response) + 2 <= sasl.MAX_RESPONSE_OCTETS
    play.feed(b"AUTH PLAIN\r\n" + response + b"\r\n")
    assert play.opens == [Open("user", Secret(password.decode()))]


@pytest.mark.fault("C28")
def test_an_endless_response_is_one_mistake_and_bounded() -> None:
    play = Play(MemoryMaildrop())

    def bounded(session: Session) -> None:
        assert session._reader.held() < sasl.MAX_RESPONSE_OCTETS

    play.on_wait = bounded
    play.greet()
    play.feed(b"AUTH PLAIN\r\n")
    for _ in range(100):
        play.feed(b"QUFB" * 500)
    assert bytes(play.out).endswith(b"+ \r\n-ERR line too long\r\n")
    # The rest of that line is no command, what follows it is.
    assert play.feed(b"QUIT\r\nQUIT\r\n") == b"+OK goodbye\r\n"


def test_a_stream_that_ends_in_an_exchange() -> None:
    play = Play(MemoryMaildrop())
    play.greet()
    play.feed(b"AUTH LOGIN\r\nUVVJVA==")
    play.feed(b"")
    assert play.verdict is Verdict.DROPPED
    assert play.opens == []


@pytest.mark.parametrize("command", [b"QUIT", b"CAPA", b"USER u", b"STLS", b"AUTH"])
def test_a_command_in_an_exchange_is_no_command(command: bytes) -> None:
    play = Play(MemoryMaildrop())
    play.greet()
    # Some of them happen to be base64, and then are user names.
    assert play.feed(b"AUTH LOGIN\r\n" + command + b"\r\n").splitlines()[1].startswith((b"-ERR ", b"+ UGFzc3dvcmQ6"))
    assert play.closed is None


@pytest.mark.fault("C30")
def test_three_failed_logins_close_however_they_were_tried() -> None:
    maildrop = MemoryMaildrop(fail_open=[LoginRefused("x")] * 4)
    play = Play(maildrop)
    play.greet()
    play.feed(b"AUTH PLAIN " + b64(b"\x00u\x00p") + b"\r\nUSER u\r\nPASS p\r\nAUTH LOGIN\r\n" + b64(b"u") + b"\r\n")
    play.feed(b64(b"p") + b"\r\n")
    assert len(maildrop.fail_open) == 1
    assert play.verdict is Verdict.REFUSED


@pytest.mark.parametrize("ask_backend", [True, False])
async def test_who_judges(start_leg: StartLeg, *, ask_backend: bool) -> None:
    leg = await start_leg(ask_backend=ask_backend)
    out = await leg.exchange(b"AUTH PLAIN " + b64(b"\x00me\x00my pass ") + b"\r\nQUIT\r\n")
    assert out.count(b"+OK") == 3
    assert leg.maildrop.logins == [Login("me", Secret("my pass ")) if ask_backend else None]


@pytest.mark.fault("C31")
async def test_no_secret_in_the_log(start_leg: StartLeg, caplog: pytest.LogCaptureFixture) -> None:
    maildrop = MemoryMaildrop(fail_open=[LoginRefused("no"), ValueError("bug")])
    leg = await start_leg(maildrop, ask_backend=True)
    secret = b64(b"\x00scanner\x00hunter2-xyz")
    await leg.exchange(
        b"AUTH PLAIN " + secret + b"\r\nAUTH LOGIN\r\n" + b64(b"scanner") + b"\r\n" + b64(b"hunter2-xyz") + b"\r\n"
    )
    await leg.ended()
    text = caplog.text + "".join(repr(vars(record)) for record in caplog.records)
    assert "pop3 login failed" in text
    assert "Traceback" in text
    for hidden in (b"hunter2-xyz", b64(b"hunter2-xyz"), secret):
        assert hidden.decode() not in text
