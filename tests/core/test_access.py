"""Who may connect."""

from __future__ import annotations

import pytest

from legacy_email_proxy.access import Admission, Refusal
from legacy_email_proxy.settings import read

INSIDE = ["127.0.0.1", "10.1.2.3", "172.31.255.255", "192.168.0.1", "169.254.1.1", "::1", "fe80::1%eth0", "fd00::1",
          "::ffff:10.0.0.1", "::ffff:127.0.0.1"]  # fmt: skip
OUTSIDE = ["8.8.8.8", "172.32.0.1", "2001:db8::1", "::ffff:8.8.8.8", "::", "0.0.0.0", "", "localhost", "10.0.0.256"]


@pytest.mark.parametrize("address", INSIDE)
def test_trusted_by_default(address: str) -> None:
    assert Admission.from_settings(read({})).admit(address) is None


@pytest.mark.parametrize("address", OUTSIDE)
def test_strangers_by_default(address: str) -> None:
    assert Admission.from_settings(read({})).admit(address) is Refusal.NOT_ALLOWED


def test_an_address_is_one_client_however_it_is_written() -> None:
    admission = Admission(read({})["ALLOWED_NETWORKS"], 10, 1)
    assert admission.admit("10.0.0.1") is None
    assert admission.admit("::ffff:10.0.0.1") is Refusal.TOO_MANY_FROM_ADDRESS
    admission.release("::ffff:10.0.0.1")
    assert admission.admit("10.0.0.1") is None


def test_the_addresses_of_one_ipv6_network_are_one_client() -> None:
    """Whoever has one address of a /64 usually has all of them."""
    admission = Admission(read({})["ALLOWED_NETWORKS"], 10, 2)
    taken = [admission.admit(address) for address in ("fd00::1", "fd00::2", "fd00::3", "fd00:0:0:1::1")]
    assert taken == [None, None, Refusal.TOO_MANY_FROM_ADDRESS, None]
    admission.release("fd00::1")
    assert admission.admit("fd00::4") is None


def test_limits_and_places_given_back() -> None:
    admission = Admission(read({})["ALLOWED_NETWORKS"], 3, 2)
    taken = [admission.admit(address) for address in ("10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.3")]
    assert taken == [None, None, Refusal.TOO_MANY_FROM_ADDRESS, None, Refusal.TOO_MANY]
    for address in ("10.0.0.1", "10.0.0.1", "10.0.0.2"):
        admission.release(address)
    assert not admission._held
    assert admission._total == 0
    assert admission.admit("10.0.0.1") is None
