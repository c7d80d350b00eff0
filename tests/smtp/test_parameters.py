"""What EHLO offers, and what becomes of the parameters of MAIL and RCPT."""

from __future__ import annotations

import pytest

from announced import KEYWORDS
from smtp.conftest import Leg

ALWAYS = [*KEYWORDS]


async def replies(leg: Leg, octets: bytes) -> list[bytes]:
    return [line[:9] for line in (await leg.exchange(b"HELO x\r\n" + octets)).splitlines()[2:]]


@pytest.mark.parametrize(
    ("smtputf8", "dsn", "max_octets", "announced"),
    [
        (False, False, None, [*ALWAYS, "HELP"]),
        (True, False, 0, [*ALWAYS, "SMTPUTF8", "HELP"]),
        (False, True, 1 << 30, [*ALWAYS, "DSN", "HELP"]),
        (True, True, 70_000, ["PIPELINING", "SIZE 70000", *ALWAYS[2:], "SMTPUTF8", "DSN", "HELP"]),
    ],
)
async def test_ehlo(leg: Leg, smtputf8: bool, dsn: bool, max_octets: int | None, announced: list[str]) -> None:
    leg.relay.smtputf8, leg.relay.dsn, leg.relay.max_octets = smtputf8, dsn, max_octets
    lines = (await leg.exchange(b"EHLO x\r\n")).decode().splitlines()[1:]
    assert [line[:4] for line in lines] == [*["250-"] * (len(lines) - 1), "250 "]
    assert [line[4:] for line in lines[1:]] == announced


DSN_MAIL = b"MAIL FROM:<a@example.com> ret=hdrs ENVID=QQ+3D3141aB AUTH=<>\r\n"
DSN_RCPT = b"RCPT TO:<b@example.com> notify=success,Failure ORCPT=rfc822;B+2Bx@example.com\r\n"


@pytest.mark.parametrize("dsn", [True, False])
async def test_dsn_is_passed_on_also_where_it_was_not_offered(leg: Leg, dsn: bool) -> None:
    leg.relay.dsn = dsn
    await replies(leg, DSN_MAIL + DSN_RCPT + b"DATA\r\n.\r\n")
    (message,) = leg.relay.delivered
    assert message.parameters == {"RET": "HDRS", "ENVID": "QQ+3D3141aB"}
    (parameters,) = message.recipient_parameters
    assert parameters == {"NOTIFY": "SUCCESS,FAILURE", "ORCPT": "rfc822;B+2Bx@example.com"}


@pytest.mark.fault("A18")
@pytest.mark.parametrize(
    ("parameters", "reply"),
    [
        (b"SIZE=100 BODY=8bitmime", b"250 2.1.0"),
        (b"AUTH=fred+40example.com", b"250 2.1.0"),
        (b"RET=FULL ENVID=1", b"250 2.1.0"),
        (b"RET=SOME", b"501 5.5.4"),
        (b"RET", b"501 5.5.4"),
        (b"ENVID=a+3d", b"250 2.1.0"),
        (b"ENVID=a+3", b"501 5.5.4"),
        (b"ENVID=", b"501 5.5.4"),
        (b"AUTH=", b"250 2.1.0"),
        (b"AUTH= SIZE=1", b"250 2.1.0"),
        (b"SIZE=", b"501 5.5.4"),
        (b"BODY=", b"501 5.5.4"),
        (b"SMTPUTF8=", b"501 5.5.4"),
        (b"ENVID=a+", b"501 5.5.4"),
        (b"ENVID=" + b"x" * 100, b"250 2.1.0"),
        (b"ENVID=" + b"x" * 101, b"501 5.5.4"),
        (b"RET=FULL RET=FULL", b"501 5.5.4"),
        (b"NOTIFY=NEVER", b"555 5.5.4"),
        (b"BODY=BINARYMIME", b"501 5.5.4"),
        (b"BODY", b"501 5.5.4"),
        (b"SIZE", b"501 5.5.4"),
        (b"SIZE=99999999999999999999", b"552 5.3.4"),
        (b"SMTPUTF8", b"550 5.6.7"),
        (b"SMTPUTF8=yes", b"501 5.5.4"),
    ],
)
async def test_parameters_of_mail(leg: Leg, parameters: bytes, reply: bytes) -> None:
    assert await replies(leg, b"MAIL FROM:<a@example.com> " + parameters + b"\r\n") == [reply]


