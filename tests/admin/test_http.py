"""The admin listener over a real socket: who reads what, and what a hostile client can not do."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from admin.support import ProbedRelay, composition
from legacy_email_proxy import log
from legacy_email_proxy.admin.http import AdminServer
from legacy_email_proxy.admin.outcomes import Outcomes
from legacy_email_proxy.admin.probes import Probes
from legacy_email_proxy.admin.readiness import Readiness
from legacy_email_proxy.contracts import Finding, Level
from legacy_email_proxy.listeners import bind
from legacy_email_proxy.reloading import Current

PASSWORD = {"ADMIN_PASSWORD": "s3cret"}
SCRAPER = {**PASSWORD, "ADMIN_METRICS_NETWORKS": "127.0.0.0/8"}


class Served:
    def __init__(self, port: int, relay: ProbedRelay, readiness: Readiness) -> None:
        self.port = port
        self.relay = relay
        self.readiness = readiness

    async def get(self, path: str, *headers: str, method: str = "GET") -> tuple[int, str]:
        """Status and body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]
        writer.write("\r\n".join(lines).encode())
        async with asyncio.timeout(50):
            head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        return int(head.split()[1]), body


@asynccontextmanager
async def serving(folder: Path, **environ: str) -> AsyncIterator[Served]:
    relay = ProbedRelay()
    current = Current(composition(folder, relay, environ=environ), lambda _: None)
    outcomes = Outcomes()
    probes = Probes(outcomes)
    readiness = Readiness(lambda: current.composition, outcomes, probes)
    server = AdminServer(current, readiness, outcomes)
    sockets = await asyncio.to_thread(bind, "ADMIN", ["127.0.0.1"], 0)
    port = sockets[0].getsockname()[1]
    server.start(sockets)
    try:
        yield Served(port, relay, readiness)
    finally:
        await server.aclose()
        await probes.aclose()


def basic(password: str, user: str = "any") -> str:
    return f"Authorization: Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


async def test_without_a_password(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        assert await served.get("/livez") == (200, "ok\n")
        status, body = await served.get("/readyz")
        assert (status, body.splitlines()[:2]) == (200, ["ready", "ok     backend smtp: works (0 s ago)"])
        status, body = await served.get("/readyz", "Accept: application/json")
        assert (status, json.loads(body)["ready"]) == (200, True)
        status, body = await served.get("/metrics")
        assert status == 200
        assert "\nlegacy_email_proxy_build_info{" in body
        assert (await served.get("/nothing"))[0] == 404
        assert (await served.get("/readyz", method="POST"))[0] == 405
        assert (await served.get("/readyz", method="HEAD")) == (200, "")


async def test_what_is_wrong_is_503_with_its_reason(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        served.relay.found = [Finding(Level.BAD, "wrong password")]
        assert await served.get("/livez") == (200, "ok\n")
        status, body = await served.get("/readyz")
        assert (status, body.splitlines()[:2]) == (503, ["not ready", "FAILED backend smtp: wrong password (0 s ago)"])
        # Behind the other proxy it is the same, so a balancer must not take this one away.
        assert await served.get("/readyz/service") == (200, "ok\n")


async def test_a_service_that_stops_still_answers(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        served.readiness.stopping = True
        assert await served.get("/readyz") == (503, "not ready\nFAILED service: the service is stopping\n")
        assert await served.get("/readyz/service") == (503, "stopping\n")
        assert await served.get("/livez") == (200, "ok\n")


async def test_one_that_ends_before_it_has_begun_leaves_nothing_open(tmp_path: Path) -> None:
    current = Current(composition(tmp_path, ProbedRelay(), environ={}), lambda _: None)
    outcomes = Outcomes()
    probes = Probes(outcomes)
    server = AdminServer(current, Readiness(lambda: current.composition, outcomes, probes), outcomes)
    sockets = await asyncio.to_thread(bind, "ADMIN", ["127.0.0.1"], 0)
    address = sockets[0].getsockname()
    server.start(sockets)
    await server.aclose()
    await probes.aclose()
    assert sockets[0].fileno() == -1
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)


async def test_with_a_password(tmp_path: Path) -> None:
    async with serving(tmp_path, **PASSWORD) as served:
        assert await served.get("/livez") == (200, "ok\n")
        # A balancer learns whether, and not why.
        assert await served.get("/readyz") == (200, "ready\n")
        assert await served.get("/readyz/service") == (200, "ok\n")
        assert (await served.get("/metrics"))[0] == 401
        assert (await served.get("/metrics", basic("wrong")))[0] == 401
        assert (await served.get("/readyz", basic("wrong")))[0] == 401
        for malformed in ("Basic !!!", "Basic", "Basic eA==", "Bearer s3cret", "Basic /w=="):
            assert (await served.get("/metrics", f"Authorization: {malformed}"))[0] == 401
        assert (await served.get("/metrics", basic("s3cret")))[0] == 200
        assert (await served.get("/readyz", basic("s3cret")))[1].count("\n") > 1


async def test_a_scraper_needs_none_and_reads_the_figures_only(tmp_path: Path) -> None:
    async with serving(tmp_path, **SCRAPER) as served:
        assert (await served.get("/metrics"))[0] == 200
        assert await served.get("/readyz") == (200, "ready\n")
        # The header of a proxy is not believed.
        assert (await served.get("/metrics", "X-Forwarded-For: 203.0.113.1"))[0] == 200
    async with serving(tmp_path, **PASSWORD, ADMIN_METRICS_NETWORKS="203.0.113.0/24") as served:
        assert (await served.get("/metrics", "X-Forwarded-For: 203.0.113.1"))[0] == 401


async def test_guessing_is_slowed_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("legacy_email_proxy.guessing.PATIENCE_SECONDS", 0.0)
    async with serving(tmp_path, **PASSWORD) as served:
        statuses = [(await served.get("/metrics", basic(f"guess {number}")))[0] for number in range(10)]
    assert statuses[0] == 401
    assert statuses[-1] == 429


async def test_a_wrong_password_is_told_and_not_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(tmp_path, **PASSWORD) as served:
        await served.get("/metrics", basic("hunter2"))
    (record,) = [record for record in caplog.records if record.getMessage() == "admin login failed"]
    assert log.facts_of(record) == {"client": "127.0.0.1", "cause": "wrong password (see ADMIN_PASSWORD)"}
    assert "hunter2" not in caplog.text


async def test_a_long_header_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"GET /livez HTTP/1.1\r\nX-Long: " + b"x" * 20_000)
        async with asyncio.timeout(50):
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()


async def test_signals_stay_the_services(tmp_path: Path) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM):
        before = signal.getsignal(signal.SIGTERM)
        async with serving(tmp_path) as served:
            await served.get("/livez")
            assert signal.getsignal(signal.SIGTERM) is before
