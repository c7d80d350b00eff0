from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_email_proxy_plugins.maildir.folder import delivery_order, octets_with_crlf, unique_id, unique_name

FILE_NAMES = st.binary(min_size=1, max_size=120).map(os.fsdecode)


@pytest.mark.parametrize(("name", "expected"), [
    ("1600000000.M1P2.host", "1600000000.M1P2.host"),
    ("1600000000.M1P2.host:2,", "1600000000.M1P2.host"),
    ("1600000000.M1P2.host,S=12,W=14:2,RS", "1600000000.M1P2.host"),
    ("1600000000.M1P2.host:1,experimental", "1600000000.M1P2.host"),
    ("!" * 70, "!" * 70),
])  # fmt: skip
def test_unique_id_is_the_unique_part(name: str, expected: str) -> None:
    assert unique_id(name) == expected


@pytest.mark.parametrize("name", ["x" * 71, "with a space", "Zähler", "tab\t", "\udcff", "\x7f"])
def test_what_pop3_can_not_carry_is_hashed(name: str) -> None:
    assert re.fullmatch("[0-9a-f]{32}", unique_id(name))


@given(FILE_NAMES)
def test_unique_id_is_always_legal(name: str) -> None:
    assert re.fullmatch(r"[\x21-\x7e]{1,70}", unique_id(name))


@given(FILE_NAMES.filter(lambda name: name[0] not in ":,"), st.sampled_from([":2,", ":2,S", ",S=3", ",S=3,W=4:2,FRS"]))
def test_what_other_programs_append_changes_no_unique_id(name: str, appended: str) -> None:
    assert unique_id(name + appended) == unique_id(name)


@pytest.mark.parametrize(("name", "expected"), [
    ("1.a.b,W=14", 14),
    ("1.a.b,S=12,W=14:2,S", 14),
    ("1.a.b,W=0:2,", 0),
    ("1.a.b,S=12", None),
    ("1.a.b,S=12:2,W=3", None),
    ("1.a.b,W=", None),
    ("1.a.b,W=12x", None),
    ("1.a.b,W=-1", None),
    ("1.a.b,XW=1", None),
    ("1.a.W=9.b", None),
])  # fmt: skip
def test_octets_with_crlf(name: str, expected: int | None) -> None:
    assert octets_with_crlf(name) == expected


def test_order_is_that_of_delivery() -> None:
    in_order = [
        "draft",
        "900000000.M999999P1.host:2,S",
        "1600000000.M5P1.host",
        "1600000000.M10P1.host,S=3:2,",
        "1600000000.M000011P1.host",
        "1600000001.1234.host",
        "1600000001.1235.host:2,S",
    ]
    shuffled = [*in_order[3:], *in_order[:3]]
    assert sorted(shuffled, key=delivery_order) == in_order


def test_flags_move_no_message() -> None:
    assert delivery_order("1.M2P3.host:2,S") == delivery_order("1.M2P3.host") < delivery_order("1.M2P3.hosts")


def test_names_are_all_different() -> None:
    with ThreadPoolExecutor(8) as threads:
        names = list(threads.map(lambda _: unique_name(), range(2000)))
    assert len(set(names)) == 2000


@pytest.mark.parametrize("host", ["a/b:c,d", "", "drucker-küche", "x" * 200])
def test_name_suits_maildir_whatever_the_host_is_called(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    name = unique_name()
    assert re.fullmatch(r"\d{10}\.M\d{6}P\d+Q\d+R[0-9a-f]{8}\.[A-Za-z0-9._-]+", name)
    assert len(name) < 255 - len(",S=123456789012:2,FRS")
