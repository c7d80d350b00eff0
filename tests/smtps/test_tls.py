"""Our half of TLS against OpenSSL's other half, in memory: what is said arrives, however it is cut, and ends well."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress

import pytest

from legacy_email_proxy_plugins.smtps.transport import TLS, Broken, Wire
from realservers.certificates import Certificate, Certificates
from smtps.support import server_tls

LARGE = bytes(range(256)) * 400


class Server:
    """The other side, which gets the client's octets one at a time."""

    def __init__(self, certificate: Certificate) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = server_tls(certificate).wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.agreed = False

    def take(self, octets: bytes) -> bytes:
        """What it sends back while they shake hands, and after that what it has read."""
        said = []
        for octet in octets:
            self.incoming.write(bytes([octet]))
            with suppress(ssl.SSLWantReadError):
                if not self.agreed:
                    self.tls.do_handshake()
                    self.agreed = True
                else:
                    said.append(self.tls.read(1 << 16))
        return b"".join(said)


def agreed(certificates: Certificates, host: str = "localhost") -> tuple[TLS, Server]:
    ours = TLS(ssl.create_default_context(cafile=str(certificates.good.ca_file)), host)
    theirs = Server(certificates.good)
    ours.shake_hands()
    while not (ours.agreed and theirs.agreed):
        theirs.take(ours.outgoing)
        for octet in theirs.outgoing.read():
            ours.shake_hands(bytes([octet])) if not ours.agreed else ours.decrypted(bytes([octet]))
    return ours, theirs


def test_what_is_said_arrives_however_it_is_cut(certificates: Certificates) -> None:
    ours, theirs = agreed(certificates)
    assert ours.version == "TLSv1.3"
    assert theirs.take(ours.encrypted(b"EHLO x\r\n")) == b"EHLO x\r\n"
    assert theirs.take(ours.encrypted(LARGE)) == LARGE
    theirs.tls.write(LARGE)
    wire = theirs.outgoing.read()
    assert b"".join(ours.decrypted(wire[at : at + 1]) for at in range(len(wire))) == LARGE
    theirs.tls.write(LARGE)
    theirs.tls.write(b"250 ok\r\n")
    assert ours.decrypted(theirs.outgoing.read()) == LARGE + b"250 ok\r\n"


def test_the_end_is_heard_behind_the_last_words(certificates: Certificates) -> None:
    ours, theirs = agreed(certificates)
    theirs.tls.write(b"421 bye\r\n")
    with suppress(ssl.SSLWantReadError):
        theirs.tls.unwrap()
    assert not ours.closed
    assert ours.decrypted(theirs.outgoing.read()) == b"421 bye\r\n"
    assert ours.closed


def test_the_other_side_hears_our_farewell(certificates: Certificates) -> None:
    ours, theirs = agreed(certificates)
    theirs.incoming.write(ours.farewell())
    assert theirs.tls.read(10) == b""  # and not an SSLEOFError, as after a cut


def test_what_somebody_changed_on_the_way_is_nobodys_word(certificates: Certificates) -> None:
    ours, theirs = agreed(certificates)
    theirs.tls.write(b"250 ok\r\n")
    wire = bytearray(theirs.outgoing.read())
    wire[-1] ^= 1
    with pytest.raises(ssl.SSLError):
        ours.decrypted(bytes(wire))


def test_another_host_is_not_spoken_to_and_is_told_why(certificates: Certificates) -> None:
    ours = TLS(ssl.create_default_context(cafile=str(certificates.good.ca_file)), "other.example")
    theirs = Server(certificates.good)
    ours.shake_hands()
    theirs.take(ours.outgoing)
    with pytest.raises(ssl.SSLCertVerificationError):
        ours.shake_hands(theirs.outgoing.read())
    assert not ours.agreed
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        theirs.take(ours.outgoing)


async def test_a_handshake_that_is_cut_ends_the_wait(certificates: Certificates) -> None:
    ours, theirs = socket.socketpair()
    _, wire = await asyncio.get_running_loop().create_connection(Wire, sock=ours)
    begun = asyncio.ensure_future(
        wire.start_tls(ssl.create_default_context(cafile=str(certificates.good.ca_file)), "localhost", 5)
    )
    await asyncio.sleep(0)
    theirs.close()
    with pytest.raises(Broken, match=r"closed the connection|was lost"):
        await begun
    await wire.closed()
