"""The certificate of our own listeners: what can not work stops the start, in one line that names the variable."""

from __future__ import annotations

import datetime
import ssl
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from interop.proxy import run
from legacy_email_proxy.contracts import SettingsMistake
from legacy_email_proxy.settings import read
from legacy_email_proxy.tls import server_context
from realservers.certificates import Certificates


def mistakes(**variables: object) -> list[str]:
    with pytest.raises(SettingsMistake) as caught:
        server_context(read({name: str(value) for name, value in variables.items()}))
    return list(caught.value.lines)


def test_without_a_certificate_there_is_no_tls() -> None:
    assert server_context(read({})) is None


def test_a_good_one(certificates: Certificates, tmp_path: Path) -> None:
    good = certificates.good
    both = tmp_path / "both.pem"
    both.write_bytes(good.certificate_file.read_bytes() + good.key_file.read_bytes())
    for variables in ({"TLS_CERT_FILE": good.certificate_file, "TLS_KEY_FILE": good.key_file}, {"TLS_CERT_FILE": both}):
        context = server_context(read({name: str(value) for name, value in variables.items()}))
        assert context is not None
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(("bits", "legacy", "taken"), [(1024, False, False), (1024, True, True), (2048, False, True)])
def test_a_key_that_is_too_small(bits: int, legacy: bool, taken: bool, tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, bits)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    form = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (tmp_path / "both.pem").write_bytes(
        builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + pem
    )
    given = {"TLS_CERT_FILE": str(tmp_path / "both.pem"), "TLS_LEGACY": str(legacy)}
    if taken:
        assert server_context(read(given))
    else:
        (mistake,) = mistakes(**given)
        assert mistake.endswith("is too weak for TLS as it is today; use a newer certificate, or see TLS_LEGACY")


