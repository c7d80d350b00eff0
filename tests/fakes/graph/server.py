"""The fake itself: which request is which, who may make it, and what a script does instead of the answer.

A step is the name of one kind of request: the `_do_…` methods of `sending` and `reading`. A script gives an action.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from fakes.graph.reading import Reading
from fakes.graph.sending import Sending
from fakes.graph.state import Refusal
from fakes.graph.web import Request, Response, read_request, write_response
from fakes.server import FakeServer, Step

__all__ = ("Broken", "Drop", "FakeGraph", "Hang", "Instead", "Status")

CONCURRENT = 4
"""[doc] throttling-limits, Outlook: four requests at once for a mailbox."""


@dataclass(frozen=True)
class Status:
    """Answer with this error. With `done` what was asked for has happened all the same."""

    status: int
    code: str = ""
    message: str = "as the script says"
    retry_after: str | int | None = None
    done: bool = False


@dataclass(frozen=True)
class Drop:
    """Close without an answer; `done` as above."""

    done: bool = False


@dataclass(frozen=True)
class Hang:
    """Never answer; `done` as above."""

    done: bool = False


@dataclass(frozen=True)
class Broken:
    """Send so many octets of the answer's body, and close."""

    octets: int


@dataclass(frozen=True)
class Instead:
    """Answer 200 with this body, as something on the way may."""

    body: bytes


Action = Status | Drop | Hang | Broken | Instead


class FakeGraph(Sending, Reading, FakeServer[Action]):
    """One mailbox of one tenant, for one application."""

    def __init__(
        self,
        *,
        tls: ssl.SSLContext,
        address: str = "scanner@firm.example",
        token: str = "the-token",
        permissions: tuple[str, ...] = ("Mail.Send", "Mail.ReadWrite"),
        send_as: tuple[str, ...] = (),
        message_octets: int = 35 * 1024 * 1024,
        page: int = 10,
        keep: int = 64 * 1024 * 1024,
        script: Mapping[Step, Action] | None = None,
    ) -> None:
        Sending.__init__(self, address, send_as, message_octets, page)
        FakeServer.__init__(self, tls, script)
        self.tokens = {token}
        self.permissions = set(permissions)
        self.keep = keep
        self.requests: list[Request] = []
        self.at_once = 0
        self.most_at_once = 0
        self.connections = 0
        self.slow_seconds = 0.0
        """How long each answer takes, so that requests overlap."""
        self._sessions = {}
        self._delta_from = {}

    async def listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self.tls, limit=1 << 18)

    # Serving.

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.start(self._serve(reader, writer), lambda: writer.transport.abort())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await read_request(reader, self.keep)) is not None:
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                try:
                    if not await self._exchange(request, reader, writer):
                        return
                finally:
                    self.at_once -= 1
                    await self.notice()
        except (OSError, asyncio.IncompleteReadError):
            pass

    async def _exchange(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request. Returns whether the connection stays open."""
        self.requests.append(request)
        step, arguments = _step(request)
        action = self.act(step)
        await self.notice()
        if self.slow_seconds:
            await asyncio.sleep(self.slow_seconds)
        if isinstance(action, Instead):
            response = Response(200, action.body, {"Content-Type": "text/html"})
        elif action is None or isinstance(action, Broken) or action.done:
            response = self._answer(step, request, arguments)
        if isinstance(action, Drop):
            return False
        if isinstance(action, Hang):
            await reader.read(1)
            return False
        if isinstance(action, Status):
            after = {} if action.retry_after is None else {"Retry-After": str(action.retry_after)}
            response = Refusal(action.status, action.code, action.message, after).response
        await write_response(writer, response, cut=action.octets if isinstance(action, Broken) else None)
        return action is None or isinstance(action, (Status, Instead))

    def _answer(self, step: str, request: Request, arguments: tuple[str, ...]) -> Response:
        try:
            if self.at_once > CONCURRENT:
                text = "Application is over its MailboxConcurrency limit."  # Microsoft Q&A 1660054
                raise Refusal(429, "ApplicationThrottled", text, {"Retry-After": "1"})
            if step not in ("upload", "upload_status"):
                self._authorize(step, request, arguments)
            answer: Response = getattr(self, f"_do_{step}")(request, *arguments)
        except Refusal as refusal:
            return refusal.response
        return answer

    def _authorize(self, step: str, request: Request, arguments: tuple[str, ...]) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or token not in self.tokens:
            raise Refusal(401, "InvalidAuthenticationToken", "Access token has expired or is not yet valid.")
        user = arguments[0]
        if user not in ("me", self.mailbox.address):
            raise Refusal(404, "ErrorInvalidUser", f"The requested user '{user}' is invalid.")
        needed = "Mail.Send" if step in ("sendMail", "send") else "Mail.ReadWrite"
        if needed not in self.permissions:
            raise Refusal(403, "ErrorAccessDenied", "Access is denied. Check credentials and try again.")


_USER = r"/v1\.0/(?:users/([^/]+)|(me))"
_ID = r"(.+)"
_STEPS: tuple[tuple[str, str, str], ...] = (
    ("POST", rf"{_USER}/sendMail", "sendMail"),
    ("POST", rf"{_USER}/messages", "draft"),
    ("POST", rf"{_USER}/mailFolders/drafts/messages", "draft"),
    ("POST", rf"{_USER}/messages/{_ID}/attachments/createUploadSession", "session"),
    ("POST", rf"{_USER}/messages/{_ID}/attachments", "attach"),
    ("POST", rf"{_USER}/messages/{_ID}/send", "send"),
    ("POST", rf"{_USER}/messages/{_ID}/move", "move"),
    ("POST", rf"{_USER}/messages/{_ID}/permanentDelete", "permanentDelete"),
    ("GET", rf"{_USER}/messages/{_ID}/\$value", "value"),
    ("GET", rf"{_USER}/messages/{_ID}", "get"),
    ("PATCH", rf"{_USER}/messages/{_ID}", "patch"),
    ("DELETE", rf"{_USER}/messages/{_ID}", "delete"),
    ("GET", rf"{_USER}/mailFolders/([^/]+)/messages/delta", "delta"),
    ("GET", rf"{_USER}/mailFolders/([^/]+)/messages", "list"),
    ("GET", rf"{_USER}/mailFolders/([^/]+)/childFolders", "folders"),
    ("GET", rf"{_USER}/mailFolders/([^/]+)", "folder"),
    ("GET", rf"{_USER}/mailFolders", "folders"),
    ("PUT", r"/api/v2\.0/([^/]+)", "upload"),
    ("GET", r"/api/v2\.0/([^/]+)", "upload_status"),
)


def _step(request: Request) -> tuple[str, tuple[str, ...]]:
    for method, pattern, step in _STEPS:
        if method == request.method and (found := re.fullmatch(pattern, request.path, re.IGNORECASE)):
            return step, tuple(group for group in found.groups() if group is not None)
    raise AssertionError(f"no such request: {request.method} {request.path}")
