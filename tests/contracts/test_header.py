"""The header that a filter is given: what it does not touch stays octet for octet."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_email_proxy.contracts import Header

BLOCK = (
    b"Received: from a\r\n\tby b\r\n"
    b"FROM : A <a@x>\r\n"
    b"Subject: gr\xfc\xdfe\r\n  and =?utf-8?q?more?=\r\n"
    b"To:\r\n"
    b"Subject: again\r\n"
    b"From-Address: no\r\n"
)


def test_values_are_found_and_unfolded() -> None:
    header = Header(BLOCK)
    assert header.get("from") == "A <a@x>"
    assert header.get("Received") == "from a\tby b"
    assert header.get_all("subject") == ["gr\udcfc\udcdfe  and =?utf-8?q?more?=", "again"]
    assert (header.get("To"), header.get("Cc"), header.get_all("Cc")) == ("", None, [])
    assert "TO" in header
    assert "Cc" not in header
    assert [name for name, _ in header.items()] == ["received", "from", "subject", "to", "subject", "from-address"]
    assert header.items()[1][1] == "A <a@x>"
    assert header.octets == BLOCK


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        (lambda header: header.add("X", "1"), b"", None),
        (lambda header: header.replace("X", "1"), b"", None),
        (lambda header: header.remove("X"), b"", b""),
        (lambda header: header.replace("from", "b"), b"FROM : A <a@x>\r\n", b"from: b\r\n"),
        (lambda header: header.remove("To"), b"To:\r\n", b""),
        (lambda header: header.remove("Subject"), b"Subject: again\r\n", b""),
        (lambda header: header.replace("Subject", "s"), b"Subject: again\r\n", b""),
    ],
)
def test_the_rest_stays_as_it_is(change, before: bytes, after: bytes | None) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    header = Header(BLOCK)
    change(header)
    expected = BLOCK.replace(before, after) if after is not None else BLOCK + b"X: 1\r\n"
    if b"Subject: again" in before:
        first = b"Subject: gr\xfc\xdfe\r\n  and =?utf-8?q?more?=\r\n"
        expected = expected.replace(first, b"Subject: s\r\n" if b"Subject: s\r\n" in header.octets else b"")
    assert header.octets == expected


def test_a_field_behind_a_line_that_does_not_end() -> None:
    header = Header(b"A: 1")
    header.add("B", "2")
    assert header.octets == b"A: 1\r\nB: 2\r\n"
    empty = Header()
    empty.replace("B", "")
    assert empty.octets == b"B:\r\n"


def test_a_long_value_is_folded_at_its_blanks() -> None:
    header = Header()
    value = "one  two " * 20 + "x" * 100 + "\tlast"
    header.add("Subject", value)
    lines = header.octets.split(b"\r\n")[:-1]
    assert len(lines) > 3
    assert all(len(line) <= 78 for line in lines if b"xxx" not in line)
    assert header.get("Subject") == value


@pytest.mark.parametrize("value", ["a\r\nX: 1", "a\nb", "a\rb", "a\0b"])
def test_a_value_adds_no_second_field(value: str) -> None:
    with pytest.raises(ValueError, match="line end or NUL"):
        Header().add("Subject", value)


@pytest.mark.parametrize("name", ["", "a b", "a:", "ä", "a\r\n"])
def test_a_name_is_a_name(name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a field"):
        Header().add(name, "x")


@given(st.lists(st.sampled_from([b"A: 1", b"A", b": ", b" f", b"\t", b"\r\n", b"\n", b"\xff", b"\0"])).map(b"".join))
def test_any_octets(octets: bytes) -> None:
    header = Header(octets)
    assert header.octets == octets
    for value in header.get_all("A"):
        header.add("B", value)
    header.replace("A", "2")
    assert header.get_all("A") == ["2"]
    header.remove("A")
    assert header.get("A") is None


@pytest.mark.fault("A34")
def test_a_hundred_thousand_fields_are_no_burden() -> None:
    header = Header(b"A: 1\r\n" * 100_000)
    began = time.process_time()
    header.replace("A", "2")
    assert header.octets == b"A: 2\r\n"
    # Quadratic, this takes half a minute.
    assert time.process_time() - began < 5
