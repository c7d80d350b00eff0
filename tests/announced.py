"""What the proxy says of itself before anybody asked for mail: greetings, EHLO's keywords, CAPA's lines.

They stand in dozens of dialogues, and here in one place. A transcript writes ``S: {GREETING}``, ``S: {EHLO}``,
``S: {EHLO AUTH}`` (AUTH is offered) or ``S: {CAPA}``; each stands for all lines of that reply.
"""

from __future__ import annotations

POP3_GREETING = "+OK POP3 server ready"
SMTP_GREETING = "220 proxy.test ESMTP Legacy Email Proxy"

KEYWORDS = ("PIPELINING", "SIZE 1048576", "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING", "LIMITS RCPTMAX=1000")
"""Of EHLO, always, in front of what depends on settings and backend, and of HELP."""

AUTH = ("AUTH LOGIN PLAIN", "AUTH=LOGIN PLAIN")

CAPABILITIES = ("TOP", "USER", "SASL PLAIN LOGIN", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING")
"""Of CAPA, always, in front of what depends on settings, and of IMPLEMENTATION."""


def _ehlo(*more: str) -> list[str]:
    return ["250-proxy.test", *(f"250-{keyword}" for keyword in (*KEYWORDS, *more)), "250 HELP"]


SMTP = {"{GREETING}": [SMTP_GREETING], "{EHLO}": _ehlo(), "{EHLO AUTH}": _ehlo(*AUTH)}
POP3 = {
    "{GREETING}": [POP3_GREETING],
    "{CAPA}": ["+OK capabilities", *CAPABILITIES, "IMPLEMENTATION test", "."],
    "{CAPA EXPIRE}": ["+OK capabilities", *CAPABILITIES, "EXPIRE 30", "IMPLEMENTATION test", "."],
}
