"""A reload: new sessions get the new composition, old ones keep theirs, which is closed after the last of them."""

from __future__ import annotations

import logging
import math
import threading
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from legacy_email_proxy import service
from legacy_email_proxy.accounts.pop_before_smtp import RecentLogins
from legacy_email_proxy.accounts.relay import RoutedRelay
from legacy_email_proxy.accounts.users import PasswordHash, Users
from legacy_email_proxy.build import Account, Composition, compose
from legacy_email_proxy.contracts import Client, Login, LoginRefused, Secret, SettingsMistake
from legacy_email_proxy.plugins import PluginContext
from legacy_email_proxy.relays.filtered import FilteredRelay
from legacy_email_proxy.relays.rate_limit import RateLimitedRelay
from legacy_email_proxy.reloading import Current, CurrentMaildrop, CurrentRelay
from legacy_email_proxy.settings import read
from legacy_email_proxy_plugins.password import PasswordCredentials
from pop3.maildrops import MemoryMaildrop
from smtp.relays import MemoryRelay

CLIENT = Client("127.0.0.1", "s1")


def composed(*, relay: bool = True) -> Composition:
    return Composition(read({}), MemoryMaildrop(), MemoryRelay() if relay else None)


async def test_who_gets_what_and_when_it_is_closed() -> None:
    first, second, third = composed(), composed(), composed()
    retired: list[Composition] = []
    current = Current(first, retired.append)
    maildrop, relay = CurrentMaildrop(current), CurrentRelay(current)
    async with maildrop.open(CLIENT, None):
        async with relay.transaction(CLIENT, "x@y", {}):
            current.replace(second)
            assert isinstance(second.relay, MemoryRelay)
            async with relay.transaction(CLIENT, "x@y", {}):
                assert second.relay.entered == 1
        assert retired == []
    assert retired == [first]
    current.replace(third)
    assert retired == [first, second]
    async with maildrop.open(CLIENT, None):
        pass
    assert retired == [first, second]


async def test_a_session_that_could_not_open_holds_nothing() -> None:
    first, second = composed(), composed()
    retired: list[Composition] = []
    current = Current(first, retired.append)
    assert isinstance(first.maildrop, MemoryMaildrop)
    first.maildrop.fail_open.append(ValueError("bug"))
    with pytest.raises(ValueError, match="bug"):
        async with CurrentMaildrop(current).open(CLIENT, None):
            pass
    current.replace(second)
    assert retired == [first]


