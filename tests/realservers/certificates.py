"""Throw-away certificates: a good one, and four that a client must refuse.

They are made anew for each run, so that no private key lies in the repository and none can expire there.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import trustme

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
    not_yet_valid: Certificate
    wrong_host: Certificate
    other_ca: Certificate

    @classmethod
    def write(cls, folder: Path) -> Self:
        """Make them all and write them, as PEM files, into the folder."""
        ca, other = trustme.CA(), trustme.CA()
        ca_file, other_ca_file = folder / "ca.pem", folder / "other-ca.pem"
        ca.cert_pem.write_to_path(ca_file)
        other.cert_pem.write_to_path(other_ca_file)

        def store(name: str, leaf: trustme.LeafCert) -> Certificate:
            certificate_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
            certificate_file.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
            key_file.touch(mode=0o600)
            leaf.private_key_pem.write_to_path(key_file)
            return Certificate(certificate_file, key_file, ca_file)

        now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
        # What a certificate of today is to a machine whose clock says 1970.
        later = ca.issue_cert(*HOSTS, not_before=now + 3000 * day, not_after=now + 3001 * day)
        return cls(
            ca_file=ca_file,
            other_ca_file=other_ca_file,
            good=store("good", ca.issue_cert(*HOSTS)),
            expired=store("expired", ca.issue_cert(*HOSTS, not_after=now - day)),
            not_yet_valid=store("not-yet-valid", later),
            wrong_host=store("wrong-host", ca.issue_cert("mail.elsewhere.test")),
            other_ca=store("other", other.issue_cert(*HOSTS)),
        )
