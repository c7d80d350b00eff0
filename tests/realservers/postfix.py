"""Postfix: the mail provider's submission server behind the proxy, which delivers into Dovecot.

It runs as root only. No mail leaves the machine: whatever is not for `example.test` ends in an error.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from realservers.accounts import DOMAIN
from realservers.certificates import Certificate
from realservers.dovecot import Dovecot
from realservers.processes import Daemon, DidNotStart, ask, on_free_ports, require, short_folder, tail, unavailable
from realservers.server import Server

UNKNOWN_RECIPIENT = f"nobody@{DOMAIN}"
LATER_RECIPIENT = f"later@{DOMAIN}"
REFUSED_SENDER = f"refused@{DOMAIN}"
# A message with this header field is refused after its end, with 550 5.7.1 and the field's value.
REFUSED_FIELD = "X-Refuse"

MESSAGE_SIZE_LIMIT = 104_857_600
# fmt: off
QUEUES = (
    "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming",
    "maildrop", "private", "public", "saved", "trace",
)
# fmt: on
CHECK_SECONDS = 30.0

MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}

myhostname = mail.{domain}
mydestination =
mynetworks =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
# No name server is asked.
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
lmtp_dns_support_level = disabled

# Mail for the domain goes to Dovecot, any other nowhere.
virtual_mailbox_domains = {domain}
virtual_mailbox_maps = regexp:{folder}/etc/known
virtual_transport = lmtp:unix:{dovecot.lmtp_socket}
default_transport = error:5.7.1 no mail leaves the test
relay_transport = error:5.7.1 no mail leaves the test
local_transport = error:5.7.1 no mail stays on this machine
alias_maps =
alias_database =
local_recipient_maps =
notify_classes =

smtpd_tls_cert_file = {certificate.certificate_file}
smtpd_tls_key_file = {certificate.key_file}
smtpd_tls_security_level = encrypt
smtpd_tls_auth_only = yes
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {dovecot.auth_socket}
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_sender_restrictions = check_sender_access texthash:{folder}/etc/senders
smtpd_recipient_restrictions = check_recipient_access texthash:{folder}/etc/recipients
header_checks = regexp:{folder}/etc/header_checks
message_size_limit = {message_size_limit}
mailbox_size_limit = 0
virtual_mailbox_limit = 0

# What arrives is what was sent, below the Received fields: nothing is cut, dropped, completed or rewritten.
lmtp_line_length_limit = 0
header_size_limit = {message_size_limit}
message_drop_headers =
local_header_rewrite_clients =
disable_mime_output_conversion = yes
cleanup_replace_stray_cr_lf = no

# All tests come from one address, and quickly.
smtpd_client_connection_count_limit = 0
smtpd_error_sleep_time = 0
in_flow_delay = 0
"""

