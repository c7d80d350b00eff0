"""Whatever a device sends, it is sent on: no header and no MIME makes the relay raise, and the envelope stays exact."""

from __future__ import annotations

import io
from email import message_from_bytes

from hypothesis import example, given
from hypothesis import strategies as st

from fakes.graph.mailbox import recipients_of
from legacy_email_proxy.contracts import Header
from legacy_email_proxy_plugins.graph.draft import _described, _main_text, _properties
from legacy_email_proxy_plugins.graph.mime import decode, parts
from legacy_email_proxy_plugins.graph.recipients import address_header, same_address

ADDRESSES = st.sampled_from(["a@x.example", "B@x.example", "c@y.example", "d.e@x.example"])
NAMES = st.sampled_from(["", "Anna", '"A, b"', "=?utf-8?q?=C3=84?=", "Ä", '"x@y"', "(c)"])
SEPARATORS = st.sampled_from([", ", ",", " , ", ";", ",\r\n ", ": "])
FIELDS = st.lists(
    st.tuples(st.sampled_from(["To", "Cc", "Bcc", "to", "CC"]), st.lists(st.tuples(NAMES, ADDRESSES, SEPARATORS))),
    max_size=4,
)


@given(FIELDS, st.lists(ADDRESSES, min_size=1))
def test_exactly_the_envelope(fields: list[tuple[str, list[tuple[str, str, str]]]], envelope: list[str]) -> None:
    lines = [
        f"{field}: " + "".join(f"{name} <{address}>{separator}" for name, address, separator in mailboxes) + "\r\n"
        for field, mailboxes in fields
    ]
    header = Header("".join(lines).encode())
    address_header(header, envelope)
    found = recipients_of(header.octets + b"\r\n")
    assert found is not None
    assert sorted(map(same_address, found)) == sorted({same_address(each) for each in envelope})


FRAGMENTS = st.sampled_from(
    [
        b"Content-Type: multipart/mixed; boundary=b\r\n",
        b'Content-Type: multipart/alternative; boundary="b b"\r\n',
        b"Content-Type: multipart/mixed\r\n",
        b"Content-Type: text/html; charset=nonsense\r\n",
        b"Content-Type: message/rfc822\r\n",
        b"Content-Type: \xff\r\n",
        b"Content-Type: text/plain; name*=utf-8''%ff; charset=\"\r\n",
        b"Content-Type: text/plain; charset*=x'y'%ff; boundary*0*=a\r\n",
        b"Content-Transfer-Encoding: base64\r\n",
        b"Content-Transfer-Encoding: quoted-printable\r\n",
        b"Content-Disposition: attachment; filename==?utf-8?b?w?=\r\n",
        b"Content-Disposition: attachment; filename*0*=x''\r\n",
        b"Subject: =?utf-8?b?w?=\r\n",
        b"Subject: =?x?q?=\xff?=\r\n",
        b'To: "\r\n',
        b"From: @\r\n",
        b"References: \xe4\r\n",
        b"X-Priority: 1 (Highest)\r\n",
        b"X-A:\r\n",
        *(b"--b\r\n", b"--b--\r\n", b"--b b\r\n", b"\r\n", b"\n", b"--", b"\0", b"YWJj", b"=C3=A4=\r\n", b"text\r\n"),
    ]
)


@given(st.lists(FRAGMENTS | st.binary(max_size=20), max_size=25).map(b"".join))
@example(b"Content-Transfer-Encoding: base64\r\n\r\nA")
def test_any_message_can_be_taken_apart(content: bytes) -> None:
    header, _, _ = content.partition(b"\r\n\r\n")
    start = min(len(header) + 4, len(content))
    file = io.BytesIO(content)
    found = parts(file, header + b"\r\n\r\n", start, len(content))
    place = start
    for number, part in enumerate(found):
        assert place <= part.start <= part.end <= len(content), "in order, and no octet twice"
        place = part.end
        into = io.BytesIO()
        assert decode(file, part, into) == len(into.getvalue())
        assert _described(part, number)["name"]
        assert isinstance(part.charset, str)
    _main_text(found)
    _properties(message_from_bytes(header))
