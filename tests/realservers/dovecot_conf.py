"""What stands in dovecot.conf, for Dovecot 2.3, run by root or by an ordinary user."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from realservers.accounts import DOMAIN
from realservers.certificates import Certificate

Storage = Literal["maildir", "mdbox"]

CONFIGURATION = """\
base_dir = {folder}/run
state_dir = {folder}/run
log_path = /dev/stderr
protocols = imap pop3 lmtp
listen = 127.0.0.1
hostname = mail.{domain}
postmaster_address = postmaster@{domain}

ssl = yes
ssl_cert = <{certificate.certificate_file}
ssl_key = <{certificate.key_file}

# alice and alice@example.test are one user.
auth_username_format = %Ln
auth_mechanisms = plain login
disable_plaintext_auth = {plaintext_forbidden}
# A test that gives a wrong password should neither wait for its answer nor slow the next test down.
auth_failure_delay = 0
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
# One file for each: a common file Dovecot would read again once a second only, and a fresh account works at once.
passdb {{
  driver = passwd-file
  args = {folder}/users/%n
}}
userdb {{
  driver = static
  args = uid={owner.uid} gid={owner.gid} home={folder}/home/%n
}}

mail_location = {storage}:~/{storage}
mail_fsync = never
mail_max_userip_connections = 10000
first_valid_uid = 1
namespace inbox {{
  inbox = yes
  separator = /
  mailbox Trash {{
    auto = create
    special_use = \\Trash
  }}
}}

# One login process for all connections, ready before the first: a process each would cost more than the test itself.
service imap-login {{
  service_count = 0
  process_min_avail = 1
  inet_listener imap {{
    address = {plain_host}
    port = {imap_port}
  }}
  inet_listener imaps {{
    port = {imaps_port}
    ssl = yes
  }}
}}
service pop3-login {{
  service_count = 0
  process_min_avail = 1
  inet_listener pop3 {{
    address = {plain_host}
    port = {pop3_port}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
service imap {{
  process_limit = 2000
  vsz_limit = 1G
}}
service pop3 {{
  process_limit = 2000
  vsz_limit = 1G
}}
service lmtp {{
  unix_listener {folder}/lmtp {{
    mode = 0666
  }}
}}
service auth {{
  unix_listener {folder}/auth {{
    mode = 0666
  }}
}}
service stats {{
  unix_listener stats-writer {{
    mode = 0666
  }}
}}
"""

# An ordinary user can neither change user nor root directory.
ROOTLESS = """\
default_internal_user = {owner.user}
default_internal_group = {owner.group}
default_login_user = {owner.user}
service anvil {{
  chroot =
}}
service imap-login {{
  chroot =
}}
service pop3-login {{
  chroot =
}}
"""


@dataclass(frozen=True)
class Owner:
    """Whose the mail is: the one who runs the tests, or in root's place, whom Dovecot refuses, `nobody`."""

    user: str
    group: str
    uid: int
    gid: int

    @classmethod
    def present(cls) -> Self:
        entry = pwd.getpwuid(os.geteuid()) if os.geteuid() else pwd.getpwnam("nobody")
        return cls(entry.pw_name, grp.getgrgid(entry.pw_gid).gr_name, entry.pw_uid, entry.pw_gid)


def configuration(
    *,
    folder: Path,
    certificate: Certificate,
    storage: Storage,
    plain_host: str,
    login_without_tls: bool,
    ports: tuple[int, int, int],
    owner: Owner,
) -> str:
    """The whole file; `ports` are those of IMAPS, IMAP and POP3, `plain_host` the address of the last two."""
    imaps_port, imap_port, pop3_port = ports
    text = CONFIGURATION if os.geteuid() == 0 else CONFIGURATION + ROOTLESS
    return text.format(
        domain=DOMAIN,
        folder=folder,
        certificate=certificate,
        storage=storage,
        plain_host=plain_host,
        plaintext_forbidden="no" if login_without_tls else "yes",
        imaps_port=imaps_port,
        imap_port=imap_port,
        pop3_port=pop3_port,
        owner=owner,
    )
