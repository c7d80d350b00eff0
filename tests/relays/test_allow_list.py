"""Lists of addresses: what a backend takes for one address is one, and nothing gets in by its looks alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_email_proxy.relays.allow_list import Addresses

LIST = Addresses.parse(["@ok.example", "x%y@partner.example", "ann@firm.example", "<>", "@stra\u00dfe.example"])

HOLDS = [
    *("x@ok.example", "X@OK.Example", "x@ok.example.", '"x y"@ok.example', "x+y=z@ok.example", "a:b@ok.example"),
    *("ann@firm.example", "Ann@Firm.Example", "", "x%y@partner.example"),
    *("x@stra\u00dfe.example", "x@STRA\u1e9eE.example", "x@xn--strae-oqa.example", "x@XN--STRAE-OQA.example"),
]

DOES_NOT_HOLD = [
    *("x", "x@", "@ok.example", "x@sub.ok.example", "x@ok.example..", "x@evil", "ok.example"),
    # A backend, to which we have proven who we are, may send these on to where the inner address leads.
    *("x@evil@ok.example", "@evil:x@ok.example", "@evil,@ok:x@ok.example", "x%evil@ok.example", "evil!x@ok.example"),
    *('"x@evil"@ok.example', '"x%evil"@ok.example', r'"x\@evil"@ok.example', "x@@ok.example", "%@ok.example"),
    *("x@partner.example", "bob@firm.example", "x@strasse.example", "x@xn--strae-oqa.evil"),
    *("x@ok.example\u3000", "x@ok.example\x85", "x@ok.example "),
]


@pytest.mark.parametrize("path", HOLDS)
def test_what_a_list_holds(path: str) -> None:
    assert LIST.holds(path)


@pytest.mark.parametrize("path", DOES_NOT_HOLD)
def test_what_it_does_not(path: str) -> None:
    assert not LIST.holds(path)


@pytest.mark.parametrize(
    ("entry", "path", "held"),
    [
        ("@xn--strae-oqa.example", "x@stra\u00dfe.example", True),
        ("@strasse.example", "x@stra\u00dfe.example", False),
        ("@B\u00fccher.example", "x@b\u00fccher.EXAMPLE", True),
        ("@b\u00fccher.example", "x@bu\u0308cher.example", True),
        # No domain by IDNA 2008: as it is written, but for upper and lower case.
        ("@\u00dc_x.example", "x@\u00fc_x.example", True),
        ("@\u2603.example", "x@\u2603.example", True),
        ("j\u00fcrgen@x", "J\u00dcRGEN@x", True),
        ("gro\u00df@x", "gross@x", False),
    ],
)
def test_letters_of_any_language(entry: str, path: str, held: bool) -> None:
    assert Addresses.parse([entry]).holds(path) is held


def test_what_a_list_covers() -> None:
    whole = Addresses.parse(["@ok.example"])
    assert whole.covers(Addresses.parse(["x@OK.example", "@ok.example"]))
    assert not whole.covers(Addresses.parse(["x%y@ok.example"]))


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_text_is_held_or_not(local: str, domain: str) -> None:
    path = f"{local}@{domain}"
    assert LIST.holds(path) in (True, False)
    try:
        own = Addresses.parse([path])
    except ValueError:
        return
    # Blanks around it were the operator's.
    path = path.strip()
    assert own.holds(path) is not path.startswith("@")
