"""A service that is there and does not answer: no command waits for it without end."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from admin.support import ProbedRelay, composition
from legacy_email_proxy.admin.socket import NAME
from legacy_email_proxy.commands import check, healthcheck
from legacy_email_proxy.commands.report import Report


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a socket that is open, and nobody takes what comes."""
    monkeypatch.setenv("STATE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(NAME)
        listener.listen()
        yield tmp_path


def test_healthcheck(silent: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(healthcheck, "_READY_SECONDS", 0.01)
    assert healthcheck.run(argparse.Namespace(ready=True, json=False)) == 1
    assert "the service does not answer within 0.01 s" in capsys.readouterr().err


async def test_check(silent: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(check, "_ANSWER_SECONDS", 0.01)
    report = Report(as_json=False)
    await check._troubles(composition(silent, ProbedRelay()), report)
    assert report.bad
    assert "the service that is running does not answer" in capsys.readouterr().out
