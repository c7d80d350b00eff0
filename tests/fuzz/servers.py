"""What backends send: replies, responses, challenges, answers of an authorization server."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Collection

from fuzz.target import Target, cut
from imap.test_responses import fetched
from legacy_email_proxy.contracts import BearerToken, Failure, Secret
from legacy_email_proxy.replies import pop3_error, smtp_reply
from legacy_email_proxy_plugins import sasl
from legacy_email_proxy_plugins.imap.imapclient_adapter import IMAP4
from legacy_email_proxy_plugins.imap.listing import Listing
from legacy_email_proxy_plugins.imap.response_codes import is_busy, response_code
from legacy_email_proxy_plugins.imap.responses import Batch, Body, Fetched, code_in, mailbox_in
from legacy_email_proxy_plugins.oauth2.configuration import Configuration
from legacy_email_proxy_plugins.oauth2.grants import Grants
from legacy_email_proxy_plugins.oauth2.http import Answer, _parsed
from legacy_email_proxy_plugins.redaction import without_secrets
from legacy_email_proxy_plugins.smtps.protocol import Extensions, Malformed, Reply, ReplyReader, redacted
from legacy_email_proxy_plugins.smtps.verdicts import verdict

__all__ = ("TARGETS",)

_OWED = 5


def smtps_replies(octets: bytes, cuts: Collection[int]) -> None:
    def read(pieces: list[bytes]) -> object:
        reader, replies = ReplyReader(), list[Reply]()
        reader.ask(_OWED)
        try:
            for piece in pieces:
                reader.feed(piece)
                while reader.owed and (reply := reader.next()) is not None:
                    replies.append(reply)
        except Malformed:
            return replies, "malformed"
        return replies, reader.part, reader.unasked

    whole = read([octets])
    parts = read(cut(octets, cuts))
    # Where a piece holds a reply and behind it what is none, none of its replies is used.
    if "malformed" not in whole:  # type: ignore[operator]
        assert parts == whole
    for reply in parts[0]:  # type: ignore[index]
        _used(reply)


def _used(reply: Reply) -> None:
    assert 200 <= reply.code <= 599
    offered = Extensions.parse(reply)
    assert offered.max_octets is None or offered.max_octets > 0
    assert all(word == word.upper() for word in offered.mechanisms)
    assert "\n" not in redacted(reply.whole, ["secret"])
    if reply.negative:
        for named in (False, True):
            refused = verdict(reply.code, reply.enhanced, reply.text, str(reply), named=named)
            line = str(smtp_reply(refused))
            assert line.isascii()
            assert line.isprintable()
            assert line[0] in "45"


def imap_responses(octets: bytes, cuts: Collection[int]) -> None:
    pieces: list[bytes] = []
    body, listing, batch, rows = Body(7, "BODY[]", pieces.append), Listing(), Batch([7], "BODY[]", 500), Fetched()
    again = Body(7, "BODY[]", pieces.append), Listing(), Batch([7], "BODY[]", 500), Fetched()
    for one, other in zip((body, listing, batch, rows), again, strict=True):
        outcomes = []
        for into, places in ((one, ()), (other, [place % (len(octets) + 20) for place in cuts])):
            pieces.clear()
            outcomes.append(_outcome(into, octets, places, pieces))
        assert outcomes[0] == outcomes[1]
    for line in octets.split(b"\n"):
        code_in(line)
        mailbox_in((line,))
        response_code(line.decode("latin-1"))
        is_busy(line.decode("latin-1"))


def _outcome(into: Fetched, octets: bytes, cuts: Collection[int], pieces: list[bytes]) -> object:
    try:
        imap = fetched(into, octets, cuts)
        if isinstance(into, Body):
            into.finish(imap.completion[1])
            return b"".join(pieces)
        if isinstance(into, Listing):
            return dict(into.sizes())
        return into.messages if isinstance(into, Batch) else into.rows
    except (Failure, ValueError, IMAP4.error) as error:
        return type(error)


_TOKEN = BearerToken("t0ken")


def challenges(octets: bytes, cuts: Collection[int]) -> None:
    for name in ("PLAIN", "LOGIN", *sasl.BEARER_MECHANISMS, *sasl.SCRAM_MECHANISMS):
        exchange = _exchange(name)
        first = exchange.answer(b"")
        assert first is not None
        # A server that is to be understood repeats our nonce.
        nonce = first.rpartition(b"r=")[2]
        for line in octets.replace(b"NONCE", nonce).split(b"\n"):
            if exchange.answer(sasl.decoded(line)) is None:
                break
        assert exchange.proven is (name not in sasl.SCRAM_MECHANISMS)
        assert "p4ss" not in without_secrets(exchange.said + exchange.fault, exchange.secrets)


def _exchange(name: str) -> sasl.Mechanism:
    if name in sasl.BEARER_MECHANISMS:
        return sasl.Bearer(name, "user", _TOKEN, "host", 1)
    if name in sasl.SCRAM_MECHANISMS:
        return sasl.Scram(name, "user", "p4ss")
    return sasl.plain("user", "p4ss") if name == "PLAIN" else sasl.login("user", "p4ss")


_CONFIGURATION = Configuration(
    *(
        "",
        "refresh_token",
        "client",
        Secret("s3cret-of-client"),
        "form",
        None,
        "mail",
        "https://x/token",
        "https://x/device",
    ),
    *("https://x/authorize", {}, "", "", Secret("r3fresh-t0ken")),
)


class _Endpoints:
    """In place of the provider: answers with what is being tried."""

    def __init__(self, status: int, octets: bytes) -> None:
        self._answer = Answer(status, _parsed(octets), "host")

    async def post(self, *_: object, **__: object) -> Answer:
        return self._answer


async def _asked(status: int, octets: bytes) -> None:
    grants = Grants(_CONFIGURATION, _Endpoints(status, octets))  # type: ignore[arg-type]
    try:
        granted = await grants.refreshed(Secret("r3fresh-t0ken"))
    except Failure as failure:
        _is_told(failure, "r3fresh-t0ken")
    else:
        assert 0 < granted.seconds <= 86400 * 30
        assert granted.access_token.reveal().isascii()
        assert granted.scope.isprintable()
    try:
        code = await grants.device_code()
    except Failure as failure:
        _is_told(failure)
    else:
        assert 0 < code.interval <= 60
        assert (code.user_code + code.verification_url).isprintable()


def _is_told(failure: Failure, secret: str = "s3cret-of-client") -> None:
    assert secret not in str(failure)
    assert str(failure).isprintable()
    assert pop3_error(failure).startswith("-ERR")


def oauth2_answers(octets: bytes, cuts: Collection[int]) -> None:
    for status in (200, 400, 500):
        asyncio.run(_asked(status, octets))
    sasl.explained(octets)


_B64 = tuple(
    base64.b64encode(text)
    for text in (
        b"r=NONCEx,s=c2FsdA==,i=4096",
        b"v=AAAA",
        b"e=unknown-user",
        b'{"status":"401"}',
        b"r=x,s=y,i=1",
        b"Username:",
    )
)
TARGETS = {
    "smtps_replies": Target(
        smtps_replies,
        (
            *(
                b"250 ",
                b"250-",
                b"250\r\n",
                b"354 go\r\n",
                b"421 4.7.0 bye\r\n",
                b"550 5.1.1 no\r\n",
                b"550-5.1.1 a\r\n",
            ),
            *(
                b"SIZE 10\r\n",
                b"AUTH=LOGIN PLAIN\r\n",
                b"AUTH XOAUTH2\r\n",
                b"5.7.1 daily limit exceeded",
                b"452 4.5.3 x\r\n",
            ),
            *(
                b"\r\n",
                b"\n",
                b"\r",
                b"4.3.2",
                b"secret",
                b"\xff",
                b"\0",
                b"x" * 8200,
                b"99",
                b"1",
                b" ",
                b"503 auth first\r\n",
            ),
        ),
    ),
    "imap_responses": Target(
        imap_responses,
        (
            *(
                b"* 1 FETCH (UID 7 BODY[] {3}\r\nabc)\r\n",
                b"* 1 FETCH (BODY[] {3}\r\nabc UID 7)\r\n",
                b"* 1 FETCH (",
                b"UID 7",
            ),
            *(
                b"* 1 FETCH (UID 7 RFC822.SIZE 5)\r\n",
                b" BODY[]",
                b" {3}\r\n",
                b"~{2}\r\n",
                b'"',
                b"\\",
                b")\r\n",
                b"NIL",
                b"(",
            ),
            *(
                b"* OK [UIDVALIDITY 7] x\r\n",
                b"* BYE x\r\n",
                b"+ go\r\n",
                b"* 4 EXISTS\r\n",
                b'* LIST () "/" a\r\n',
                b"* ",
                b"]",
            ),
            *(
                b"* LIST () NIL {1}\r\na\r\n",
                b"\r\n",
                b"\n",
                b"\r",
                b"{4294967296}\r\n",
                b"{9999999999999999999}\r\n",
                b"<0>",
            ),
            *(
                b"[",
                b"RFC822.SIZE ",
                b"FLAGS (\\Seen)",
                b"9" * 30,
                b"\0",
                b"\xff",
                b"A1 OK\r\n",
                b"* 7 EXPUNGE\r\n",
                b"[COPYUID 1 2 3]\r\n",
            ),
        ),
    ),
    "challenges": Target(
        challenges,
        (
            *(
                b"\n",
                b"r=NONCE",
                b"r=NONCEx,s=c2FsdA==,i=4096\n",
                b",s=c2FsdA==",
                b",i=1",
                b",i=0",
                b",i=-1",
                b",i=x",
                b",s=%",
            ),
            *(b"v=", b"v=AAAA\n", b"e=", b",", b"=", b"m=x,", b'{"status":"401","scope":1}\n', b"\xff", b"\0", *_B64),
        ),
    ),
    "oauth2_answers": Target(
        oauth2_answers,
        (
            *(
                b"{",
                b"}",
                b'"access_token":"abc"',
                b",",
                b'"expires_in":',
                b"1e999",
                b"NaN",
                b"-1",
                b'"3600"',
                b"null",
                b"[",
                b"]",
            ),
            *(
                b'"refresh_token":"r3fresh-t0ken"',
                b'"scope":"a"',
                b'"error":"invalid_grant"',
                b'"error":',
                b'"error_description":',
            ),
            *(
                b'"token_type":"Bearer"',
                b'"device_code":"d"',
                b'"user_code":"u"',
                b'"verification_uri":"https://x"',
                b"9" * 400,
            ),
            *(
                b'"interval":',
                b'"\\ud800"',
                b'"\\r\\n"',
                b'"s3cret-of-client"',
                b'"error":"temporarily_unavailable"',
                b"\xff",
                b"true",
                b" ",
            ),
        ),
    ),
}
