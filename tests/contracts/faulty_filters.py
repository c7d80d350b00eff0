"""Filters that break one promise each; see `faulty_relays`."""

from __future__ import annotations

from typing import ClassVar

import pytest

from legacy_email_proxy.contracts import Envelope, Filter, Finding, Header, Refused
from legacy_email_proxy.testing import FilterSuite


class Filters(FilterSuite):
    breaks: ClassVar[tuple[str, ...]] = ()
    filters: ClassVar[type[Filter]] = Filter

    @pytest.fixture
    async def mail_filter(self) -> Filter:
        return self.filters(None)  # type: ignore[arg-type]


class TestGoodFilter(Filters):
    class filters(Filter):
        async def reverse_path(self, envelope: Envelope) -> str:
            return "one@example.test"

        async def forward_path(self, envelope: Envelope, forward_path: str) -> str:
            raise Refused(550, "5.7.1", "nobody")

        async def header(self, envelope: Envelope, header: Header) -> None:
            header.replace("From", "one@example.test")
            header.add("X-Device", envelope.client.address)


class TestPutsBracketsAround(Filters):
    breaks = ("test_reverse_path_is_a_path_or_refused", "test_forward_path_is_a_path_or_refused")

    class filters(Filter):
        async def reverse_path(self, envelope: Envelope) -> str:
            return f"<{envelope.reverse_path}>"

        async def forward_path(self, envelope: Envelope, forward_path: str) -> str:
            return f"<{forward_path}>"


class TestForgetsTheOthers(Filters):
    breaks = ("test_forward_path_is_a_path_or_refused",)

    class filters(Filter):
        async def forward_path(self, envelope: Envelope, forward_path: str) -> str:
            return {"device@example.test": "one@example.test"}[forward_path]


class TestKnowsFromToBeThere(Filters):
    breaks = ("test_header_stays_a_header_or_is_refused",)

    class filters(Filter):
        async def header(self, envelope: Envelope, header: Header) -> None:
            header.add("X-From", header.get("From"))  # type: ignore[arg-type]


class TestProbesWithWords(Filters):
    breaks = ("test_probe_gives_findings",)

    class filters(Filter):
        async def probe(self) -> tuple[Finding, ...]:
            return ("all is well",)  # type: ignore[return-value]
