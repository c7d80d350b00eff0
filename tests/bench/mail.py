"""The messages of the benchmarks: an ordinary header, and as many octets of lines as the work wants."""

from __future__ import annotations

from collections.abc import Iterator

HEADER = (
    b"Return-Path: <scanner@example.test>\r\n"
    b"Received: from scanner.example.test (scanner.example.test [192.0.2.7])\r\n"
    b"\tby mail.example.test with ESMTP id 4ABCDEF for <office@example.test>;\r\n"
    b"\tMon, 5 Jan 2026 10:00:00 +0100 (CET)\r\n"
    b"From: Scanner <scanner@example.test>\r\n"
    b"To: Office <office@example.test>\r\n"
    b"Subject: message number %08d\r\n"
    b"Date: Mon, 5 Jan 2026 10:00:00 +0100\r\n"
    b"Message-ID: <%08d.scanner@example.test>\r\n"
    b"MIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=us-ascii\r\n"
    b"\r\n"
)
HEADER_OCTETS = len(HEADER % (0, 0))
LINE = b"All work and no play makes the scanner a dull device, and its mail no better.\r\n"


def messages(count: int, octets: int) -> Iterator[bytes]:
    """That many messages of that many octets each; less than the header's they never are."""
    lines = max(0, octets - HEADER_OCTETS)
    body = (LINE * (lines // len(LINE) + 1))[: max(0, lines - 2)] + b"\r\n" * (lines > 1)
    for number in range(count):
        yield HEADER % (number, number) + body
