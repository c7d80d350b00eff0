"""The event loop that is asked for is the one that runs the service."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import uvloop

from interop.proxy import running
from legacy_email_proxy.build import compose
from legacy_email_proxy.contracts import SettingsMistake
from legacy_email_proxy.event_loop import event_loop_mistakes, loop_options

ENVIRON = {"MAILDROP_PLUGIN": "none", "BACKEND_SMTP_HOST": "smtp.example"}


@pytest.mark.parametrize("name", ["auto", "uvloop"])
def test_uvloop_is_taken_where_it_is_installed(name: str) -> None:
    assert loop_options(name) == {"loop_factory": uvloop.new_event_loop}
    assert event_loop_mistakes({"EVENT_LOOP": name}) == []
    assert loop_options("asyncio") == {}


def test_without_uvloop_only_who_insists_on_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    environ = {**ENVIRON, "STATE_DIR": str(tmp_path)}
    assert loop_options("auto") == loop_options("uvloop") == {}
    compose({**environ, "EVENT_LOOP": "auto"})
    with pytest.raises(SettingsMistake) as caught:
        compose({**environ, "EVENT_LOOP": "uvloop"})
    (line,) = caught.value.lines
    assert line.startswith("EVENT_LOOP: uvloop is not installed")


@pytest.mark.parametrize("name", ["asyncio", "uvloop"])
def test_the_service_says_which_runs_it(name: str) -> None:
    with running({**ENVIRON, "EVENT_LOOP": name}) as proxy:
        assert f" event_loop={name}" in proxy.lines(" started ")[0]
