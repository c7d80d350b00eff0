"""The gateway that hides a container's clients."""

from __future__ import annotations

import logging
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import pytest

from legacy_email_proxy.access import Admission, gateway
from legacy_email_proxy.service import _warn_of

HEADER = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
ROUTES = {
    "eth0\t00000000\t0158580A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n": IPv4Address("10.88.88.1"),
    "eth0\t0000580A\t00000000\t0001\t0\t0\t100\t0000FFFF\t0\t0\t0\n": None,
    "tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n": None,
    "tun0\t00000000\t0100000A\t0003\t0\t0\t0\t00000080\t0\t0\t0\n": None,
    "": None,
}


@pytest.mark.parametrize("route", ROUTES)
def test_the_default_route(route: str, tmp_path: Path) -> None:
    (tmp_path / "mark").touch()
    (tmp_path / "route").write_text(HEADER + route)
    assert gateway((str(tmp_path / "mark"),), tmp_path / "route") == ROUTES[route]


def test_outside_of_a_container_and_without_proc(tmp_path: Path) -> None:
    (tmp_path / "route").write_text(HEADER + next(iter(ROUTES)))
    assert gateway((str(tmp_path / "mark"),), tmp_path / "route") is None
    assert gateway((str(tmp_path),), tmp_path / "no_route") is None


def test_it_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    admission = Admission([ip_network("10.0.0.0/8")], 9, 9, _warn_of(IPv4Address("10.88.88.1")))
    for address in ("10.88.88.2", "::ffff:10.88.88.1", "10.88.88.1", "192.0.2.1"):
        admission.admit(address)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.records[0].__dict__["facts"]["gateway"] == IPv4Address("10.88.88.1")
    quiet = Admission([ip_network("::/0")], 9, 9, _warn_of(None))
    assert quiet.admit(str(IPv6Address(1))) is None
    assert len(caplog.records) == 1
