"""One address for all mail: what becomes of From, Sender, Reply-To and the reverse-path."""

from __future__ import annotations

import time
from email import message_from_bytes
from email.policy import default
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_email_proxy.contracts import Client, Envelope, Header, SettingsMistake
from legacy_email_proxy.testing import context_for
from legacy_email_proxy_plugins.filters.mailboxes import mailboxes
from legacy_email_proxy_plugins.filters.sender import SenderFilter, rewrite_header

ACCOUNT = "acc@p.example"
CLIENT = Client("192.168.1.7", "s12", "scanner")

# From as the device wrote it → From as it goes on, and the addresses that stood in it.
FROM = {
    b"a@x": (b'"a@x" <acc@p.example>', "a@x"),
    b"<a@x>": (b'"a@x" <acc@p.example>', "a@x"),
    b"Scanner <a@x>": (b"Scanner <acc@p.example>", "a@x"),
    b"Dr. Who <a@x>": (b"Dr. Who <acc@p.example>", "a@x"),
    b"Scanner\r\n <a@x>": (b"Scanner <acc@p.example>", "a@x"),
    b"=?utf-8?q?B=C3=BCro?=\r\n\t=?utf-8?q?_3?=\r\n <a@x>": (
        b"=?utf-8?q?B=C3=BCro?= =?utf-8?q?_3?= <acc@p.example>", "a@x"),
    # What is in brackets is an address, whatever stands around it.
    b"=?a?b?<evil@x>?= <a@x>": (b'"=?a?b??= <a@x>" <acc@p.example>', "evil@x"),
    b"=?<evil@x>?b?YQ==?= <a@x>": (b'"=??b?YQ==?= <a@x>" <acc@p.example>', "evil@x"),
    b"=?a?b?<evil@x>?= <acc@p.example>": (b'"=?a?b??= <acc@p.example>" <acc@p.example>', "evil@x"),
    b"=?a?b?evil@x?= <a@x>": (b'"=?a?b?evil@x?=" <acc@p.example>', "a@x"),
    b"=?utf-8?Q?Meier,_Hans?= <a@x>": (b"=?utf-8?Q?Meier,_Hans?= <acc@p.example>", "a@x"),
    b'"Meier, Hans" <a@x>': (b'"Meier, Hans" <acc@p.example>', "a@x"),
    b"Meier, Hans <a@x>": (b'"Meier, Hans" <acc@p.example>', "a@x"),
    b'"a \\" b" <a@x>': (b'"a \\" b" <acc@p.example>', "a@x"),
    b"a@x <a@x>": (b'"a@x" <acc@p.example>', "a@x"),
    b"a@x (Scanner)": (b"Scanner <acc@p.example>", "a@x"),
    b"a@x (Scanner (3rd) floor)": (b'"Scanner (3rd) floor" <acc@p.example>', "a@x"),
    b"a@x (=?utf-8?q?B=C3=BC?=)": (b"=?utf-8?q?B=C3=BC?= <acc@p.example>", "a@x"),
    b"Scanner <a@x> (old)": (b"Scanner <acc@p.example>", "a@x"),
    b"B\xfcro <a@x>": (b"B\xfcro <acc@p.example>", "a@x"),
    "Büro <a@x>".encode(): ("Büro <acc@p.example>".encode(), "a@x"),
    b"A <a@x>, B <b@x>": (b"A <acc@p.example>", "a@x, b@x"),
    b"a@x, b@x": (b'"a@x" <acc@p.example>', "a@x, b@x"),
    b"Staff: a@x, B <b@x>;": (b'"a@x" <acc@p.example>', "a@x, b@x"),
    b"Scanner: 3rd <a@x>": (b"3rd <acc@p.example>", "a@x"),
    b"<@r1,@r2:a@x>": (b'"a@x" <acc@p.example>', "a@x"),
    b"a @ x": (b'"a@x" <acc@p.example>', "a@x"),
    b'"A" B <a@x>': (b"\"'A' B\" <acc@p.example>", "a@x"),
    b'"open <a@x>': (b"\"'open<a@x>\" <acc@p.example>", ""),
    b'"\\" <a@x>': (b"\"'\\\\'<a@x>\" <acc@p.example>", ""),
    b"a\0b <a@x>": (b"a b <acc@p.example>", "a@x"),
    # No address at all.
    b"Scanner": (b"Scanner <acc@p.example>", ""),
    b"": (b'"dev@y" <acc@p.example>', "dev@y"),
    b"<>": (b'"dev@y" <acc@p.example>', "dev@y"),
    b"undisclosed-recipients:;": (b'"dev@y" <acc@p.example>', "dev@y"),
    # An address that nobody could answer is no Reply-To.
    b"Scanner <scanner>": (b"Scanner <acc@p.example>", ""),
    b"a@[10.0.0.7]": (b'"a@[10.0.0.7]" <acc@p.example>', ""),
    # Right already.
    b"acc@p.example": (b"acc@p.example", ""),
    b"Scanner\r\n <ACC@P.example>": (b"Scanner\r\n <ACC@P.example>", ""),
}  # fmt: skip


def rewritten(block: bytes, *, reply_to: bool = False, given: str = "dev@y") -> bytes:
    header = Header(block)
    rewrite_header(header, ACCOUNT, given, reply_to=reply_to)
    return header.octets


