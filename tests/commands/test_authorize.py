"""The command ``authorize`` as a person meets it: a process of its own, with a terminal's lines in and out."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
import termios
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import anyio
from anyio.to_thread import run_sync

from fakes.oauth2 import FakeAuthorizationServer
from interop.proxy import clean_environment, command, run, running
from oauth2.support import IMAP, Person, credentials_for, server_tls, variables
from realservers.certificates import Certificates
from waiting import until

SECONDS = 50.0


@asynccontextmanager
async def provider(
    certificates: Certificates, state: Path, grant: str
) -> AsyncIterator[tuple[FakeAuthorizationServer, dict[str, str]]]:
    async with FakeAuthorizationServer(tls=server_tls(certificates.good)) as fake:
        given = {"STATE_DIR": str(state), "BACKEND_SMTP_CREDENTIALS": "oauth2", "MAILDROP_PLUGIN": "none"}
        yield fake, given | variables(fake, certificates.ca_file, grant)


@asynccontextmanager
async def authorizing(
    given: Mapping[str, str], stdin: int = asyncio.subprocess.PIPE, arguments: Sequence[str] = ()
) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command("authorize", *arguments), env=clean_environment(**given), stdin=stdin, stdout=pipe, stderr=pipe
    )
    try:
        with anyio.fail_after(SECONDS):
            yield process
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def said(process: asyncio.subprocess.Process, pattern: str) -> str:
    """Read until this is said."""
    assert process.stdout is not None
    text = ""
    while not (found := re.search(pattern, text)):
        octets = await process.stdout.read(4096)
        assert octets, text
        text += octets.decode()
    return found[1]


async def test_a_browser_elsewhere(certificates: Certificates, tmp_path: Path) -> None:
    async with provider(certificates, tmp_path, "authorization_code") as (fake, given):
        async with authorizing(given) as process:
            url = await said(process, r"(?s)(https://\S+code_challenge\S+)\s.*Paste that address here: ")
            output, errors = await process.communicate(fake.browse(url).encode() + b"\n")
        assert (process.returncode, errors) == (0, b"")
        assert b"the token for account default is stored" in output
        service = credentials_for(fake, certificates.ca_file, tmp_path, "authorization_code")
        assert (await service.secret(IMAP)).reveal() == fake.tokens[0].text
        shown = await run_sync(lambda: run("authorize", "--status", **given))
        assert shown.returncode == 0
        assert re.search(r"  expires       20\d\d-.*\n  last refresh  20\d\d-.*\n  last error    -\n", shown.stdout)


async def test_a_code_to_type_elsewhere(certificates: Certificates, tmp_path: Path) -> None:
    async with provider(certificates, tmp_path, "device_code") as (fake, given):
        async with authorizing(given) as process:
            fake.approve(await said(process, r"enter the code (\S+)\n"))
            await process.wait()
        assert process.returncode == 0


async def test_the_status_is_that_of_the_running_service(certificates: Certificates, tmp_path: Path) -> None:
    async with provider(certificates, tmp_path, "authorization_code") as (fake, given):
        backend = {"BACKEND_SMTP_HOST": "localhost", "BACKEND_SMTP_USER": "alice"}
        with ExitStack() as stack:
            proxy = await run_sync(lambda: stack.enter_context(running(given | backend)))
            await run_sync(lambda: proxy.wait_for(" started "))
            # Of the service's settings only STATE_DIR is known here.
            before = await run_sync(lambda: run("authorize", "--status", STATE_DIR=str(tmp_path)))
            assert before.returncode == 1
            assert "account default\n  grant         authorization_code\n" in before.stdout
            assert "  last error    nobody has consented yet -> run: " in before.stdout
            await credentials_for(fake, certificates.ca_file, tmp_path, "authorization_code").authorize(
                Person(fake.browse), listen=False
            )
            after = await run_sync(lambda: run("authorize", "--status", STATE_DIR=str(tmp_path)))
            assert after.returncode == 0
            assert re.search(r"  expires       20\d\d-.*\n  last refresh  20\d\d-.*\n  last error    -\n", after.stdout)
            unknown = await run_sync(lambda: run("authorize", "--status", "ann", STATE_DIR=str(tmp_path)))
            assert unknown.returncode == 2
            await run_sync(stack.close)
        # Without a service the command needs the settings itself.
        assert (await run_sync(lambda: run("authorize", "--status", STATE_DIR=str(tmp_path)))).returncode == 2
        assert (await run_sync(lambda: run("authorize", "--status", **given))).returncode == 0


async def test_what_goes_wrong_is_one_line(certificates: Certificates, tmp_path: Path) -> None:
    async with provider(certificates, tmp_path, "authorization_code") as (_, given):
        async with authorizing(given) as process:
            _, errors = await process.communicate(b"http://localhost/?code=1\n")
        assert process.returncode == 1
        assert errors.startswith(b"legacy-email-proxy: this address does not belong to this request")
        assert errors.count(b"\n") == 1
        shown = await run_sync(lambda: run("authorize", "--status", **given))
        assert shown.returncode == 1
        assert "  expires       -\n  last refresh  -\n  last error    nobody has consented yet -> run: " in shown.stdout


async def test_an_interrupt_while_it_waits_for_a_line(certificates: Certificates, tmp_path: Path) -> None:
    async with provider(certificates, tmp_path, "authorization_code") as (_, given):
        theirs, ours = os.pipe()
        try:
            async with authorizing(given, theirs) as process:
                await said(process, "(here): ")
                os.write(ours, b"half a line")
                # Taken out of the pipe: the thread that an interpreter that ends would wait for wants the rest.
                await until(lambda: fcntl.ioctl(theirs, termios.FIONREAD, bytes(4)) == bytes(4))
                process.send_signal(signal.SIGINT)
                assert await process.wait() == 130
                _, errors = await process.communicate()
        finally:
            os.close(ours)
            os.close(theirs)
        assert b"Traceback" not in errors


def test_nothing_to_authorize() -> None:
    done = run("authorize")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "legacy-email-proxy: BACKEND_IMAP_CREDENTIALS, BACKEND_SMTP_CREDENTIALS: nothing here"
    )


def test_mistakes_are_lines_and_each_is_told_once() -> None:
    given = {"BACKEND_IMAP_CREDENTIALS": "oauth2", "BACKEND_SMTP_CREDENTIALS": "oauth2", "OAUTH2_SCOP": "x"}
    hosts = {"BACKEND_IMAP_HOST": "h", "BACKEND_SMTP_HOST": "h", "BACKEND_IMAP_USER": "u", "BACKEND_SMTP_USER": "u"}
    for name, more in (("authorize", {}), ("serve", hosts)):
        done = run(name, **given, **more)
        assert done.returncode == 2
        assert done.stderr.count("OAUTH2_GRANT: not set") == 1
    assert "OAUTH2_SCOP: no such setting, did you mean OAUTH2_SCOPE?" in done.stderr


def test_a_credentials_plugin_that_is_not_there() -> None:
    done = run("check", MAILDROP_PLUGIN="none", BACKEND_SMTP_HOST="h", BACKEND_SMTP_CREDENTIALS="oauth")
    assert done.returncode == 2
    assert "BACKEND_SMTP_CREDENTIALS: there is no credentials plugin 'oauth', did you mean 'oauth2'" in done.stderr
    assert done.stderr.count("there is no credentials plugin") == 1
