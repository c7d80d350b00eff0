"""Dovecot 2.3: the IMAPS account behind the proxy, the POP3 server to compare ours with, and who checks Postfix's logins.

It runs as root or as an ordinary user, whichever runs the tests.
"""

from __future__ import annotations

import grp
import imaplib
import os
import pwd
import ssl
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from realservers.accounts import DOMAIN, Account, Accounts
from realservers.certificates import Certificate
from realservers.maildir import Maildir
from realservers.processes import Daemon, on_free_ports, require, short_folder, unavailable, wait_until

Storage = Literal["maildir", "mdbox"]

IMAP_SECONDS = 30.0
IMPORT_SECONDS = 60.0

CONFIGURATION = """\
base_dir = {folder}/run
state_dir = {folder}/run
log_path = /dev/stderr
protocols = imap pop3 lmtp
listen = 127.0.0.1
hostname = mail.{domain}
postmaster_address = postmaster@{domain}

ssl = {ssl}
ssl_cert = <{certificate.certificate_file}
ssl_key = <{certificate.key_file}

# alice and alice@example.test are one user.
auth_username_format = %Ln
auth_mechanisms = plain login
disable_plaintext_auth = no
# A test that gives a wrong password should neither wait for its answer nor slow the next test down.
auth_failure_delay = 0
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
passdb {{
  driver = passwd-file
  args = {folder}/users
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
  unix_listener {lmtp_socket} {{
    mode = 0666
  }}
}}
service auth {{
  unix_listener {auth_socket} {{
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


class Dovecot:
    """A running Dovecot; `Dovecot.start(…)` returns once it answers, and leaving its `with` block stops it."""

    def __init__(self, folder: Path, certificate: Certificate, storage: Storage) -> None:
        self.ca_file = certificate.ca_file
        self.imaps_port = self.imap_port = self.pop3_port = 0
        self.lmtp_socket = folder / "lmtp"
        self.auth_socket = folder / "auth"
        self.accounts = Accounts(folder / "users")
        self._folder = folder
        self._certificate = certificate
        self._storage = storage
        self._owner = Owner.present()
        self._maildirs: dict[str, Maildir] = {}
        self._stack = ExitStack()

    @classmethod
    def start(
        cls,
        certificate: Certificate,
        *,
        storage: Storage = "maildir",
        login_without_tls: bool = True,
        settings: str = "",
    ) -> Self:
        """Start it with that certificate; `settings` are further lines of dovecot.conf, which overrule ours."""
        pass
