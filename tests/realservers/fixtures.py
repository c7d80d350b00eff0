"""The fixtures, to be named in `pytest_plugins`: one Dovecot, one Postfix and one PostgreSQL for all tests of a run.

A test that needs a server set up otherwise starts its own, in a `with` block: that takes a fraction of a second.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest

from legacy_email_proxy.settings import read
from legacy_email_proxy.tls import server_context
from realservers.accounts import Account
from realservers.certificates import Certificates
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix
from realservers.postgres import Postgres


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Server certificates, one good and the others bad, and the CA files."""
    return Certificates.write(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def server_tls(certificates: Certificates) -> ssl.SSLContext:
    """What a listener of ours shows: the good certificate."""
    files = {"TLS_CERT_FILE": certificates.good.certificate_file, "TLS_KEY_FILE": certificates.good.key_file}
    context = server_context(read({name: str(file) for name, file in files.items()}))
    assert context
    return context


@pytest.fixture(scope="session")
def client_tls(certificates: Certificates) -> ssl.SSLContext:
    """A client that trusts that certificate, for `localhost`."""
    return ssl.create_default_context(cafile=certificates.ca_file)


@pytest.fixture(scope="session")
def dovecot(certificates: Certificates) -> Iterator[Dovecot]:
    """A Dovecot with the good certificate, shared by all tests; they keep apart by using `account`."""
    with Dovecot.start(certificates.good) as server:
        yield server


@pytest.fixture
def account(dovecot: Dovecot) -> Account:
    """An account of the shared Dovecot that is this test's alone, with an empty mailbox."""
    return dovecot.add_account()


@pytest.fixture(scope="session")
def postfix(certificates: Certificates, dovecot: Dovecot) -> Iterator[Postfix]:
    """A Postfix with the good certificate that delivers to the shared Dovecot and knows its accounts."""
    with Postfix.start(certificates.good, dovecot) as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL shared by all tests; each takes a database of its own."""
    with Postgres.start() as server:
        yield server
