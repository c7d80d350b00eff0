"""The messages that wait in the demo's mailbox."""

from __future__ import annotations

__all__ = ("MESSAGES",)


def _message(text: str) -> bytes:
    return text.lstrip("\n").replace("\n", "\r\n").encode()


MESSAGES = (
    _message("""
From: Robin <robin@example.com>
To: Old Device <device@example.org>
Subject: Welcome
Date: Thu, 01 Jan 2026 09:00:00 +0000
Message-ID: <welcome@example.com>

Hello!

This message lies on an IMAPS server, behind a login and TLS.
You read it over plain POP3, as a device of the 1990s would.
"""),
    _message("""
From: Kim <kim@example.com>
To: Old Device <device@example.org>
Subject: Lines that begin with a dot
Date: Thu, 01 Jan 2026 09:05:00 +0000
Message-ID: <dots@example.com>

A line with nothing but a dot ends a message in POP3 and SMTP:
.
Yet that one arrived, and so does this:
..two dots at the start, neither more nor fewer.
"""),
    _message("""
From: =?UTF-8?Q?Zo=C3=AB?= <zoe@example.com>
To: Old Device <device@example.org>
Subject: =?UTF-8?Q?Gr=C3=BC=C3=9Fe_aus_K=C3=B6ln?=
Date: Thu, 01 Jan 2026 09:10:00 +0000
Message-ID: <greetings@example.com>
MIME-Version: 1.0
Content-Type: text/plain; charset=UTF-8
Content-Transfer-Encoding: 8bit

Grüße aus Köln! 8-bit octets pass through as they are: ✓ naïve café, 10 €.
"""),
)
"""Whole messages with CRLF line ends: a plain one, one with lines that begin with a dot, one with an 8-bit body."""
