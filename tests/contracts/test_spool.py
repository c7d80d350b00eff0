"""The spool keeps the relay contract, seen from the device's side to the other end of its next relay."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from legacy_email_proxy.testing import Delivered, RelaySuite
from legacy_email_proxy_plugins.spool import SpoolRelay
from realservers.postgres import Postgres
from spool.support import Backend, spooling


class TestSpool(RelaySuite):
    @pytest.fixture
    def backend(self) -> Backend:
        return Backend()

    @pytest.fixture
    async def relay(self, backend: Backend, tmp_path: Path) -> AsyncIterator[SpoolRelay]:
        async with spooling(backend, tmp_path) as spool:
            yield spool

    @pytest.fixture
    def delivered(self, backend: Backend) -> Callable[[], Awaitable[Sequence[Delivered]]]:
        async def look() -> Sequence[Delivered]:
            return [Delivered(each.content, each.reverse_path, each.forward_paths) for each in backend.delivered]

        return look


class TestSpoolInPostgres(TestSpool):
    @pytest.fixture
    async def relay(self, backend: Backend, tmp_path: Path, postgres: Postgres) -> AsyncIterator[SpoolRelay]:
        async with spooling(backend, tmp_path, SPOOL_URL=postgres.new_database()) as spool:
            yield spool
