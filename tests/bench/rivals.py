"""The best rivals that exist, set up as well as we can: Dovecot over `imapc`, and Postfix as a smarthost relay."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager

from realservers.accounts import Account
from realservers.certificates import Certificate
from realservers.dovecot import Dovecot
from realservers.postfix import make_queue, write_file
from realservers.processes import Daemon, ask, on_free_ports, require, short_folder, unavailable

IMAPC = """\
protocols = imap pop3
service auth {{
  client_limit = 5000
}}
mail_location = imapc:~/imapc
imapc_host = localhost
imapc_port = {port}
imapc_ssl = imaps
ssl_client_ca_file = {ca_file}
imapc_user = %n
imapc_password = {password}
imapc_features = rfc822.size fetch-headers
mail_prefetch_count = 20
# Its processes serve many sessions each, instead of one: that is what costs most with fifty clients.
service pop3 {{
  process_min_avail = 1
  service_count = 100
}}
namespace inbox {{
  mailbox Trash {{
    auto = no
  }}
}}
"""


@contextmanager
def dovecot_over_imapc(certificate: Certificate, backend: Dovecot, accounts: list[Account]) -> Iterator[Dovecot]:
    """A POP3 server in front of the same accounts, which all have the same password, as `imapc` has only one."""
    (password,) = {account.password for account in accounts}
    settings = IMAPC.format(port=backend.imaps_port, ca_file=backend.ca_file, password=password)
    with Dovecot.start(certificate, settings=settings) as rival:
        for account in accounts:
            rival.add_account(account.name, account.password)
        yield rival


RELAY = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
myhostname = relay.example.test
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
message_size_limit = 200000000

relayhost = [127.0.0.1]:{backend}
smtp_tls_wrappermode = yes
smtp_tls_security_level = encrypt
smtp_tls_CAfile = {certificate.ca_file}
smtp_sasl_auth_enable = yes
smtp_sasl_password_maps = inline:{{ {{ [127.0.0.1]:{backend} = user:password }} }}
smtp_sasl_security_options =

# As quick as it gets: connections to the smarthost are used again, and nothing is throttled.
smtp_tls_connection_reuse = yes
smtpd_client_connection_rate_limit = 0
smtpd_client_connection_count_limit = 0
in_flow_delay = 0
"""

RELAY_SERVICES = """\
127.0.0.1:{port} inet n - n - 200 smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
tlsproxy unix - - n - 0 tlsproxy
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - 100 smtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


@contextmanager
def postfix_relay(certificate: Certificate, backend: int) -> Iterator[int]:
    """A Postfix that takes mail without a login and hands it to the SMTPS server on that port. Yields its own port."""
    require("postfix", "is the relay to compare with")
    if os.geteuid() != 0:
        unavailable("Postfix can be started by root only")
    programs, owner = ask(
        require("postconf", "comes with Postfix"), "-dh", "daemon_directory", "mail_owner"
    ).splitlines()
    with short_folder("bench-postfix-") as folder:
        etc = folder / "etc"
        etc.mkdir(mode=0o755)
        make_queue(folder, pwd.getpwnam(owner).pw_uid)
        write_file(etc / "main.cf", RELAY.format(folder=folder, certificate=certificate, backend=backend))
        taken: list[int] = []

        def start_on(ports: list[int]) -> Daemon:
            taken[:] = ports
            write_file(etc / "master.cf", RELAY_SERVICES.format(port=ports[0]))
            return Daemon.start(
                [f"{programs}/master", "-d", "-c", str(etc)],
                log_file=folder / "log",
                started="daemon started",
                ports=ports,
            )

        daemon = on_free_ports(1, start_on)
        try:
            yield taken[0]
        finally:
            daemon.stop()
