"""The promises of :class:`legacy_email_proxy.contracts.Filter`, each a test."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ..contracts import NULL_REVERSE_PATH, Envelope, Filter, Finding, Header, Refused
from .bench import CLIENT, Suite, bounded

__all__ = ("FilterSuite",)

_PATHS = {
    "ordinary": "device@example.test",
    "no domain": "scanner",
    "an address literal": "scanner@[192.0.2.7]",
    "quoted": '"the scanner"@example.test',
    "signs": "a+b=c/d!e@example.test",
    "long": "x" * 64 + "@" + "y" * 180 + ".test",
}
_HEADERS = {
    "ordinary": b"From: Scanner <device@example.test>\r\nTo: one@example.test\r\nSubject: a scan\r\n",
    "none": b"",
    "folded": b"From:\r\n Scanner\r\n\t<device@example.test>\r\nTo: one@example.test,\r\n two@example.test\r\n",
    "8-bit": b"From: B\xfcro <device@example.test>\r\nSubject: \xff\xfe\r\n",
    "UTF-8": "From: Büro <device@example.test>\r\nSubject: Grüße\r\n".encode(),
    "encoded words": b"From: =?utf-8?q?B=C3=BCro=2C_3?= <device@example.test>\r\nSubject: =?utf-8?b?4pyT?=\r\n",
    "comma in a name": b'From: "Miller, Ann" <ann@example.test>, Bob <bob@example.test>\r\n',
    "group": b"From: devices: scanner@example.test;\r\nTo: undisclosed-recipients:;\r\n",
    "no address": b"From: Scanner\r\nTo:\r\nSender: <>\r\n",
    "empty values": b"From:\r\nTo: \r\nSubject:\r\n \r\nDate:\r\n",
    "twice": b"From: one@example.test\r\nFrom: two@example.test\r\nSubject: 1\r\nSubject: 2\r\n",
    "obsolete": b"FROM : device@example.test\r\nsubject\t: x\r\n",
    "NUL": b"From: a\0b <device@example.test>\r\nTo: \0\r\nSubject: \0\r\n",
    "open": b'From: "Scanner <device@example.test\r\nTo: (one@example.test\r\n',
    "long": b"From: " + b"x" * 100_000 + b" <device@example.test>\r\nSubject: " + b"y" * 100_000 + b"\r\n",
    "many": b"X-Line: 1\r\n" * 20_000,
    "no line end": b"From: device@example.test",
}
_BLOCK = re.compile(rb"(?:[!-9;-~]+[ \t]*:[^\r\n]*(?:\r\n[ \t][^\r\n]*)*(?:\r\n|\Z))*")
_NO_PATH = re.compile(r"[\x00-\x1f\x7f<>]")


@pytest.mark.anyio
class FilterSuite(Suite):
    """Subclass it as ``TestMyFilter`` and write one fixture.

    ``mail_filter`` gives the filter, made in the event loop (``async def``), and closes it after the test.
    """

    @pytest.fixture
    def mail_filter(self) -> Any:
        """The filter to test."""
        raise NotImplementedError("write a fixture `mail_filter`")

    @pytest.mark.parametrize("name", [*_PATHS, "null"])
    @bounded
    async def test_reverse_path_is_a_path_or_refused(self, mail_filter: Filter, name: str) -> None:
        given = _PATHS.get(name, NULL_REVERSE_PATH)
        try:
            path = await mail_filter.reverse_path(Envelope(CLIENT, given, given))
        except Refused:
            return
        assert isinstance(path, str)
        assert not _NO_PATH.search(path)

    @pytest.mark.parametrize("name", _PATHS)
    @bounded
    async def test_forward_path_is_a_path_or_refused(self, mail_filter: Filter, name: str) -> None:
        try:
            path = await mail_filter.forward_path(Envelope(CLIENT, "", ""), _PATHS[name])
        except Refused:
            return
        assert isinstance(path, str)
        assert path
        assert not _NO_PATH.search(path)

    @pytest.mark.parametrize("reverse_path", ["device@example.test", NULL_REVERSE_PATH], ids=["sender", "null"])
    @pytest.mark.parametrize("name", _HEADERS)
    @bounded
    async def test_header_stays_a_header_or_is_refused(self, mail_filter: Filter, name: str, reverse_path: str) -> None:
        header = Header(_HEADERS[name])
        try:
            await mail_filter.header(Envelope(CLIENT, reverse_path, reverse_path, ("one@example.test",)), header)
        except Refused:
            return
        assert _BLOCK.fullmatch(header.octets)

    @bounded
    async def test_probe_gives_findings(self, mail_filter: Filter) -> None:
        assert all(isinstance(finding, Finding) for finding in await mail_filter.probe())
