"""What to change at a device, or in the proxy's settings, so that a refusal does not come again.

A device shows its user a number at best. The log, the history and the operator's page say with each refusal what the
person at the device can do about it. Only refusals with a sure remedy are here: wrong advice costs more time than none.
"""

from __future__ import annotations

from .contracts import LoginRefused, LoginsLimited
from .replies import SMTP, Reply

__all__ = ("POP3_SPOKE_HTTP", "POP3_SPOKE_TLS", "for_failure", "for_reply", "for_wrong_protocol")

_HTTP = "a web browser or a monitoring program asks here; let it only connect and close"
POP3_SPOKE_HTTP = _HTTP
POP3_SPOKE_TLS = "it speaks TLS: set its POP3 encryption to none or STARTTLS, or point it to POP3S_BIND_PORT"

_BY_COMMAND: dict[tuple[str, Reply], str] = {
    ("AUTH", SMTP.NOT_IMPLEMENTED): "it wants to log in: switch its login off, or set SMTP_AUTH=any",
    ("STARTTLS", SMTP.NOT_IMPLEMENTED): "it wants TLS: set its encryption to none, or set TLS_CERT_FILE",
    ("MAIL", SMTP.NOT_ASCII): "its sender address is in no encoding that mail knows: use letters a to z",
    ("MAIL", SMTP.SYNTAX): "its sender address can not be read: set one like scanner@example.com",
    ("RCPT", SMTP.SYNTAX): "a recipient's address can not be read: look at the device's address book",
    ("RCPT", SMTP.NOT_ASCII): "a recipient's address is in no encoding that mail knows: use letters a to z",
}

_BY_REPLY: dict[Reply, str] = {
    SMTP.BAD_PATH: "its sender address is no e-mail address: set one like scanner@example.com",
    SMTP.BAD_FORWARD_PATH: "a recipient is no e-mail address: look at the device's address book",
    SMTP.TOO_BIG: "lower the scan's resolution, or raise SMTP_MAX_OCTETS if the provider takes more",
    SMTP.LOGIN_REFUSED: "its user name or password is not that of a user in ACCOUNTS_FILE",
    SMTP.LOGIN_NEEDED: "set its user name and password to those of a user in ACCOUNTS_FILE",
    SMTP.UNKNOWN_MECHANISM: "set its login method to PLAIN or LOGIN",
    SMTP.NO_ACCOUNT: "no rule in ACCOUNTS_FILE fits this device: see `check --client`",
    SMTP.SENDER_NOT_ALLOWED: "set its sender address to one that the account allows, or set SMTP_SENDER",
    SMTP.RECIPIENT_NOT_ALLOWED: "the account's list of recipients does not hold this address",
    SMTP.NO_SMTPUTF8: "the provider takes addresses of letters a to z only",
    SMTP.NEEDS_SMTPUTF8: "an address has letters outside of a to z, which the device does not announce",
    SMTP.BARE_END: "the device ends its mail wrongly: put its address into SMTP_LF_END_NETWORKS",
    SMTP.STALLED: "the device or its network was too slow: try again, or raise SMTP_PROGRESS_SECONDS",
    SMTP.TOO_MANY_RECIPIENTS: "send to fewer recipients at once",
    SMTP.LOOP: "two mail servers send this message to each other: look at forwardings",
    SMTP.NOT_ALLOWED: "if the device may mail here, put its network into ALLOWED_NETWORKS",
    SMTP.TOO_MANY_CONNECTIONS: "it holds many connections open: restart it, or see MAX_CONNECTIONS_PER_ADDRESS",
}


def for_reply(reply: Reply, command: str = "") -> str:
    """The advice for this SMTP reply to this command; ``""`` where there is none."""
    return _BY_COMMAND.get((command, reply)) or _BY_REPLY.get(reply, "")


def for_wrong_protocol(protocol: str) -> str:
    """The advice for a client that spoke ``TLS`` or ``HTTP`` to the plain SMTP port."""
    if protocol == "TLS":
        return "it speaks TLS: set its SMTP encryption to none or STARTTLS, or point it to SMTPS_BIND_PORT"
    return _HTTP


def for_failure(failure: BaseException) -> str:
    """The advice for a POP3 command that failed; ``""`` where it was no fault of the device."""
    if isinstance(failure, LoginsLimited):
        return "wait some minutes, and set the right password first"
    return "its user name or password is wrong" if isinstance(failure, LoginRefused) else ""
