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
_PIPE_OCTETS = 1 << 16
"""What a pipe holds."""


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
        with _Errors() as errors:
            process = await self._started(alert, errors.written)
            try:
                async with asyncio.timeout(self._seconds):
                    status = await process.wait()
            except BaseException as error:
                # With all that it has started, but for what has made itself a session of its own.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
                if not isinstance(error, TimeoutError):
                    raise
                raise Failure(f"it took longer than {self._seconds:g} s and was killed", look_at=self.name) from None
            if status:
                said = errors.said()
                raise Failure(f"exit status {status}" + (f": {said}" if said else ""), look_at=self.name)
        return "exit status 0"

    async def _started(self, alert: Alert, errors: int) -> asyncio.subprocess.Process:
        kept = {name: text for name, text in os.environ.items() if name.removesuffix("_FILE") not in self._withheld}
        told = {
            "TROUBLE_TITLE": alert.title, "TROUBLE_TEXT": alert.text, "TROUBLE_SEVERITY": alert.severity,
            "TROUBLE_JSON": json.dumps(alert.plain),
        }  # fmt: skip
        # In memory: the trouble may be a full disk.
        with os.fdopen(os.memfd_create("alert"), "wb") as text:
            text.write(f"{alert.text}\n".encode())
            text.seek(0)
            try:
                return await asyncio.create_subprocess_exec(
                    *self._arguments, env={**kept, **told}, start_new_session=True,
                    stdin=text, stdout=asyncio.subprocess.DEVNULL, stderr=errors,
                )  # fmt: skip
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                raise Failure(f"it can not be run: {reason}", look_at=self.name) from None

    async def aclose(self) -> None:
        """There is nothing to close."""


class _Errors:
    """The end of what a command writes to standard error, however much that is.

    With a pipe of asyncio's own we would wait for each process that has it open: also for one that the command has left
    behind, and that never ends.
    """

    def __init__(self) -> None:
        self._read_end, self.written = os.pipe()
        self._kept = b""

    def __enter__(self) -> _Errors:
        os.set_blocking(self._read_end, False)
        asyncio.get_running_loop().add_reader(self._read_end, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._read_end)
        os.close(self._read_end)
        os.close(self.written)

    def _read(self) -> None:
        with suppress(BlockingIOError):
            self._kept = (self._kept + os.read(self._read_end, _PIPE_OCTETS))[-_SAID_OCTETS:]

    def said(self) -> str:
        """What there is now."""
        self._read()
        return printable(self._kept.decode("utf-8", "replace"), limit=_SAID_OCTETS)
