"""The service's socket: who may open it, what it answers to nonsense, and that nobody is in its way."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from legacy_email_proxy.admin import socket as module
from legacy_email_proxy.admin.socket import _MOST_AT_ONCE, NAME, Answers, ControlSocket, _reachable, ask
from legacy_email_proxy.contracts import Failure
from waiting import until


async def echo(request: Mapping[str, Any], by: str) -> Answers:
    yield {"by": by, **request}
    yield b"octets\r\n"


async def refuse(request: Mapping[str, Any], by: str) -> Answers:
    raise Failure("not today")
    yield {}


async def stumble(request: Mapping[str, Any], by: str) -> Answers:
    yield {"first": True}
    raise ZeroDivisionError


@asynccontextmanager
async def serving(state_dir: Path, **handlers: Any) -> AsyncIterator[None]:
    handlers = {"echo": echo, "refuse": refuse, "stumble": stumble, **handlers}
    control = ControlSocket(state_dir, handlers)
    await control.start()
    try:
        yield
    finally:
        await control.aclose()


async def answers(state_dir: Path, do: str, **request: Any) -> list[Any]:
    return [each async for each in ask(state_dir, do, **request)]


async def test_it_answers_and_belongs_to_its_user_alone(tmp_path: Path) -> None:
    state_dir = tmp_path / ("long" * 50) / "state"
    state_dir.parent.mkdir()
    async with serving(state_dir):
        assert stat.S_IMODE((state_dir / NAME).stat().st_mode) == 0o600
        assert stat.S_IMODE(state_dir.stat().st_mode) == 0o700
        said, octets = await answers(state_dir, "echo", word="ü")
        assert (said["word"], octets) == ("ü", b"octets\r\n")
        assert said["by"].startswith("user ")
        with pytest.raises(Failure, match="not today"):
            await answers(state_dir, "refuse")
        with pytest.raises(Failure, match="does not know that request"):
            await answers(state_dir, "dance")
    assert not (state_dir / NAME).exists()
    with pytest.raises(FileNotFoundError):
        await answers(state_dir, "echo")


async def test_what_goes_wrong_is_logged_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tmp_path):
        with pytest.raises(Failure, match="ZeroDivisionError"):
            await answers(tmp_path, "stumble")
    assert [record.getMessage() for record in caplog.records if record.exc_info] == ["a request failed"]


@pytest.mark.parametrize(
    "request_",
    [
        *(b"", b"\n", b"nonsense\n", b"[]\n", b"{}\n", b'{"do": ["x"]}\n', b'{"do": 1e999}\n'),
        *(b"\xff\0\n", b"[" * 50_000 + b"\n", b"9" * 50_000 + b"\n", b"x" * (1 << 20)),
    ],
    ids=lambda request: ascii(request[:20]),
)
async def test_nonsense_harms_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture, request_: bytes) -> None:
    async with serving(tmp_path):
        with _reachable(tmp_path / NAME) as name:
            reader, writer = await asyncio.open_unix_connection(name)
        writer.write(request_)
        writer.write_eof()
        assert "failure" in json.loads(await reader.read())
        writer.close()
        assert len(await answers(tmp_path, "echo")) == 2
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_command_that_was_ended_is_not_answered_for_ever(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def endless(request: Mapping[str, Any], by: str) -> Answers:
        try:
            yield {"begun": True}
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with serving(tmp_path, endless=endless):
        async with aclosing(ask(tmp_path, "endless")) as lines:
            assert await anext(lines) == {"begun": True}
        async with asyncio.timeout(50):
            await ended.wait()


async def test_no_more_requests_at_once_than_it_bears(tmp_path: Path) -> None:
    async def endless(request: Mapping[str, Any], by: str) -> Answers:
        yield {"begun": True}
        await asyncio.Event().wait()

    async with serving(tmp_path, endless=endless):
        held = [ask(tmp_path, "endless") for _ in range(_MOST_AT_ONCE)]
        for each in held:
            await anext(each)
        with pytest.raises(Failure, match="hung up"):
            await answers(tmp_path, "echo")
        await held.pop().aclose()

        async def one_more() -> None:
            while True:
                with suppress(Failure):
                    await answers(tmp_path, "echo")
                    return

        await asyncio.wait_for(one_more(), 50)
        for each in held:
            await each.aclose()


async def test_one_that_is_not_ours_to_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    async with serving(tmp_path):
        monkeypatch.setattr(asyncio, "open_unix_connection", refused)
        with pytest.raises(Failure, match=r"control\.sock: Permission denied"):
            await answers(tmp_path, "echo")


async def test_one_that_was_left_behind_is_replaced_and_one_in_use_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path):
        (tmp_path / NAME).rename(tmp_path / "kept")
    (tmp_path / "kept").rename(tmp_path / NAME)
    with pytest.raises(ConnectionRefusedError):
        await answers(tmp_path, "echo")
    async with serving(tmp_path):
        assert len(await answers(tmp_path, "echo")) == 2
        async with serving(tmp_path, echo=refuse):
            # The first service keeps its socket, also when the second one stops.
            assert len(await answers(tmp_path, "echo")) == 2
        assert len(await answers(tmp_path, "echo")) == 2
    (record,) = [record for record in caplog.records if record.getMessage() == "commands will not reach this service"]
    assert "another service answers there" in vars(record)["facts"]["cause"]


async def test_a_service_that_starts_while_another_one_stops_gets_the_socket_when_it_is_free(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "_AGAIN_SECONDS", 0.01)
    first, second, third = (ControlSocket(tmp_path, {"echo": echo}) for _ in range(3))
    await first.start()
    await second.start()
    await third.start()
    # One that does not get it until it ends leaves everything as it is.
    await third.aclose()
    assert len(await answers(tmp_path, "echo")) == 2
    await first.aclose()
    await until(lambda: "commands reach this service now" in caplog.messages)
    assert len(await answers(tmp_path, "echo")) == 2
    await second.aclose()
    assert not (tmp_path / NAME).exists()
    assert caplog.messages == ["commands will not reach this service"] * 2 + ["commands reach this service now"]


async def test_a_folder_that_can_not_be_is_told_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    async with serving(tmp_path / "file"):
        await until(lambda: bool(caplog.records))
    assert caplog.records[-1].getMessage() == "commands will not reach this service"


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_its_end_is_quiet_whatever_was_opened_meanwhile(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From 3.13 on asyncio removes a server's socket itself, by the name that it was bound with."""
    control = ControlSocket(tmp_path, {})
    await control.start()
    assert control._server is not None
    (listening,) = control._server.sockets
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    assert os.path.samefile(listening.getsockname(), tmp_path / NAME)  # noqa: ASYNC240, PTH121
    await control.aclose()
    for descriptor in opened:
        os.close(descriptor)
    assert not caplog.messages
    assert not (tmp_path / NAME).exists()


async def test_no_descriptor_is_left(tmp_path: Path) -> None:
    # With its first listener uvloop opens a descriptor that it keeps in reserve.
    earlier = ControlSocket(tmp_path, {})
    await earlier.start()
    await earlier.aclose()
    before = descriptors()
    control = ControlSocket(tmp_path, {})
    await control.start()
    listening = descriptors()
    second = ControlSocket(tmp_path, {})
    await second.start()
    assert second._server is None, "another one answers there"
    await second.aclose()
    # The first one still has the connection by which the second one saw it.
    await until(lambda: descriptors() == listening)
    await control.aclose()
    # uvloop closes them in its next turn.
    await until(lambda: descriptors() == before)
