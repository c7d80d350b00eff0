"""The arguments of MAIL and RCPT: repaired around the address, never in it."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_email_proxy.smtp.arguments import BadParameter, BadPath, parse

GOOD = [
    ("<a@b>", "a@b", {}),
    ("<>", "", {}),
    (" <a@b> ", "a@b", {}),
    ("<a@b> SIZE=10 body=8bitmime SMTPUTF8", "a@b", {"SIZE": "10", "BODY": "8bitmime", "SMTPUTF8": None}),
    # RAID controllers leave the brackets out, printers put blanks or a name in
    ("a@b", "a@b", {}),
    ("a@b SIZE=3", "a@b", {"SIZE": "3"}),
    ("a@b AUTH=<>", "a@b", {"AUTH": "<>"}),
    ("< a@b >", "a@b", {}),
    ("Scanner <a@b>", "a@b", {}),
    ("<<a@b>>", "a@b", {}),
    ("<< a@b >> SIZE=1", "a@b", {"SIZE": "1"}),
    ("<<>>", "", {}),
    ('"Scanner, 2nd floor" <a@b> SIZE=1', "a@b", {"SIZE": "1"}),
    ("<scanner>", "scanner", {}),
    # a name as the DNS writes it; anything else with a dot at its end is the backend's to judge
    ("<a@b.>", "a@b", {}),
    ("a@b.example. SIZE=1", "a@b.example", {"SIZE": "1"}),
    ("<a.>", "a.", {}),
    ("<a@.>", "a@.", {}),
    ("<a@b..>", "a@b..", {}),
    ('<"a@b."@c>', '"a@b."@c', {}),
    ("<a.@b>", "a.@b", {}),
    # odd but an address, octet for octet
    ('<"a b"@c>', '"a b"@c', {}),
    ('<"a>b"@c>', '"a>b"@c', {}),
    (r'<"a\"b"@c>', r'"a\"b"@c', {}),
    ("<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]", {}),
    ("<a+b=c/d@e_f>", "a+b=c/d@e_f", {}),
    ("<" + "a" * 65 + "@b>", "a" * 65 + "@b", {}),
    ("<a@b> AUTH=a+2Bb=c", "a@b", {"AUTH": "a+2Bb=c"}),
    ("<a@b> AUTH= SIZE=1", "a@b", {"AUTH": "", "SIZE": "1"}),
    # a source route, which RFC 5321 §4.1.1.3 has a server ignore
    ("<@a,@b:c@d>", "c@d", {}),
    ("<@a.example:c@d.> SIZE=1", "c@d", {"SIZE": "1"}),
    ("< @a:c@d >", "c@d", {}),
    ("Scanner <@a:c@d>", "c@d", {}),
    ('<@[IPv6:2001:db8::1],@b:"c:d"@e>', '"c:d"@e', {}),
    ("<@a:scanner>", "scanner", {}),
    # and what is none
    ("<a:b@c>", "a:b@c", {}),
    ("<@a>", "@a", {}),
    ("<@a:>", "@a:", {}),
    ("<@a@b:c@d>", "@a@b:c@d", {}),
    ("@a:c@d", "@a:c@d", {}),
]

BAD_PATHS = [
    "", "<", "<a@b", "a@b>", "a@b>c", "<a b@c>", "<a@b c>", "<a\rb@c>", "<a\x00@b>", "<a\x7f@b>", "<a@b\n>",
    "<a(c)@b>", "<a,b@c>", '<a"b@c>', "<<a@b>", "<<<a@b>>>", "<<a@b> >",
    '"unclosed <a@b', "a@b,c@d", "<@a,b:c@d>", "<@a,:c@d>",
]  # fmt: skip

BAD_PARAMETERS = [
    "a@b <c@d>",
    "<a@b>x",
    "<x@y> <z@w>",
    "<a@b> =",
    "<a@b> -X",
    "<a@b> SIZE=1 SIZE=2",
    "<a@b> X=\x80",
]


@pytest.mark.fault("A16")
@pytest.mark.quirk("smtp-C5")
@pytest.mark.parametrize(("argument", "path", "parameters"), GOOD)
def test_good(argument: str, path: str, parameters: dict[str, str | None]) -> None:
    assert parse(argument) == (path, parameters)


@pytest.mark.quirk("aiosmtpd-21")
@pytest.mark.fault("A17")
@pytest.mark.parametrize("argument", BAD_PATHS)
def test_bad_path(argument: str) -> None:
    with pytest.raises(BadPath):
        parse(argument)


@pytest.mark.parametrize("argument", BAD_PARAMETERS)
def test_bad_parameter(argument: str) -> None:
    with pytest.raises(BadParameter):
        parse(argument)


@pytest.mark.quirk("aiosmtpd-22")
@pytest.mark.fault("A16")
@given(st.text(st.characters(max_codepoint=0x7F)))
def test_never_rewritten(address: str) -> None:
    try:
        path, _ = parse(f"<{address}>")
    except (BadPath, BadParameter):
        return
    if address.startswith("<"):
        address = address.removeprefix("<").removesuffix(">")
    address = address.strip(" ")
    if address.startswith("@") and address.endswith(path):
        assert path == address or address.removesuffix(path).endswith(":")
        return
    assert path == address or (path == address[:-1] and address.endswith(".") and "@" in path)


@pytest.mark.quirk("aiosmtpd-23")
@given(st.text())
def test_never_another_exception(argument: str) -> None:
    with contextlib.suppress(BadPath, BadParameter):
        path, _ = parse(argument)
        # What passes is one word of a command: it can neither end it nor begin another.
        assert not re.search(r"[\x00-\x1f\x7f]", path)