def shaken(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[str, str]:
    """Version and cipher that the two agree on, without a socket. Raises :class:`ssl.SSLError`."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(down, up, server_hostname="localhost"), server.wrap_bio(up, down, server_side=True)]
    for turn in range(10):
        with suppress(ssl.SSLWantReadError):
            ends[turn % 2].do_handshake()
    cipher = ends[0].cipher()
    assert cipher
    return ends[0].version() or "", cipher[0]


def old_client(certificates: Certificates, version: str, ciphers: str) -> ssl.SSLContext:
    client = ssl.create_default_context(cafile=certificates.ca_file)
    client.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        client.minimum_version = client.maximum_version = ssl.TLSVersion[version]
    return client


def listener(certificates: Certificates, *, legacy: bool) -> ssl.SSLContext:
    files = {"TLS_CERT_FILE": str(certificates.good.certificate_file), "TLS_KEY_FILE": str(certificates.good.key_file)}
    context = server_context(read({**files, "TLS_LEGACY": str(legacy).lower()}))
    assert context
    return context


@pytest.mark.skipif(not (ssl.HAS_TLSv1 and ssl.HAS_TLSv1_1), reason="this OpenSSL has no TLS 1.0 and 1.1 at all")
@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
@pytest.mark.parametrize("ciphers", ["ALL", "ECDHE-ECDSA-AES128-SHA"])
def test_old_tls_only_with_its_setting(certificates: Certificates, version: str, ciphers: str) -> None:
    client = old_client(certificates, version, ciphers)
    assert shaken(listener(certificates, legacy=True), client)[0].replace(".", "_") == version
    with pytest.raises(ssl.SSLError, match=r"UNSUPPORTED_PROTOCOL|VERSION"):
        shaken(listener(certificates, legacy=False), client)


def test_old_ciphers_only_with_the_setting(certificates: Certificates) -> None:
    client = old_client(certificates, "TLSv1_2", "ECDHE-ECDSA-AES128-SHA")
    assert shaken(listener(certificates, legacy=True), client) == ("TLSv1.2", "ECDHE-ECDSA-AES128-SHA")
    with pytest.raises(ssl.SSLError):
        shaken(listener(certificates, legacy=False), client)


def with_rsa(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A listener whose key is of RSA, and the CA file of its clients."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    leaf = ca.issue_cert("localhost", key_type=trustme.KeyType.RSA)
    leaf.private_key_and_cert_chain_pem.write_to_path(folder / "rsa")
    context = server_context(read({"TLS_CERT_FILE": str(folder / "rsa")}))
    assert context
    return context, folder / "ca.pem"


WEAK = ("ECDHE-RSA-AES128-SHA", "AES128-SHA", "AES256-GCM-SHA384", "kRSA", "SHA1", "PSK", "SRP", "CAMELLIA", "ARIA")


@pytest.mark.parametrize("ciphers", WEAK)
def test_whatever_this_python_was_built_with_there_is_forward_secrecy(tmp_path: Path, ciphers: str) -> None:
    server, ca_file = with_rsa(tmp_path)
    client = ssl.create_default_context(cafile=ca_file)
    try:
        client.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    except ssl.SSLError:
        pytest.skip("not even the client has it")
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shaken(server, client)


@pytest.mark.parametrize(
    "cipher", ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-RSA-AES256-SHA384"]
)
def test_what_is_taken_without_the_setting(tmp_path: Path, cipher: str) -> None:
    server, ca_file = with_rsa(tmp_path)
    client = ssl.create_default_context(cafile=ca_file)
    client.set_ciphers(cipher)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert shaken(server, client) == ("TLSv1.2", cipher)


def test_also_with_the_setting_new_clients_get_the_newest(certificates: Certificates) -> None:
    client = ssl.create_default_context(cafile=certificates.ca_file)
    assert shaken(listener(certificates, legacy=True), client)[0] == "TLSv1.3"


def test_nothing_without_a_key_or_a_certificate_is_ever_offered(certificates: Certificates) -> None:
    offered = {cipher["name"] for cipher in listener(certificates, legacy=True).get_ciphers()}
    assert not {name for name in offered if "NULL" in name or name.startswith(("ADH", "AECDH", "EXP"))}
    client = old_client(certificates, "TLSv1_2", "aNULL:eNULL")
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    with pytest.raises(ssl.SSLError):
        shaken(listener(certificates, legacy=True), client)


def test_half_of_what_is_needed() -> None:
    assert mistakes(TLS_KEY_FILE="/k", POP3S_BIND_PORT="995", SMTPS_BIND_PORT="465") == [
        "TLS_KEY_FILE: a key without a certificate; set TLS_CERT_FILE too",
        "POP3S_BIND_PORT: TLS needs a certificate; set TLS_CERT_FILE",
        "SMTPS_BIND_PORT: TLS needs a certificate; set TLS_CERT_FILE",
    ]


def test_files_that_can_not_be_read(certificates: Certificates, tmp_path: Path) -> None:
    assert mistakes(TLS_CERT_FILE="/not/there", TLS_KEY_FILE=tmp_path) == [
        "TLS_CERT_FILE: can not read '/not/there': No such file or directory",
        f"TLS_KEY_FILE: can not read '{tmp_path}': Is a directory",
    ]


def encrypted(key: Path, folder: Path) -> Path:
    path = folder / "encrypted.key"
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    protection = serialization.BestAvailableEncryption(b"hunter2")
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(loaded.private_bytes(pem, pkcs8, protection))
    return path


def nothing(key: Path, folder: Path) -> Path:
    path = folder / "nothing"
    path.write_text("nothing\n")
    return path


@pytest.mark.parametrize("spoil", [encrypted, nothing])
def test_a_key_that_can_not_be_used(
    certificates: Certificates, tmp_path: Path, spoil: Callable[[Path, Path], Path]
) -> None:
    path = spoil(certificates.good.key_file, tmp_path)
    assert mistakes(TLS_CERT_FILE=certificates.good.certificate_file, TLS_KEY_FILE=path) == [
        f"TLS_KEY_FILE: '{path}' holds no PEM key, or one that is protected by a password"
    ]


def test_a_certificate_that_is_none(certificates: Certificates, tmp_path: Path) -> None:
    path = nothing(tmp_path, tmp_path)
    for variables in ({}, {"TLS_KEY_FILE": certificates.good.key_file}):
        assert mistakes(TLS_CERT_FILE=path, **variables) == [f"TLS_CERT_FILE: '{path}' holds no PEM certificate"]


def test_a_certificate_without_a_key(certificates: Certificates) -> None:
    path = certificates.good.certificate_file
    assert mistakes(TLS_CERT_FILE=path) == [
        f"TLS_CERT_FILE: '{path}' holds no PEM key, or one that is protected by a password"
    ]


def test_the_key_of_another(certificates: Certificates) -> None:
    certificate, key = certificates.good.certificate_file, certificates.expired.key_file
    assert mistakes(TLS_CERT_FILE=certificate, TLS_KEY_FILE=key) == [
        f"TLS_KEY_FILE: the key in '{key}' does not belong to the certificate in '{certificate}'"
    ]


def test_it_is_one_of_the_mistakes_of_a_start(tmp_path: Path) -> None:
    done = run(
        "serve", RELAY_PLUGIN="none", MAILDROP_PLUGIN="maildir", POP3S_BIND_PORT="0", TLS_KEY_FILE_FILE="/not/there",
        POP3_EXPIRE_DAYS="soon",
    )  # fmt: skip
    assert done.returncode == 2
    assert sorted(line.split(": ")[1] for line in done.stderr.splitlines()) == [
        "MAILDROP_MAILDIR_PATH", "POP3S_BIND_PORT", "POP3_EXPIRE_DAYS", "TLS_KEY_FILE_FILE",
    ]  # fmt: skip
    assert "POP3_EXPIRE_DAYS: must be a number of days or NEVER (given: 'soon')" in done.stderr
