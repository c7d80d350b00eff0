"""The header of a balancer: whose is believed, what it says, and that nothing else is read or waited for."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as some

from legacy_email_proxy import proxy_protocol
from legacy_email_proxy.listeners import accept
from legacy_email_proxy.proxy_protocol import NoHeader, device_behind
from waiting import until

logger = logging.getLogger("legacy_email_proxy.test")
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


def version_2(command: int, family: int, addresses: bytes, more: bytes = b"") -> bytes:
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, family, len(addresses) + len(more)) + addresses + more


def ipv4(source: str) -> bytes:
    return b"".join(ipaddress.ip_address(each).packed for each in (source, "192.0.2.1")) + struct.pack("!HH", 4711, 25)


def ipv6(source: str) -> bytes:
    return b"".join(ipaddress.ip_address(each).packed for each in (source, "2001:db8::1")) + struct.pack("!HH", 1, 25)


HEADERS = {
    "v1": (b"PROXY TCP4 10.1.2.3 192.0.2.1 4711 25\r\n", "10.1.2.3"),
    "v1 over IPv6": (b"PROXY TCP6 fd00::7 2001:db8::1 4711 25\r\n", "fd00::7"),
    "v1, the longest": (b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n", None),
    "v1 of a check": (b"PROXY UNKNOWN\r\n", None),
    "v2": (version_2(1, 0x11, ipv4("10.1.2.3")), "10.1.2.3"),
    "v2 over IPv6": (version_2(1, 0x21, ipv6("fd00::7")), "fd00::7"),
    "v2 with more facts": (version_2(1, 0x11, ipv4("10.1.2.3"), b"\x04\x00\x03abc\x05\x00\x02id"), "10.1.2.3"),
    "v2 of a check": (version_2(0, 0x00, b""), None),
    "v2 of a check, with addresses": (version_2(0, 0x11, ipv4("10.1.2.3")), None),
    "v2 without a family": (version_2(1, 0x00, b""), None),
    "v2 from a Unix socket": (version_2(1, 0x31, bytes(216)), None),
}


@pytest.mark.parametrize("case", HEADERS)
async def test_the_device_is_named_and_what_follows_is_left(
    socket_pair: tuple[socket.socket, socket.socket], case: str
) -> None:
    ours, theirs = socket_pair
    header, device = HEADERS[case]
    theirs.sendall(header + b"EHLO x\r\n")
    assert await device_behind(ours) == device
    assert ours.recv(100) == b"EHLO x\r\n"


@pytest.mark.parametrize("case", HEADERS)
async def test_it_may_come_octet_by_octet(socket_pair: tuple[socket.socket, socket.socket], case: str) -> None:
    ours, theirs = socket_pair
    header, device = HEADERS[case]
    task = asyncio.create_task(device_behind(ours))
    for index in range(len(header)):
        theirs.sendall(header[index : index + 1])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert await task == device


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b"EHLO scanner\r\n", "other octets came first"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", "other octets came first"),
        (b"PROXY TCP4 10.1.2.3\r\n", "other octets came first"),
        (b"PROXY TCP4 10.1.2.300 192.0.2.1 1 25\r\n", "other octets came first"),
        (b"PROXY TCP4 10.1.2.3 192.0.2.1 99999 25\r\n", "other octets came first"),
        (b"PROXY TCP4 10.1.2.3 192.0.2.1 1 25\n", "other octets came first"),
        (b"PROXY " + b"x" * 200, "longer than 107 octets"),
        (SIGNATURE + b"\x31\x11\x00\x0c" + ipv4("10.1.2.3"), "other octets came first"),
        (version_2(1, 0x11, b"\x0a\x01"), "other octets came first"),
        (version_2(1, 0x11, ipv4("10.1.2.3"), bytes(5000)), "longer than 4096 octets"),
    ],
)
async def test_what_is_no_header(socket_pair: tuple[socket.socket, socket.socket], octets: bytes, words: str) -> None:
    ours, theirs = socket_pair
    theirs.sendall(octets)
    with pytest.raises(NoHeader, match=words) as raised:
        await device_behind(ours)
    assert not raised.value.silent


@pytest.mark.parametrize(("octets", "silent"), [(b"", True), (b"PROXY TCP4 10.", False), (SIGNATURE, False)])
async def test_who_leaves_before_the_end(
    socket_pair: tuple[socket.socket, socket.socket], octets: bytes, silent: bool
) -> None:
    ours, theirs = socket_pair
    theirs.sendall(octets)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(NoHeader, match="it has left") as raised:
        await device_behind(ours)
    assert raised.value.silent is silent


@given(some.binary(max_size=40))
def test_no_octets_are_unexpected(tail: bytes) -> None:
    """Whatever comes is an address, or is refused."""

    async def read(octets: bytes) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            theirs.sendall(octets)
            theirs.shutdown(socket.SHUT_WR)
            try:
                device = await device_behind(ours)
            except NoHeader:
                return
            if device is not None:
                ipaddress.ip_address(device)

    for beginning in (b"", b"PROXY ", b"PROXY TCP6 ", SIGNATURE, SIGNATURE + b"\x21\x11\x00\x0c"):
        asyncio.run(read(beginning + tail))


@asynccontextmanager
async def listening(seen: list[str]) -> AsyncIterator[tuple[str, int]]:
    """A listener that believes the loopback, and greets everybody with the address that it was told."""
    listener = socket.create_server(("127.0.0.1", 0))

    def take(accepted: socket.socket, device: str) -> bytes:
        seen.append(device)
        return f"you are {device}\r\n".encode()

    task = asyncio.create_task(accept(listener, take, logger, "smtp", LOOPBACK))
    try:
        yield listener.getsockname()
    finally:
        task.cancel()
        await asyncio.wait([task])
        listener.close()


async def test_a_listener_waits_for_nobody(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that sends nothing keeps no other one from being served, and is closed with one line."""
    caplog.set_level(logging.WARNING)
    seen: list[str] = []
    async with listening(seen) as place:
        _, silent_end = await asyncio.open_connection(*place)
        reader, writer = await asyncio.open_connection(*place)
        writer.write(HEADERS["v1"][0])
        assert await reader.readline() == b"you are 10.1.2.3\r\n"
        writer.close()
        # Now the deadline passes for one more, at once.
        monkeypatch.setattr(proxy_protocol, "HEADER_SECONDS", 0.0)
        late, late_end = await asyncio.open_connection(*place)
        assert await late.read() == b""
        late_end.close()
        silent_end.close()
        await until(lambda: len(caplog.records) == 1)
    assert seen == ["10.1.2.3"]
    (line,) = caplog.records
    assert "smtp connection refused" in line.getMessage()


async def test_who_waits_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_protocol, "MOST_WAITING", 2)
    async with listening([]) as place:
        ends = [await asyncio.open_connection(*place) for _ in range(3)]
        assert await ends[0][0].read() == b""
        ends[2][1].write(HEADERS["v2"][0])
        assert await ends[2][0].readline() == b"you are 10.1.2.3\r\n"
        ends[1][1].write(HEADERS["v1 of a check"][0])
        assert await ends[1][0].readline() == b"you are 127.0.0.1\r\n"
        for _, writer in ends:
            writer.close()


async def test_those_that_wait_are_closed_with_the_listener() -> None:
    async with listening([]) as place:
        reader, writer = await asyncio.open_connection(*place)
        later, later_end = await asyncio.open_connection(*place)
        later_end.write(HEADERS["v1"][0])
        # It came after the other one, which has been accepted then, too.
        assert await later.readline() == b"you are 10.1.2.3\r\n"
    assert await reader.read() == b""
    writer.close()
    later_end.close()
