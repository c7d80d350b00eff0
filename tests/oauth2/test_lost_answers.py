"""A provider that replaces refresh tokens has forgotten the old one before its answer is here.

Whoever stops waiting for that answer, it is written down: the next renewal with the old token would be taken for theft.
"""

from __future__ import annotations

import asyncio
import signal
import smtplib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.to_thread import run_sync

from fakes.oauth2 import FakeAuthorizationServer, Status
from fakes.smtp import FakeSMTPServer
from interop.proxy import clean_environment, command, running
from legacy_email_proxy import service
from legacy_email_proxy.contracts import Disconnected, Unreachable
from legacy_email_proxy_plugins.oauth2 import OAuth2Credentials, tokens
from legacy_email_proxy_plugins.oauth2.http import Endpoints
from oauth2.support import IMAP, SMTP, credentials_for, disguises, pair, server_tls, variables
from oauth2.test_tokens import settled
from realservers.certificates import Certificates
from realservers.processes import wait_until
from smtps.support import server_tls as smtp_tls

SECONDS = 50.0
ROTATING = {"rotate": True}


async def stored(credentials: OAuth2Credentials) -> set[str]:
    record = await credentials._store().load()
    assert record.refresh_token is not None
    return {record.refresh_token.reveal()}


async def test_an_answer_after_everybody_has_stopped_waiting(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_WAITING_SECONDS", 0.1)
    async with pair(certificates.good, tmp_path, "refresh_token", server=ROTATING) as (credentials, fake):
        fake.may_answer.clear()
        for account in (IMAP, SMTP):
            refused = pytest.raises(Unreachable, match=r"no answer yet, 0.1 s after a token was asked")
            with anyio.fail_after(50), refused:
                await credentials.secret(account)
        await fake.arrived.wait()
        fake.may_answer.set()
        await settled(credentials._keeper)
        assert await stored(credentials) == fake.refresh_tokens
        monkeypatch.undo()
        assert (await credentials.secret(IMAP)).reveal() == fake.tokens[0].text
        assert fake.times("token") == 1


async def test_an_answer_after_the_time_that_other_answers_get(certificates: Certificates) -> None:
    async with FakeAuthorizationServer(tls=server_tls(certificates.good), rotate=True) as fake:
        endpoints = Endpoints(ssl.create_default_context(cafile=certificates.ca_file), 1.0, patience=SECONDS)
        form = {"grant_type": "refresh_token", "client_id": fake.client_id, "refresh_token": fake.issue_refresh_token()}
        fake.may_answer.clear()

        async def answer_late() -> None:
            await fake.arrived.wait()
            await anyio.sleep(1.1)
            fake.may_answer.set()

        async with anyio.create_task_group() as group:
            group.start_soon(answer_late)
            answer = await endpoints.post(fake.url("token"), form, once=True)
            assert answer.body["refresh_token"] in fake.refresh_tokens


UNFIT = [{"access_token": "two words"}, {"access_token": "x", "token_type": "mac"}, {}]


@pytest.mark.parametrize("body", UNFIT)
async def test_an_access_token_that_is_none_comes_with_a_new_refresh_token(
    certificates: Certificates, tmp_path: Path, body: dict[str, str]
) -> None:
    async with pair(certificates.good, tmp_path, "refresh_token", server=ROTATING) as (credentials, fake):
        new = fake.issue_refresh_token()
        fake.script[("token", 1)] = Status(200, body | {"refresh_token": new})
        for words in ("gives something that is no bearer token", "not asked again for"):
            with pytest.raises(Disconnected, match=words):
                await credentials.secret(IMAP)
        assert fake.times("token") == 1
        again = credentials_for(
            fake, certificates.ca_file, tmp_path, "refresh_token", OAUTH2_REFRESH_TOKEN=fake.forms[0]["refresh_token"]
        )
        await again.secret(IMAP)
        assert fake.forms[1]["refresh_token"] == new


async def test_nobody_is_there_for_a_renewal(certificates: Certificates) -> None:
    # It takes the connection, and no octet of it.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoints = Endpoints(ssl.create_default_context(cafile=certificates.ca_file), 0.3, patience=SECONDS)
        with anyio.fail_after(SECONDS / 2), pytest.raises(Unreachable, match="no connection to localhost within"):
            await endpoints.post(f"https://localhost:{silent.getsockname()[1]}/token", {}, once=True)


async def test_the_stop_waits_for_it(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "_CLOSING_SECONDS", 0.05)
    async with pair(certificates.good, tmp_path, "refresh_token", server=ROTATING) as (credentials, fake):
        fake.may_answer.clear()
        waiting = asyncio.create_task(credentials.secret(IMAP))
        await fake.arrived.wait()
        waiting.cancel()
        closing = asyncio.create_task(service._close(credentials))
        assert (await asyncio.wait({closing}, timeout=0.3))[1], "it goes on waiting"
        assert "waiting for the answer to a renewal: without it the consent may be lost" in caplog.text
        fake.may_answer.set()
        await closing
        assert await stored(credentials) == fake.refresh_tokens


async def test_a_second_signal_ends_the_wait(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_CLOSING_SECONDS", 0.05)
    async with pair(certificates.good, tmp_path, "refresh_token", server=ROTATING) as (credentials, fake):
        fake.may_answer.clear()
        waiting = asyncio.create_task(credentials.secret(IMAP))
        await fake.arrived.wait()
        with anyio.fail_after(50), anyio.CancelScope() as scope:
            scope.cancel()
            await service._close(credentials)
        fake.may_answer.set()
        await waiting


async def test_what_was_not_sent_is_not_waited_for(certificates: Certificates, tmp_path: Path) -> None:
    async with pair(certificates.good, tmp_path, "refresh_token", server=ROTATING) as (credentials, fake):
        beside = credentials_for(fake, certificates.ca_file, tmp_path, "refresh_token")
        async with beside._store().locked():
            waiting = asyncio.create_task(credentials.secret(IMAP))
            while credentials._keeper._task is None:  # noqa: ASYNC110
                await asyncio.sleep(0)
            with anyio.fail_after(50):
                await credentials.aclose()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert fake.times("token") == 0


@asynccontextmanager
async def backend(
    certificates: Certificates, state: Path
) -> AsyncIterator[tuple[FakeAuthorizationServer, dict[str, str]]]:
    """An account that only sends, at a provider that does not answer yet."""
    async with (
        FakeAuthorizationServer(tls=server_tls(certificates.good), rotate=True) as fake,
        FakeSMTPServer(tls=smtp_tls(certificates.good), script={"AUTH": "235 in"}, keywords=["AUTH XOAUTH2"]) as smtp,
    ):
        fake.may_answer.clear()
        given = {
            "STATE_DIR": str(state),
            "MAILDROP_PLUGIN": "none",
            "BACKEND_SMTP_HOST": "localhost",
            "BACKEND_SMTP_PORT": str(smtp.port),
            "BACKEND_SMTP_CA_FILE": str(certificates.ca_file),
            "BACKEND_SMTP_USER": "alice",
            "BACKEND_SMTP_CREDENTIALS": "oauth2",
            "LOG_LEVEL": "debug",
            "DRAIN_SECONDS": "0.1",
            "OAUTH2_REFRESH_TOKEN": fake.issue_refresh_token(),
        }
        yield fake, given | variables(fake, certificates.ca_file, "refresh_token")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("times", [1, 2])
async def test_check_is_interrupted(
    certificates: Certificates, tmp_path: Path, number: signal.Signals, times: int
) -> None:
    status = 130 if number is signal.SIGINT else 1
    async with backend(certificates, tmp_path) as (fake, given):
        process = await asyncio.create_subprocess_exec(
            *command("check"), env=clean_environment(**given), stdout=-1, stderr=-1
        )
        assert process.stderr is not None
        try:
            with anyio.fail_after(SECONDS):
                await fake.arrived.wait()
                process.send_signal(number)
                assert (await process.stderr.readline()).startswith(b"stopping; a second signal ends it at once")
                if times == 2:
                    process.send_signal(number)
                    assert await process.wait() == status
                fake.may_answer.set()
                _, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()
        assert (process.returncode, errors) == (status, b"")
        if times == 1:
            service = credentials_for(fake, certificates.ca_file, tmp_path, "refresh_token")
            assert await stored(service) == fake.refresh_tokens


async def test_serve_is_stopped(certificates: Certificates, tmp_path: Path) -> None:
    async with backend(certificates, tmp_path) as (fake, given):

        def stop_in_the_middle() -> str:
            with running(given) as proxy, smtplib.SMTP(*proxy.smtp, timeout=SECONDS) as device:
                device.ehlo()
                device.putcmd("MAIL", "FROM:<alice@example.test>")
                wait_until(fake.arrived.is_set, "the token is asked for", SECONDS)
                proxy.send(signal.SIGTERM)
                proxy.wait_for("waiting for the answer to a renewal")
                anyio.from_thread.run_sync(fake.may_answer.set)
                assert proxy.stop() == 0
                return proxy.log

        log = await run_sync(stop_in_the_middle)
        credentials = credentials_for(fake, certificates.ca_file, tmp_path, "refresh_token")
        assert await stored(credentials) == fake.refresh_tokens, log
        secrets = [*fake.refresh_tokens, *fake.spent, *(token.text for token in fake.tokens)]
        assert len(secrets) == 3
        assert not [form for secret in secrets for form in disguises(secret) if form in log]
