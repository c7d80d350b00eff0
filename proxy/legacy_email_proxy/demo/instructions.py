"""What the demo tells its user to type."""

from __future__ import annotations

import ipaddress

__all__ = ("instructions",)

_SENDER, _RECIPIENT = "scanner@example.com", "office@example.org"
_LINES = (f"From: {_SENDER}", f"To: {_RECIPIENT}", "Subject: Scan 42", "", "Hello from an old device.", "")
_MESSAGE = r"\r\n".join(_LINES)
"""With CRLF as printf and Python write it."""


def instructions(pop3: tuple[str, int], smtp: tuple[str, int], page: tuple[str, int] | None = None) -> str:
    """The text for listeners at these addresses and ports; every indented line can be pasted into a shell."""
    opened = f"The operator's page, with two invented weeks in it: http://{page[0]}:{page[1]}/\n" if page else ""
    pop3_host, smtp_host = _reachable(pop3[0]), _reachable(smtp[0])
    pop3_place, smtp_place = f"{_in_url(pop3_host)}:{pop3[1]}", f"{_in_url(smtp_host)}:{smtp[1]}"
    listing = f"p = poplib.POP3('{pop3_host}', {pop3[1]}); p.user('any'); p.pass_('any'); print(p.list()); p.quit()"
    sending = (
        f"s = smtplib.SMTP('{smtp_host}', {smtp[1]}); s.sendmail('{_SENDER}', '{_RECIPIENT}', '{_MESSAGE}'); s.quit()"
    )
    return f"""\
The demo is running. Old devices find plain POP3 at {pop3_place} and plain SMTP at {smtp_place}.
Behind the proxy: an IMAPS and an SMTPS server of the demo's own, one mailbox in memory. Nothing leaves this machine.
{opened}
List the mailbox (any user name and password will do):
    curl pop3://any:any@{pop3_place}/
Read message 1:
    curl pop3://any:any@{pop3_place}/1
Send a message; it arrives in the same mailbox:
    printf '{_MESSAGE}' | curl smtp://{smtp_place} --mail-from {_SENDER} --mail-rcpt {_RECIPIENT} -T -

The same without curl:
    python3 -c "import poplib; {listing}"
    python3 -c "import smtplib; {sending}"
Or by hand, with USER any, PASS any, LIST, RETR 1, DELE 1, QUIT:
    telnet {pop3_host} {pop3[1]}

Ctrl-C ends the demo and forgets the mailbox.
"""


def _reachable(address: str) -> str:
    return "localhost" if ipaddress.ip_address(address).is_unspecified else address


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
