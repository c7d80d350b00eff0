"""Which backend, and TLS towards it: the same with every Python, strict in what matters, and open to an old server."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from core.test_tls_certificate import shaken
from legacy_email_proxy.plugins import PluginContext
from legacy_email_proxy.settings import read
from legacy_email_proxy_plugins.imap.settings import configured_server
from legacy_email_proxy_plugins.smtps.settings import Endpoint
from realservers.certificates import Certificates


def towards(ca_file: Path) -> ssl.SSLContext:
    return PluginContext("relay.smtps", {"BACKEND_SMTP_CA_FILE": ca_file}).tls("BACKEND_SMTP_CA_FILE")


@pytest.mark.parametrize(
    "ciphers", ["ECDHE-RSA-AES256-SHA", "AES128-SHA", "AES128-SHA256", "AES256-GCM-SHA384", "ECDHE-RSA-AES256-SHA384"]
)
def test_an_old_server_that_has_nothing_better(tmp_path: Path, ciphers: str) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    ca.issue_cert("localhost", key_type=trustme.KeyType.RSA).configure_cert(server)
    assert shaken(server, towards(tmp_path / "ca.pem")) == ("TLSv1.2", ciphers)


def test_no_server_gets_less_than_tls_1_2_or_no_authentication(certificates: Certificates) -> None:
    context = towards(certificates.ca_file)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    names = [cipher["name"] for cipher in context.get_ciphers()]
    assert not [name for name in names if "NULL" in name or name.startswith(("ADH", "AECDH", "PSK", "SRP"))]
    assert names[3].startswith("ECDHE-")


def made(
    name: str, issuer: str, key: ec.EllipticCurvePrivateKey, signing: ec.EllipticCurvePrivateKey, *, ca: bool
) -> x509.Certificate:
    """As a firm's own CA makes them by a script: no key identifiers, and basic constraints that are not critical."""
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    subject, signer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, issuer))
    number = x509.random_serial_number()
    builder = x509.CertificateBuilder(signer, subject, key.public_key(), number, now - day, now + day)
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=False)
    if not ca:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    return builder.sign(signing, hashes.SHA256())


def test_a_ca_whose_certificates_lack_formal_fields(tmp_path: Path) -> None:
    root, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    (tmp_path / "ca.pem").write_bytes(made("Our CA", "Our CA", root, root, ca=True).public_bytes(pem))
    leaf_pem = made("localhost", "Our CA", leaf, root, ca=False).public_bytes(pem)
    key = leaf.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "both.pem").write_bytes(leaf_pem + key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "both.pem")
    assert shaken(server, towards(tmp_path / "ca.pem"))[0] == "TLSv1.3"
    # Its own certificate may also be what is trusted.
    (tmp_path / "leaf.pem").write_bytes(leaf_pem)
    assert shaken(server, towards(tmp_path / "leaf.pem"))[0] == "TLSv1.3"


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ("mail.stra\u00dfe.example", "mail.xn--strae-oqa.example"),
        ("MAIL.B\u00dcCHER.example", "mail.xn--bcher-kva.example"),
        ("Mail.Example", "Mail.Example"),
        ("fe80::1%Eth0", "fe80::1%Eth0"),
        ("\u2603_.example", "\u2603_.example"),
    ],
)
def test_the_server_that_the_operator_means(given: str, host: str) -> None:
    """And not the one of whoever owns strasse.example, with a certificate that verifies."""
    hosts = {"BACKEND_SMTP_HOST": given, "BACKEND_IMAP_HOST": given}
    context = PluginContext("x.y", read({**hosts, "POP3_LOGIN": "backend"}))
    assert Endpoint.from_context(context).host == host
    assert configured_server(context).host == host


def test_verification_itself_stays(certificates: Certificates) -> None:
    for wrong in (certificates.expired, certificates.other_ca, certificates.wrong_host):
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(wrong.certificate_file, wrong.key_file)
        with pytest.raises(ssl.SSLCertVerificationError):
            shaken(server, towards(certificates.ca_file))