MASTER = """\
127.0.0.1:{smtps_port} inet n - n - - smtpd
  -o smtpd_tls_wrappermode=yes
127.0.0.1:{submission_port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
lmtp unix - - n - - lmtp
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


class Postfix(Server):
    """A running Postfix; `Postfix.start(…)` returns once it answers, and leaving its `with` block stops it.

    Both ports want a login, with an account of the Dovecot it was started with, and nothing before TLS.
    """

    def __init__(self, certificate: Certificate, folder: Path, programs: str) -> None:
        super().__init__()
        self._folder = folder
        self._programs = programs
        self.ca_file = certificate.ca_file
        self.smtps_port = self.submission_port = 0

    @classmethod
    def start(
        cls,
        certificate: Certificate,
        dovecot: Dovecot,
        *,
        message_size_limit: int = MESSAGE_SIZE_LIMIT,
        recipients: Mapping[str, str] | None = None,
        senders: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> Self:
        """Start it; `recipients` and `senders` map further addresses to the reply that refuses them: "452 4.2.2 full".

        `settings` are further lines of main.cf, which overrule ours. Anyone in the domain but `UNKNOWN_RECIPIENT` is
        accepted, and then bounced if Dovecot has no such account. As Postfix does by default, it holds a refusal of the
        sender back until the first recipient; `{"smtpd_delay_reject": "no"}` brings it forward.
        """
        postfix = require("postfix", "is the real SMTP server")
        if os.geteuid() != 0:
            unavailable("Postfix can be started by root only")
        postconf = require("postconf", "comes with Postfix")
        programs, owner = ask(postconf, "-dh", "daemon_directory", "mail_owner").splitlines()
        with ExitStack() as stack:
            folder = stack.enter_context(short_folder("postfix-"))
            self = cls(certificate, folder, programs)
            etc = folder / "etc"
            etc.mkdir(mode=0o755)
            make_queue(folder, pwd.getpwnam(owner).pw_uid)
            later = {LATER_RECIPIENT: "450 4.2.1 this mailbox is busy, try again later"}
            refused = {REFUSED_SENDER: "550 5.7.1 this sender may not send"}
            main = MAIN.format(
                folder=folder,
                domain=DOMAIN,
                certificate=certificate,
                dovecot=dovecot,
                message_size_limit=message_size_limit,
            )
            # Not both: each process would log a warning, and what fills the log's queue at the start is lost.
            kept = (line for line in main.splitlines(True) if line.partition(" =")[0] not in (settings or {}))
            write_file(etc / "main.cf", "".join(kept) + _table(settings or {}, " = "))
            write_file(etc / "known", f"!/^{UNKNOWN_RECIPIENT}$/ known\n")
            write_file(etc / "recipients", _table(later | dict(recipients or {}), " "))
            write_file(etc / "senders", _table(refused | dict(senders or {}), " "))
            write_file(etc / "header_checks", f"/^{REFUSED_FIELD}: (.*)/ REJECT 5.7.1 $1\n")

            def start_on(ports: list[int]) -> Daemon:
                self.smtps_port, self.submission_port = ports
                write_file(etc / "master.cf", MASTER.format(smtps_port=ports[0], submission_port=ports[1]))
                return self._run()

            try:
                daemon = on_free_ports(2, start_on)
            except DidNotStart as error:
                raise DidNotStart(f"{error}{tail(_complaints(postfix, etc))}") from None
            self._started(daemon, stack)
        return self

    def _run(self) -> Daemon:
        return Daemon.start(
            [f"{self._programs}/master", "-d", "-c", str(self._folder / "etc")],
            log_file=self._folder / "log",
            started="daemon started",
            ports=[self.smtps_port, self.submission_port],
        )


def make_queue(folder: Path, owner: int) -> None:
    """The folders that Postfix wants to find. `postfix check` makes them too, and takes seconds."""
    (folder / "queue" / "pid").mkdir(parents=True)
    for name in ("data", *(f"queue/{queue}" for queue in QUEUES)):
        (folder / name).mkdir(mode=0o700)
        os.chown(folder / name, owner, -1)


def _complaints(postfix: str, etc: Path) -> str:
    """What Postfix has against its configuration. It tells the machine's log and a terminal, so it is given one."""
    ours, theirs = os.openpty()
    try:
        command = [postfix, "-c", str(etc), "check"]
        subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, timeout=CHECK_SECONDS, check=False
        )
        os.set_blocking(ours, False)
        return os.read(ours, 65536).decode(errors="replace")
    except BlockingIOError:  # it has nothing against it
        return ""
    finally:
        os.close(theirs)
        os.close(ours)


def _table(rows: Mapping[str, str], between: str) -> str:
    return "".join(f"{key}{between}{value}\n" for key, value in rows.items())


def write_file(file: Path, text: str) -> None:
    """Write the file as if an hour ago: Postfix does not believe a file before it has been unchanged for a second."""
    file.write_text(text)
    an_hour_ago = time.time() - 3600
    os.utime(file, (an_hour_ago, an_hour_ago))