@pytest.mark.parametrize(
    ("raised", "lines"),
    [
        (SettingsMistake("a:1: one", "a:2: two"), ["a:1: one", "a:2: two"]),
        (ValueError("bug"), ["ValueError: bug"]),
        (None, ["the SMTP listener can be opened or closed by a restart only"]),
    ],
)
async def test_what_can_not_be_reloaded_changes_nothing(
    raised: Exception | None, lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    first = composed()
    current = Current(first, lambda _: None)

    def recompose(former: Composition) -> Composition:
        assert former is first
        if raised is not None:
            raise raised
        return composed(relay=False)

    await service._reload(current, recompose)
    assert current.composition is first
    told = [record for record in caplog.records if record.getMessage() == "not reloaded"]
    assert [next(iter(vars(record)["facts"].values())) for record in told] == lines
    assert all(record.levelno == logging.ERROR for record in told)


async def test_sessions_go_on_while_the_settings_are_read_anew() -> None:
    going_on = threading.Event()
    first, second = composed(), composed()
    current = Current(first, lambda _: None)

    def recompose(_: Composition) -> Composition:
        assert going_on.wait(10), "the event loop did nothing meanwhile"
        return second

    async with anyio.create_task_group() as group:
        group.start_soon(service._reload, current, recompose)
        await anyio.lowlevel.checkpoint()
        assert current.composition is first
        going_on.set()
    assert current.composition.maildrop is second.maildrop


BACKEND = {"BACKEND_IMAP_HOST": "h", "BACKEND_IMAP_USER": "u", "BACKEND_IMAP_PASS": "p"}
BACKEND |= {name.replace("IMAP", "SMTP"): text for name, text in BACKEND.items()}


@pytest.mark.computes
@pytest.mark.parametrize("given", [{}, {"RELAY_PLUGIN": "spool"}])
async def test_a_reload_does_not_forget_how_much_was_sent_in_the_last_minute(
    given: dict[str, str], tmp_path: Path
) -> None:
    given = {**BACKEND, **given, "STATE_DIR": str(tmp_path), "BACKEND_SMTP_MESSAGES_PER_MINUTE": "2"}
    former = compose(given)
    former.turns[""].extend([21.0, 22.0])
    assert compose(given, former).turns[""] is former.turns[""]
    more = compose(given | {"BACKEND_SMTP_MESSAGES_PER_MINUTE": "3"}, former)
    assert list(more.turns[""]) == [-math.inf, 21.0, 22.0]
    less = compose(given | {"BACKEND_SMTP_MESSAGES_PER_MINUTE": "1"}, more)
    assert list(less.turns[""]) == [22.0]
    assert list(compose(given).turns[""]) == [-math.inf, -math.inf]


class Starting(MemoryRelay):
    """Begins something by itself, or can't."""

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__()
        self.failure = failure
        self.started = self.closed = 0

    async def start(self) -> None:
        self.started += 1
        if self.failure is not None:
            raise self.failure

    async def aclose(self) -> None:
        self.closed += 1


async def test_a_new_relay_begins_before_the_old_one_goes() -> None:
    old, new = Starting(), Starting()
    retired: list[Composition] = []
    current = Current(Composition(read({}), None, old), retired.append)
    await service._reload(current, lambda _: Composition(read({}), None, RateLimitedRelay(FilteredRelay(new, {}), 1)))
    assert (new.started, new.closed) == (1, 0)
    assert [each.relay for each in retired] == [old]


@pytest.mark.parametrize("failure", [SettingsMistake("SPOOL_URL: no"), ValueError("bug"), TimeoutError()])
async def test_one_that_can_not_begin_leaves_everything_as_it_was(failure: Exception) -> None:
    old, good, bad = Starting(), Starting(), Starting(failure)
    retired: list[Composition] = []
    current = Current(Composition(read({}), None, old), retired.append)
    routed = RoutedRelay({"a": good, "b": bad}, (), RecentLogins())
    await service._reload(current, lambda _: Composition(read({}), None, routed))
    assert current.composition.relay is old
    assert retired == []
    assert [(each.started, each.closed) for each in (old, good, bad)] == [(0, 0), (1, 1), (1, 1)]


async def test_one_that_never_comes_to_an_end_of_its_beginning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Stuck(Starting):
        async def start(self) -> None:
            await anyio.sleep_forever()

    monkeypatch.setattr(service, "_STARTING_SECONDS", 0.05)
    first, stuck = composed(), Stuck()
    current = Current(first, lambda _: None)
    await service._reload(current, lambda _: Composition(read({}), first.maildrop, stuck))
    assert current.composition is first
    assert stuck.closed == 1
    assert [vars(record)["facts"] for record in caplog.records if record.getMessage() == "not reloaded"] == [
        {"mistake": "RELAY_PLUGIN: the new relay did not start within 0.05 s"}
    ]


async def test_all_mistakes_of_those_that_can_not_begin_are_told_once() -> None:
    relays = {name: Starting(SettingsMistake("SPOOL_URL: no", f"{name}: no")) for name in ("a", "b")}
    with pytest.raises(SettingsMistake) as caught:
        await RoutedRelay(relays, (), RecentLogins()).start()
    assert caught.value.lines == ("SPOOL_URL: no", "a: no", "b: no")


LISTENERS = ("POP3", "POP3S", "SMTP", "SMTPS", "ADMIN")


async def test_a_stuck_old_plugin_does_not_stop_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(MemoryRelay):
        async def aclose(self) -> None:
            await anyio.sleep_forever()

    monkeypatch.setattr(service, "_CLOSING_SECONDS", 0.05)
    old, new = Composition(read({}), None, Stuck()), composed()
    renewed = Composition(new.settings, None, new.relay)
    async with service._running(old, {name: [] for name in LISTENERS}, lambda _: renewed) as reload:
        assert await reload() == ()
        assert reload.current.composition.relay is new.relay


async def test_an_accounts_credentials_go_with_its_composition_and_after_its_legs() -> None:
    closed: list[str] = []

    class Closing(MemoryRelay):
        async def aclose(self) -> None:
            closed.append("relay")

    class Named(PasswordCredentials):
        async def aclose(self) -> None:
            closed.append("credentials")

    def with_credentials() -> Composition:
        settings, relay = read({}), Closing()
        account = Account("a", settings, None, relay, {"password": Named(PluginContext("credentials.x", settings))})
        return Composition(settings, None, relay, accounts=(account,))

    old, new = with_credentials(), with_credentials()
    async with service._running(old, {name: [] for name in LISTENERS}, lambda _: new) as reload:
        await reload()
        with anyio.fail_after(50):
            while len(closed) < 2:  # noqa: ASYNC110
                await anyio.sleep(0.005)
        assert closed == ["relay", "credentials"]
    assert closed == ["relay", "credentials"] * 2


async def test_logins_are_judged_by_the_users_of_the_moment() -> None:
    ann = Login("ann", Secret("old"))
    first, second = (replace(composed(), users=Users({"ann": PasswordHash.of(text)})) for text in ("old", "new"))
    current = Current(first, lambda _: None)
    await current.prove(ann, "127.0.0.1")
    current.replace(second)
    with pytest.raises(LoginRefused):
        await current.prove(ann, "127.0.0.1")
    await current.prove(Login("ann", Secret("new")), "127.0.0.1")
