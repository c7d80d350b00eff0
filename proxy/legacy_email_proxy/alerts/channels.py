"""The ways by which the operator is told: a webhook and a command of the operator's; for the third one see ``mail``.

Each has little time and is stopped then, so that no receiver, however stuck, holds up the rest.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import ssl
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Protocol
from urllib.parse import urlsplit

from ..contracts import Failure, Secret
from ..replies import printable
from .alert import Alert

__all__ = ("Channel", "Command", "Webhook")

_WEBHOOK_SECONDS = 20.0
_COMMAND_SECONDS = 30.0
_SAID_OCTETS = 400


class Channel(Protocol):
    """One way. ``name`` is the variable that sets it."""

    name: str

    async def send(self, alert: Alert) -> str:
        """Tell it, and return what the receiver said. Raises :class:`Failure`, or anything else for a bug."""

    async def aclose(self) -> None:
        """Close what it holds."""


class Webhook:
    """POSTs JSON to an address. The address itself is a secret: whoever has it can write there."""

    name = "ALERT_WEBHOOK_URL"

    def __init__(self, url: Secret, seconds: float = _WEBHOOK_SECONDS) -> None:
        self._url = url
        self._seconds = seconds

    async def send(self, alert: Alert) -> str:
        """See :meth:`Channel.send`: any status of 200 to 299 is success."""
        host = urlsplit(self._url.reveal()).hostname
        try:
            async with asyncio.timeout(self._seconds):
                status = await self._post(alert.plain)
                if status == 400:
                    # Some chats (Google's) refuse fields that they do not know.
                    status = await self._post({"text": alert.text})
        except TimeoutError:
            raise Failure(f"{host} did not answer within {self._seconds:g} s", look_at=self.name) from None
        if not 200 <= status < 300:
            raise Failure(f"{host} answered with status {status}", look_at=self.name)
        return f"status {status}"

    async def _post(self, content: Mapping[str, object]) -> int:
        # Loaded only where it is needed: it takes ten times the memory of all of our own code.
        import httpx2

        try:
            tls = await asyncio.to_thread(ssl.create_default_context)
            async with (
                httpx2.AsyncClient(verify=tls, timeout=self._seconds, follow_redirects=False) as client,
                client.stream("POST", self._url.reveal(), json=content) as response,
            ):
                # What stands in the answer is of no interest, and might be endless.
                return int(response.status_code)
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, ImportError, OSError) as error:
            # The library's own text may hold the whole address.
            host = urlsplit(self._url.reveal()).hostname
            raise Failure(f"no connection to {host}: {_reason(error)}", look_at=self.name) from None

    async def aclose(self) -> None:
        """There is nothing to close."""


def _reason(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate does not verify: {cause.verify_message}"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


class Command:
    """Runs a command without a shell: the text is on its standard input, and in its environment as ``TROUBLE_TEXT``.

    Of the proxy's environment it gets all but the ``withheld`` variables: the proxy's own, with their passwords.
    """

    name = "ALERT_COMMAND"

    def __init__(self, command: str, withheld: Collection[str], seconds: float = _COMMAND_SECONDS) -> None:
        self._arguments = shlex.split(command)
        self._withheld = withheld
        self._seconds = seconds

    async def send(self, alert: Alert) -> str:
        """See :meth:`Channel.send`: exit status 0 is success."""
        kept = {name: text for name, text in os.environ.items() if name.removesuffix("_FILE") not in self._withheld}
        told = {
            "TROUBLE_TITLE": alert.title, "TROUBLE_TEXT": alert.text, "TROUBLE_SEVERITY": alert.severity,
            "TROUBLE_JSON": json.dumps(alert.plain),
        }  # fmt: skip
        try:
            process = await asyncio.create_subprocess_exec(
                *self._arguments, env={**kept, **told}, start_new_session=True,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise Failure(f"it can not be run: {reason}", look_at=self.name) from None
        try:
            async with asyncio.timeout(self._seconds):
                said, _ = await asyncio.gather(_last_of(process.stderr), _feed(process.stdin, alert.text))
                status = await process.wait()
        except BaseException as error:
            # With all that it has started.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            if not isinstance(error, TimeoutError):
                raise
            raise Failure(f"it took longer than {self._seconds:g} s and was killed", look_at=self.name) from None
        if status:
            words = f"exit status {status}" + (f": {said}" if said else "")
            raise Failure(words, look_at=self.name)
        return "exit status 0"

    async def aclose(self) -> None:
        """There is nothing to close."""


async def _feed(stream: asyncio.StreamWriter | None, text: str) -> None:
    if stream is not None:
        # A command need not read it.
        with suppress(BrokenPipeError, ConnectionResetError):
            stream.write(f"{text}\n".encode())
            await stream.drain()
        stream.close()


async def _last_of(stream: asyncio.StreamReader | None) -> str:
    """The end of what it writes to standard error, however much that is."""
    kept = b""
    while stream is not None and (octets := await stream.read(4096)):
        kept = (kept + octets)[-_SAID_OCTETS:]
    return printable(kept.decode("utf-8", "replace"), limit=_SAID_OCTETS)
