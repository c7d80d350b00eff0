"""TLS as the wire speaks it: any cut of the ciphertext, an end anywhere, and a buffer of any size."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import cast

import pytest

from imap.support import server_tls
from legacy_email_proxy_plugins.imap.transport import TLS
from realservers.certificates import Certificates

MESSAGE = bytes(range(256)) * 400


@contextmanager
def pair(certificates: Certificates, serve: Callable[[ssl.SSLSocket], None], piece: int = 65_536) -> Iterator[TLS]:
    """TLS with a server that does `serve`; at most `piece` octets of ciphertext come at a time."""
    ours, theirs = socket.socketpair()

    def run() -> None:
        with suppress(OSError), server_tls(certificates.good).wrap_socket(theirs, server_side=True) as secured:
            serve(secured)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        ours.settimeout(10)
        context = ssl.create_default_context(cafile=certificates.ca_file)
        tls = TLS(lambda buffer: ours.recv_into(buffer[:piece]), ours.sendall, context, "localhost")
        tls.do_handshake()
        yield tls
    finally:
        ours.close()
        thread.join(10)
        theirs.close()


def all_of(tls: TLS, buffer_octets: int) -> bytes:
    found, buffer = b"", bytearray(buffer_octets)
    while octets := tls.recv_into(buffer):
        found += buffer[:octets]
    return found


@pytest.mark.parametrize(("piece", "buffer_octets"), [(65_536, 1), (65_536, 200_000), (1, 4096), (999, 1000), (7, 7)])
def test_any_cut(certificates: Certificates, piece: int, buffer_octets: int) -> None:
    message = MESSAGE if buffer_octets > 1000 else MESSAGE[:5000]
    with pair(certificates, lambda secured: secured.sendall(message), piece) as tls:
        assert tls.version.startswith("TLSv1.")
        assert all_of(tls, buffer_octets) == message


def test_a_buffer_is_filled_from_many_records(certificates: Certificates) -> None:
    sent = threading.Event()

    def serve(secured: ssl.SSLSocket) -> None:
        for start in range(0, 40_000, 1000):
            secured.send(MESSAGE[start : start + 1000])
        sent.set()
        secured.recv(1)

    with pair(certificates, serve) as tls:
        assert sent.wait(50)
        buffer, found = bytearray(60_000), [0]
        while sum(found) < 40_000:
            found.append(tls.recv_into(memoryview(buffer)[sum(found) :]))
        assert buffer[:40_000] == MESSAGE[:40_000]
        assert max(found) > 1000, "and what is there isn't waited for again"


def test_what_is_sent_arrives(certificates: Certificates) -> None:
    def echo(secured: ssl.SSLSocket) -> None:
        while octets := secured.recv(65_536):
            secured.sendall(octets)

    with pair(certificates, echo) as tls:
        tls.sendall(MESSAGE)
        found, buffer = b"", bytearray(4096)
        while len(found) < len(MESSAGE):
            found += buffer[: tls.recv_into(buffer)]
        assert found == MESSAGE


def test_an_end_inside_a_record_is_an_end(certificates: Certificates) -> None:
    def serve(secured: ssl.SSLSocket) -> None:
        secured.sendall(MESSAGE[:16_000])
        secured.sendall(MESSAGE[:16_000])
        socket.socket.shutdown(secured, socket.SHUT_RDWR)

    left = 20_000

    with pair(certificates, serve) as tls:
        receive = tls._receive

        def cut(buffer: memoryview) -> int:
            nonlocal left
            octets = receive(buffer[:left]) if left else 0
            left -= octets
            return octets

        tls._receive = cut
        assert all_of(tls, 100_000) == MESSAGE[:16_000]


def test_octets_that_are_not_the_servers(certificates: Certificates) -> None:
    with pair(certificates, lambda secured: secured.sendall(MESSAGE)) as tls:
        receive = tls._receive

        def spoil(buffer: memoryview) -> int:
            octets = receive(buffer)
            buffer[octets - 1] ^= 1
            return octets

        tls._receive = spoil
        with pytest.raises(ssl.SSLError):
            all_of(tls, 200_000)


def test_the_server_is_not_waited_for_while_it_waits_for_us() -> None:
    """A renegotiation (TLS 1.2): what answers the server's HelloRequest has to leave before more is read."""
    events: list[str] = []

    def receive(buffer: memoryview) -> int:
        events.append("receive")
        buffer[:1] = b"x"
        return 1

    tls = TLS(receive, lambda octets: events.append(f"send {octets!r}"), ssl.create_default_context(), "localhost")

    class Asked:
        """An SSL object that was asked for a new handshake."""

        def read(self, _: int, buffer: memoryview) -> int:
            if "receive" not in events:
                tls._outgoing.write(b"hello")
                raise ssl.SSLWantReadError
            buffer[:1] = b"y"
            return 1

    tls._object = cast(ssl.SSLObject, Asked())
    assert tls.recv_into(bytearray(1)) == 1
    assert events == ["send b'hello'", "receive"]
