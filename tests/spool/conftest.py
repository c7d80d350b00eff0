"""What a test of the spool needs of its store; `store` runs it on each of them."""

from __future__ import annotations

import pytest

from legacy_email_proxy_plugins.spool.delivery import Delivery
from realservers.postgres import Postgres
from spool import support
from spool.stores import PostgreSQL, SQLite, TestedStore
from spool.support import Clock


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> TestedStore:
    """An empty store, which every spool of the test uses that names no other."""
    tested: TestedStore = SQLite()
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        tested = PostgreSQL(server.new_database())
    monkeypatch.setattr(support, "store", tested)
    return tested


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("legacy_email_proxy_plugins.spool.spool.steady_clock", lambda: clock)
    monkeypatch.setitem(Delivery.__init__.__kwdefaults__ or {}, "chance", lambda: 0.0)
    return clock
