"""What the suites and the tests of a plugin need: a context, a client, messages, and waiting with a time limit."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import anyio
import pytest

from ..contracts import Client, Context, SettingsMistake
from ..plugins import PluginContext, declared_settings
from ..settings import TABLE, read

__all__ = ("CLIENT", "CONTENTS", "LARGE", "Delivered", "Suite", "bounded", "context_for", "eventually", "pieces_of")

CLIENT = Client("192.0.2.7", "contract", "device.example")

CONTENTS = {
    "ordinary": b"Subject: meter\r\nFrom: a@example.test\r\n\r\n42\r\n",
    "empty": b"",
    "header only": b"Subject: no body\r\n\r\n",
    "body only": b"\r\nno header\r\n",
    "no final CRLF": b"Subject: cut\r\n\r\nthe last line does not end",
    "dots": b"Subject: dots\r\n\r\n.\r\n..\r\n.x\r\n...\r\n.\r\n",
    "commands": b"Subject: smuggled\r\n\r\n.\r\nMAIL FROM:<x@example.test>\r\nA1 LOGOUT\r\nQUIT\r\n",
    "8-bit": "Subject: Zähler\r\n\r\nGrüße\r\n".encode() + b"and no UTF-8: \xff\xfe\x80\r\n",
    "every octet": b"Subject: octets\r\n\r\n" + bytes(octet for octet in range(256) if octet not in b"\r\n") + b"\r\n",
    "NUL": b"Subject: NUL\r\n\r\n\0\0a\0\r\n",
    "long line": b"Subject: long\r\n\r\n" + b"x" * 20_000 + b"\r\n",
}
"""Ordinary and difficult contents. All have CRLF line ends, and neither CR nor LF alone, as the core passes them on."""

LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcdef" * 4 * 80_000 + b"\r\n"
"""About 5 MiB."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """What arrived at the other end. The envelope is ``None`` where that end does not keep it.

    A backend that makes a copy for each recipient has one of these for each, with that recipient in ``forward_paths``.
    """

    content: bytes
    reverse_path: str | None = None
    forward_paths: tuple[str, ...] | None = None


class Suite:
    """What all suites have."""

    seconds: float = 30.0
    """A test that takes longer has failed."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        """The service runs on asyncio."""
        return "asyncio"


_Test = TypeVar("_Test", bound=Callable[..., Awaitable[None]])


def bounded(test: _Test) -> _Test:
    """Fail a suite's test that takes longer than the suite's ``seconds``."""

    @functools.wraps(test)
    async def run(suite: Suite, *args: Any, **kwargs: Any) -> None:
        with anyio.fail_after(suite.seconds):
            await test(suite, *args, **kwargs)

    return cast(_Test, run)


async def eventually(look: Callable[[], Awaitable[bool]]) -> None:
    """Wait until ``look`` returns true; the caller limits the time."""
    while not await look():  # noqa: ASYNC110 (the other end sets no event of ours)
        await anyio.sleep(0.02)


async def pieces_of(content: bytes, octets: int) -> AsyncGenerator[bytes, None]:
    """``content`` in pieces of that many octets; other tasks may run between two of them."""
    for start in range(0, len(content), octets):
        await anyio.lowlevel.checkpoint()
        yield content[start : start + octets]


def context_for(plugin: type, state_dir: Path, /, **variables: str) -> Context:
    """The context that the service would hand to ``plugin``, with these environment variables and no others.

    The variables that the plugin declares are read like the built-in ones. Raises
    :class:`~legacy_email_proxy.contracts.SettingsMistake` for a wrong value.
    """
    declared: Iterable[Any] = (*TABLE, *declared_settings(plugin))
    settings = read({"STATE_DIR": str(state_dir), **variables}, declared)
    if settings.mistakes:
        raise SettingsMistake(*settings.mistakes)
    return PluginContext("testing", settings)