@pytest.mark.parametrize("value", FROM)
def test_from(value: bytes) -> None:
    written, replies = FROM[value]
    block = b"Subject: s\r\nfrom: " + value + b"\r\nTo: t\r\n"
    after = rewritten(block, reply_to=True).removeprefix(b"Subject: s\r\n")
    line, _, rest = after.partition(b"\r\nTo: t\r\n")
    assert line.partition(b": ")[2] == written
    assert rest == (f"Reply-To: {replies}\r\n".encode() if replies else b"")
    assert b"Reply-To" not in rewritten(block)
    # Done twice, it is the same.
    assert rewritten(rewritten(block)) == rewritten(block)


@pytest.mark.parametrize("value", FROM)
def test_a_reader_sees_one_author(value: bytes) -> None:
    line = rewritten(b"From: " + value + b"\r\n")
    authors = message_from_bytes(line + b"\r\n", policy=default)["From"].addresses
    assert [author.addr_spec.lower() for author in authors] == [ACCOUNT]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"Subject: s\r\n", b'Subject: s\r\nFrom: "dev@y" <acc@p.example>\r\n'),
        (b"", b'From: "dev@y" <acc@p.example>\r\n'),
        (b"From: a@x\r\nFrom: b@x\r\n", b'From: "a@x" <acc@p.example>\r\n'),
        (b"From: acc@p.example\r\nFrom: b@x\r\n", b"From: acc@p.example\r\n"),
        (b"From: acc@p.example\r\nSender: b@x\r\n", b"From: acc@p.example\r\n"),
        (b"From: acc@p.example\r\nSender:<acc@p.example>\r\n", b"From: acc@p.example\r\nSender:<acc@p.example>\r\n"),
        (b"Sender: b@x\r\nFrom: A <a@x>\r\nX-From: a@x\r\n", b"From: A <acc@p.example>\r\nX-From: a@x\r\n"),
        (b"From: A <a@x>\r\nReply-To:\r\n r@x\r\n", b"From: A <acc@p.example>\r\nReply-To:\r\n r@x\r\n"),
    ],
)  # fmt: skip
def test_the_fields_around_it(before: bytes, after: bytes) -> None:
    assert rewritten(before) == after


def test_without_any_address() -> None:
    assert rewritten(b"Subject: s\r\n", given="") == b"Subject: s\r\nFrom: acc@p.example\r\n"


@given(st.text(alphabet='a@<>"(),:;=? \\[]\r\n\0ü\udcff.', max_size=40))
def test_any_value_ends_well(value: str) -> None:
    block = b"From: " + value.replace("\n", "\n ").encode("utf-8", "surrogateescape") + b"\r\nX: 1\r\n"
    after = rewritten(block, reply_to=True)
    assert after.count(b"X: 1\r\n") == 1
    assert all(one.address.lower() == ACCOUNT for one in mailboxes(Header(after).get("From") or ""))
    assert rewritten(after, reply_to=True) == after


@pytest.mark.parametrize("piece", ["(", '"', "<", "a,", "=?", "a@x,", ":", "[", "\\", "=?a?b?", "(a", '"\\'])
def test_a_long_value_is_no_burden(piece: str) -> None:
    began = time.process_time()
    rewritten(b"From: " + piece.encode() * (200_000 // len(piece)) + b"\r\n", reply_to=True)
    # Quadratic, this takes minutes.
    assert time.process_time() - began < 10


# The filter.


def sender(folder: Path, **variables: str) -> SenderFilter:
    return SenderFilter(context_for(SenderFilter, folder, **({"SMTP_SENDER": ACCOUNT} | variables)))


@pytest.mark.parametrize(
    ("rewrite", "envelope", "header"), [("both", True, True), ("envelope", True, False), ("header", False, True)]
)
async def test_how_much(tmp_path: Path, rewrite: str, envelope: bool, header: bool) -> None:
    one = sender(tmp_path, SMTP_SENDER_REWRITE=rewrite)
    assert await one.reverse_path(Envelope(CLIENT, "a@x", "a@x")) == (ACCOUNT if envelope else "a@x")
    block = Header(b"From: a@x\r\n")
    await one.header(Envelope(CLIENT, "a@x", ACCOUNT), block)
    assert (block.octets == b"From: a@x\r\n") is not header
    (finding,) = await one.probe()
    assert ACCOUNT in finding.text
    assert rewrite == "both" or f"({rewrite})" in finding.text


async def test_the_null_reverse_path_stays(tmp_path: Path) -> None:
    assert await sender(tmp_path).reverse_path(Envelope(CLIENT, "", "")) == ""


async def test_replies_go_to_the_device_where_that_is_asked_for(tmp_path: Path) -> None:
    block = Header(b"From: a@x\r\n")
    await sender(tmp_path, SMTP_SENDER_REPLY_TO="true").header(Envelope(CLIENT, "a@x", ACCOUNT), block)
    assert block.octets == b'From: "a@x" <acc@p.example>\r\nReply-To: a@x\r\n'


@pytest.mark.parametrize("address", ["", "scanner", "A <a@x>", "a@x, b@x", "a b@x", "ä@x", "a@x\r\nBcc: y"])
def test_an_address_that_is_none(tmp_path: Path, address: str) -> None:
    with pytest.raises(SettingsMistake, match="SMTP_SENDER: "):
        sender(tmp_path, SMTP_SENDER=address)