@pytest.mark.fault("A18")
@pytest.mark.parametrize(
    ("parameters", "reply"),
    [
        (b"NOTIFY=NEVER", b"250 2.1.5"),
        (b"NOTIFY=DELAY,SUCCESS", b"250 2.1.5"),
        (b"NOTIFY=NEVER,SUCCESS", b"501 5.5.4"),
        (b"NOTIFY=", b"501 5.5.4"),
        (b"ORCPT=a@example.com", b"501 5.5.4"),
        (b"ORCPT=rfc822;" + b"x" * 493, b"250 2.1.5"),
        (b"ORCPT=rfc822;" + b"x" * 494, b"501 5.5.4"),
        (b"RET=FULL", b"555 5.5.4"),
        (b"AUTH=<>", b"555 5.5.4"),
    ],
)
async def test_parameters_of_rcpt(leg: Leg, parameters: bytes, reply: bytes) -> None:
    found = await replies(leg, b"MAIL FROM:<>\r\nRCPT TO:<a@example.com> " + parameters + b"\r\n")
    assert found[1:] == [reply]


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("rfc822;a+2bb@c", "rfc822;a+2Bb@c"),
        ("rfc822;a=b@c", "rfc822;a+3Db@c"),
        ("rfc822;a+3db+2B@c", "rfc822;a+3Db+2B@c"),
        ("RFC822;", "RFC822;"),
    ],
)
async def test_wishes_of_sloppy_clients_are_handed_on_as_a_strict_backend_wants_them(
    leg: Leg, given: str, made: str
) -> None:
    """A message must not fail for a wish; and with these, which Postfix takes, it is clear what is meant."""
    mail = f"MAIL FROM:<a@x> ENVID={given}\r\nRCPT TO:<b@x> ORCPT={given}\r\nDATA\r\nx\r\n.\r\n"
    await replies(leg, mail.encode())
    (message,) = leg.relay.delivered
    assert (message.parameters, message.recipient_parameters) == ({"ENVID": made}, [{"ORCPT": made}])


async def test_a_tab_behind_a_verb(leg: Leg) -> None:
    octets = b"MAIL\tFROM:<a@x>\r\nRCPT\tTO:<b@x>\r\nRCPT TO:<c@x>\tNOTIFY=NEVER\r\n"
    octets += b"BDAT\t2\r\nx\nBDAT 0\tLAST\r\nNOOP\tx\r\n"
    replies = (await leg.exchange(b"EHLO\tx\xff\r\n" + octets + b"RSET\t\r\nQUIT\t\r\n")).splitlines()
    assert [line[:3] for line in replies if line[3:4] == b" "] == [b"220", *[b"250"] * 8, b"221"]
    (message,) = leg.relay.delivered
    assert message.forward_paths == ["b@x", "c@x"]
    assert message.client.helo == "x"


@pytest.mark.fault("A16")
async def test_addresses_beyond_ascii(leg: Leg) -> None:
    leg.relay.smtputf8 = True
    mail, rcpt = ('MAIL FROM:<"jö"@exämple.com>'.encode(), "RCPT TO:<büro@exämple.com>\r\n".encode())
    assert await replies(leg, mail + b"\r\n") == [b"553 5.6.7"]
    plain = b"RCPT TO:<b@example.com>\r\n"
    found = await replies(leg, b"MAIL FROM:<a@example.com>\r\n" + plain + rcpt + plain + b"DATA\r\n.\r\n")
    assert found[1:] == [b"250 2.1.5", b"553 5.6.7", b"250 2.1.5", b"354 End d", b"250 2.0.0"]
    await replies(leg, mail + b" SMTPUTF8 BODY=8BITMIME\r\n" + rcpt + b"DATA\r\n.\r\n")
    message = leg.relay.delivered[-1]
    assert message.parameters == {"SMTPUTF8": None, "BODY": "8BITMIME"}
    assert (message.reverse_path, message.forward_paths) == ('"jö"@exämple.com', ["büro@exämple.com"])


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("MAIL FROM:<a\x85b@example.com> SMTPUTF8", b"501 5.5.4"),
        ("MAIL FROM:<ö@example.com> ENVID=ö SMTPUTF8", b"501 5.5.4"),
        ("MÄIL FROM:<a@example.com>", b"500 5.5.1"),
    ],
)
async def test_what_is_not_ascii_elsewhere(leg: Leg, line: str, reply: bytes) -> None:
    leg.relay.smtputf8 = True
    assert await replies(leg, line.encode() + b"\r\nMAIL FROM:<\xff@example.com> SMTPUTF8\r\n") == [reply, b"500 5.5.2"]


async def test_8_bit_content_passes_unchanged(leg: Leg) -> None:
    octets = bytes(range(256)).replace(b"\r", b"").replace(b"\n", b"") + b"\r\n"
    await replies(leg, b"MAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nDATA\r\n" + octets + b".\r\n")
    assert leg.relay.delivered[0].content == octets
