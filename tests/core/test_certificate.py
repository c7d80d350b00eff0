"""The certificate of our own listeners: what can not work stops the start, in one line that names the variable."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from interop.proxy import run
from legacy_email_proxy.certificate import server_context
from legacy_email_proxy.contracts import SettingsMistake
from legacy_email_proxy.settings import read
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


def test_half_of_what_is_needed() -> None:
    assert mistakes(TLS_KEY_FILE="/k", POP3S_BIND_PORT="995") == [
        "TLS_KEY_FILE: a key without a certificate; set TLS_CERT_FILE too",
        "POP3S_BIND_PORT: TLS needs a certificate; set TLS_CERT_FILE",
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
