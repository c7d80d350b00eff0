"""A service whose settings can not work, in a container whose engine would start it anew at once."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable

import pytest

from legacy_email_proxy.commands import serve
from legacy_email_proxy.contracts import SettingsMistake


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Serve with wrong settings, as the first process of a container."""

    def refuse() -> int:
        raise SettingsMistake("SMTP_BIND_PORT: no")

    monkeypatch.setattr(serve, "_serve", refuse)
    monkeypatch.setattr(serve, "in_container", lambda: True)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(signal, "pthread_sigmask", lambda *_: None)
    return lambda: serve.run(argparse.Namespace())


def test_it_tells_and_waits_for_a_signal(
    wrong: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[tuple[set[signal.Signals], float]] = []
    monkeypatch.setattr(signal, "sigtimedwait", lambda numbers, seconds: waited.append((numbers, seconds)))
    assert wrong() == 2
    assert waited == [({signal.SIGTERM, signal.SIGINT}, 20.0)]
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "legacy-email-proxy: SMTP_BIND_PORT: no"
    assert "IMAGE check" in told[1]


@pytest.mark.parametrize("variable", ["NOTIFY_SOCKET", "KUBERNETES_SERVICE_HOST"])
def test_where_somebody_else_waits_it_ends_at_once(
    wrong: Callable[[], int], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "x")
    with pytest.raises(SettingsMistake):
        wrong()


def test_outside_of_a_container_it_ends_at_once(wrong: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "in_container", lambda: False)
    with pytest.raises(SettingsMistake):
        wrong()
