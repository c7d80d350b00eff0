"""Throw-away certificates: a good one, and those that a client must refuse.

They are made anew for each run, so that no private key lies in the repository and none can expire there.
"""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

# The second address is where Dovecot listens when it shall refuse a login without TLS.
HOSTS = ("localhost", "127.0.0.1", "127.0.0.2")


@dataclass(frozen=True)
class Certificate:
    """A server's certificate and key, and the CA file of a client that means to talk to that server.

    `ca_file` always is the good CA's: a client does not learn of another CA because the server uses one.
    """

    certificate_file: Path
    key_file: Path
    ca_file: Path


@dataclass(frozen=True)
class Certificates:
    """One certificate that passes for localhost and its addresses, and one for each reason to refuse."""

    ca_file: Path
    other_ca_file: Path
    good: Certificate
    expired: Certificate
    wrong_host: Certificate
    other_ca: Certificate
    future: Certificate
    self_signed: Certificate
    weak_key: Certificate

    @classmethod
    def write(cls, folder: Path) -> Self:
        """Make them all and write them, as PEM files, into the folder."""
        ca, other = trustme.CA(), trustme.CA()
        ca_file, other_ca_file = folder / "ca.pem", folder / "other-ca.pem"
        ca.cert_pem.write_to_path(ca_file)
        other.cert_pem.write_to_path(other_ca_file)

        def written(name: str, certificate: bytes, key: bytes) -> Certificate:
            certificate_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
            certificate_file.write_bytes(certificate)
            key_file.touch(mode=0o600)
            key_file.write_bytes(key)
            return Certificate(certificate_file, key_file, ca_file)

        def store(name: str, leaf: trustme.LeafCert) -> Certificate:
            chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
            return written(name, chain, leaf.private_key_pem.bytes())

        now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
        return cls(
            ca_file=ca_file,
            other_ca_file=other_ca_file,
            good=store("good", ca.issue_cert(*HOSTS)),
            expired=store("expired", ca.issue_cert(*HOSTS, not_after=now - day)),
            wrong_host=store("wrong-host", ca.issue_cert("mail.elsewhere.test")),
            other_ca=store("other", other.issue_cert(*HOSTS)),
            future=store("future", ca.issue_cert(*HOSTS, not_before=now + day, not_after=now + 2 * day)),
            self_signed=written("self-signed", *_leaf(ec.generate_private_key(ec.SECP256R1()), None)),
            weak_key=written("weak-key", *_leaf(rsa.generate_private_key(65537, 1024), ca)),
        )


def _leaf(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, ca: trustme.CA | None) -> tuple[bytes, bytes]:
    """A certificate and its key, as PEM: what trustme does not make. Without a CA it is signed by its own key."""
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOSTS[0])])
    names: list[x509.GeneralName] = [x509.DNSName(HOSTS[0])]
    names += [x509.IPAddress(ipaddress.ip_address(host)) for host in HOSTS[1:]]
    issuer, signing = name, key
    if ca:
        issuer = x509.load_pem_x509_certificate(ca.cert_pem.bytes()).subject
        loaded = serialization.load_pem_private_key(ca.private_key_pem.bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        signing = loaded
    builder = x509.CertificateBuilder(issuer, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
    certificate = builder.add_extension(x509.SubjectAlternativeName(names), critical=False).sign(
        signing, hashes.SHA256()
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private
