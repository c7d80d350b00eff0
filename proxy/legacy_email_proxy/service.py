"""The service: settings → plugins → listeners → drain, in one process and one event loop."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup

from . import __version__, descriptors, log
from .access import Address, Admission, gateway
from .admin.outcomes import Outcomes
from .admin.probes import Probes
from .admin.queues import queues
from .admin.readiness import Readiness
from .admin.socket import ControlSocket
from .admin.tokens import tokens
from .admin.trace import trace
from .alerts.conditions import CONDITIONS
from .alerts.watch import Watch
from .build import NONE, Composition
from .contracts import Credentials, Filter, Maildrop, Relay, SettingsMistake
from .listeners import PLUGIN_OF, bind, shown
from .loop_watch import LoopWatch
from .pop3.options import Options as POP3Options
from .pop3.server import Server as POP3Server
from .relays.wrapper import start
from .reloading import Current, CurrentMaildrop, CurrentRelay
from .service_manager import ServiceManager
from .signals import Signals, Stopped
from .smtp.authentication import anybody
from .smtp.connection import SessionOptions
from .smtp.handler import RelayHandler
from .smtp.headers import HeaderOptions
from .smtp.reading import Patience
from .smtp.rewriting import Rewriting
from .smtp.server import SMTPServer

if TYPE_CHECKING:
    from .admin.http import AdminServer

__all__ = ("Addresses", "serve")

_log = logging.getLogger("legacy_email_proxy.service")
_NOBODY = ServiceManager({})
"""For a service that runs inside another command."""
_ADMIN = "ADMIN"
"""The listener that belongs to no leg."""
_STARTING_SECONDS = 10.0
"""How long new plugins may take to start at a reload; no signal is handled meanwhile."""
_CLOSING_SECONDS = 5.0
"""How long a plugin may take to close; a stuck one must not keep the process running."""
_GIVING_UP_SECONDS = 1.0
"""How long a plugin that is starting may take to give that up."""
_FINISHING_SECONDS = 360.0
"""How long credentials may take to close. The provider may just be replacing their refresh token, and if that reply is
lost, somebody has to give the consent again. A second signal ends the wait."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the legs really listen, as ``(address, port)``; empty for a listener that is closed."""

    pop3: tuple[tuple[str, int], ...]
    smtp: tuple[tuple[str, int], ...]
    pop3s: tuple[tuple[str, int], ...] = ()
    smtps: tuple[tuple[str, int], ...] = ()
    admin: tuple[tuple[str, int], ...] = ()


async def serve(
    composition: Composition,
    signals: Signals,
    on_ready: Callable[[Addresses], None] = lambda _: None,
    recompose: Callable[[Composition], Composition] | None = None,
    *,
    manager: ServiceManager = _NOBODY,
    passing: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends the drain at once. Backends may be unreachable.

    ``signals`` are those that the process receives. The caller listens for them before it makes ``composition``, so
    that no signal kills the process in the middle of that. One that comes while the plugins start ends the start. At
    SIGHUP new sessions get what ``recompose`` returns. It runs in a thread, because it takes seconds with many
    accounts; if it raises, everything stays as it was. ``manager`` may hand over sockets, and is told how the service
    stands. ``passing``: only for one message, beside the real
    service perhaps, so its control socket and what its alerts remember are left alone. Raises
    :class:`SettingsMistake` when a listener can not be opened.
    """
    # Before any task group: that would wrap the mistake, and the user would read a traceback instead of one line.
    opened = _open(composition, manager)
    try:
        await signals.unless_stopped(_start(composition))
    except BaseException as error:
        for sock in chain.from_iterable(opened.values()):
            sock.close()
        if isinstance(error, Stopped):
            log.event(_log, logging.INFO, "stopped", signal=error.number.name)
            return
        raise
    addresses = Addresses(**{listener.lower(): _places(sockets) for listener, sockets in opened.items()})
    async with anyio.create_task_group() as group:
        async with _running(composition, opened, recompose, manager=manager, passing=passing) as reload:
            on_ready(addresses)
            manager.ready(_status(opened))
            while (number := await signals.next()) == signal.SIGHUP and recompose:
                await reload()
            manager.stopping()
            log.event(_log, logging.INFO, "stopping", signal=number.name)
            group.start_soon(_cancel_at_next_signal, signals, group)
        group.cancel_scope.cancel()
    log.event(_log, logging.INFO, "stopped")


async def _cancel_at_next_signal(signals: Signals, group: TaskGroup) -> None:
    while await signals.next() == signal.SIGHUP:
        pass
    group.cancel_scope.cancel()


class _Reload:
    """Reads the settings and files anew for new sessions, at SIGHUP or for the operator's page, one at a time.

    Returns the mistakes, with which everything stays as it was.
    """

    def __init__(
        self, current: Current, recompose: Callable[[Composition], Composition] | None, manager: ServiceManager
    ) -> None:
        self.current = current
        self._recompose = recompose
        self._manager = manager
        self._turn = asyncio.Lock()

    async def __call__(self) -> Sequence[str]:
        if self._recompose is None:
            return ["this service can not read its settings anew"]
        async with self._turn:
            self._manager.reloading()
            mistakes = await _reload(self.current, self._recompose)
            self._manager.ready()
            return mistakes


async def _reload(current: Current, recompose: Callable[[Composition], Composition]) -> Sequence[str]:
    former = current.composition
    try:
        renewed = await anyio.to_thread.run_sync(recompose, former)
        for leg, before, now in (("POP3", former.maildrop, renewed.maildrop), ("SMTP", former.relay, renewed.relay)):
            if (before is None) != (now is None):
                raise SettingsMistake(f"the {leg} listener can be opened or closed by a restart only")
        if (former.tls is None) != (renewed.tls is None):
            raise SettingsMistake("TLS_CERT_FILE: TLS can be switched on or off by a restart only")
        # The listeners keep the old filters of the whole process. The new ones were never used: nothing to close.
        renewed = replace(renewed, filters=former.filters)
        with anyio.move_on_after(_STARTING_SECONDS) as scope:
            await _start(renewed)
        if scope.cancelled_caught:
            raise SettingsMistake(f"RELAY_PLUGIN: the new relay did not start within {_STARTING_SECONDS:g} s")
    except SettingsMistake as mistake:
        for line in mistake.lines:
            log.event(_log, logging.ERROR, "not reloaded", mistake=line)
        return mistake.lines
    except Exception as error:
        log.failure(_log, "not reloaded", error)
        return [f"unexpected: {type(error).__name__}; the log has more"]
    current.replace(renewed)
    accounts = ",".join(account.name for account in renewed.accounts)
    log.event(_log, logging.INFO, "reloaded", **({"accounts": accounts} if accounts else {}))
    return ()


def _open(composition: Composition, manager: ServiceManager) -> dict[str, list[socket.socket]]:
    """The listening sockets of each listener that is not closed: those that the service manager has for it, or new
    ones.
    """
    settings = composition.settings
    opened: dict[str, list[socket.socket]] = {listener: [] for listener in (*PLUGIN_OF, _ADMIN)}
    mistakes: list[str] = []
    for listener in opened:
        port = settings[f"{listener}_BIND_PORT"]
        closed = listener in PLUGIN_OF and settings[PLUGIN_OF[listener]] == NONE
        if not closed and port is not None:
            try:
                opened[listener] = manager.sockets(listener) or bind(listener, settings[f"{listener}_BIND_ADDR"], port)
            except SettingsMistake as mistake:
                mistakes.extend(mistake.lines)
    try:
        manager.check_all_taken(opened)
    except SettingsMistake as mistake:
        mistakes.extend(mistake.lines)
    if mistakes:
        for sock in chain.from_iterable(opened.values()):
            sock.close()
        raise SettingsMistake(*mistakes)
    return opened


async def _start(composition: Composition) -> None:
    """Start the plugins that have a ``start``. If one fails, all plugins of the composition are closed again."""
    try:
        for plugin in (*composition.credentials, composition.relay):
            if plugin is not None:
                await _given_up_in_time(start(plugin))
    except BaseException:
        await _close(*_own_plugins(composition))
        raise


async def _given_up_in_time(starting: Coroutine[Any, Any, None]) -> None:
    """Wait for ``starting``; when this is cancelled, ``starting`` has a moment to end."""
    task = asyncio.create_task(starting)
    try:
        await asyncio.wait((task,))
    except asyncio.CancelledError:
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait((task,), timeout=_GIVING_UP_SECONDS)
        raise
    task.result()


@asynccontextmanager
async def _running(
    composition: Composition,
    opened: dict[str, list[socket.socket]],
    recompose: Callable[[Composition], Composition] | None,
    *,
    manager: ServiceManager = _NOBODY,
    passing: bool = False,
) -> AsyncIterator[_Reload]:
    """Both legs, serving; leaving drains them and closes the plugins."""
    settings = composition.settings
    log.event(
        _log, logging.INFO, "started", version=__version__,
        pop3=_listed(opened["POP3"]), pop3s=_listed(opened["POP3S"]), maildrop=settings["MAILDROP_PLUGIN"],
        smtp=_listed(opened["SMTP"]), smtps=_listed(opened["SMTPS"]), relay=settings["RELAY_PLUGIN"],
        filters=",".join(composition.filters), admin=_listed(opened[_ADMIN]),
        event_loop=type(asyncio.get_running_loop()).__module__.partition(".")[0],
    )  # fmt: skip
    if composition.tls is not None and settings["TLS_LEGACY"]:
        words = "devices may use versions of TLS and ciphers that are no longer safe"
        log.event(_log, logging.WARNING, words, see="TLS_LEGACY")
    # Each part is taken back although one that was made later fails, at the start or while it ends.
    async with anyio.create_task_group() as group, AsyncExitStack() as ending:
        legs: list[POP3Server | SMTPServer] = []
        # To the end: while the service stops, its legs accept nothing, and all is well.
        living = asyncio.create_task(manager.beat(lambda: readiness.stopping or all(leg.accepting for leg in legs)))
        ending.callback(living.cancel)
        loop_watch = LoopWatch()
        loop_watch.start()
        ending.callback(loop_watch.close)
        warn = _warn_of(gateway())
        most = _most_clients(composition)
        current = Current(composition, lambda former: group.start_soon(_close, *_own_plugins(former)))
        ending.push_async_callback(_close_plugins_of, current)
        reload = _Reload(current, recompose, manager)
        outcomes = Outcomes()
        log.observe(outcomes)
        ending.callback(log.unobserve, outcomes)
        probes = Probes(outcomes)
        ending.push_async_callback(probes.aclose)
        watch = Watch(lambda: current.composition, outcomes, probes)
        readiness = Readiness(lambda: current.composition, outcomes, probes, troubles=watch.says)
        admin = _admin(current, readiness, outcomes, watch, reload, opened)
        if admin is not None:
            ending.push_async_callback(admin.aclose)
        if composition.maildrop is not None:
            pop3 = _pop3(current, most, warn)
            group.start_soon(pop3.serve, opened["POP3"], opened["POP3S"])
            legs.append(pop3)
        if composition.relay is not None:
            smtp, handler = _smtp(current, most, warn)
            ending.push_async_callback(handler.aclose)
            legs.append(smtp)
            await smtp.start(opened["SMTP"], opened["SMTPS"])
        ending.push_async_callback(_drain, legs, settings["DRAIN_SECONDS"])
        if not passing:
            watch.start()
            ending.push_async_callback(watch.aclose)
            control = ControlSocket(
                settings["STATE_DIR"],
                {
                    "spool": queues(lambda: filter(None, (each.queue for each in current.composition.accounts))),
                    "trace": trace,
                    "ready": readiness.answer,
                    "tokens": tokens(lambda: current.composition),
                    "troubles": watch.answer,
                },
            )
            ending.push_async_callback(control.aclose)
            await control.start()
        ending.push_async_callback(_leave_the_balancer, readiness, settings["DRAIN_DELAY_SECONDS"])
        yield reload


async def _leave_the_balancer(readiness: Readiness, seconds: float) -> None:
    """Say that we are stopping before the listeners close, and serve who is still sent here, until that is seen."""
    readiness.stopping = True
    await anyio.sleep(seconds)


async def _drain(legs: Sequence[POP3Server | SMTPServer], seconds: float) -> None:
    async with anyio.create_task_group() as draining:
        for leg in legs:
            draining.start_soon(leg.drain, seconds)


async def _close_plugins_of(current: Current) -> None:
    now = current.composition
    await _close(*_own_plugins(now), *now.filters.values())


def _admin(
    current: Current,
    readiness: Readiness,
    outcomes: Outcomes,
    watch: Watch,
    reload: _Reload,
    opened: Mapping[str, Sequence[socket.socket]],
) -> AdminServer | None:
    """The admin listener, serving; its libraries are loaded only if there is one."""
    if not opened[_ADMIN]:
        return None
    from .admin.http import AdminServer

    admin = AdminServer(
        current, readiness, outcomes,
        troubles=lambda: [trouble.plain() for trouble in watch.troubles()],
        reload=reload,
        advice={key: condition.advice for key, condition in CONDITIONS.items()},
        listening={listener: _places(sockets) for listener, sockets in opened.items()},
    )  # fmt: skip
    admin.start(opened[_ADMIN])
    return admin


def _most_clients(composition: Composition) -> int:
    """How many clients each leg may have at once with the process's descriptors; warns if the settings want more."""
    wanted = composition.settings["MAX_CONNECTIONS"]
    legs = [leg for leg in (composition.maildrop, composition.relay) if leg is not None]
    limit = descriptors.raised()
    most = descriptors.clients_of_each(limit, len(legs))
    if most < wanted:
        words = "fewer connections than MAX_CONNECTIONS: the process may not open more files"
        log.event(_log, logging.WARNING, words, descriptors=limit, connections=most, wanted=wanted, see="ulimit -n")
    return most


def _pop3(current: Current, most: int, on_admitted: Callable[[Address], None]) -> POP3Server:
    settings = current.composition.settings
    tls = current.tls if current.composition.tls else None
    return POP3Server(
        CurrentMaildrop(current),
        Admission.from_settings(settings, on_admitted, most=most),
        POP3Options.from_settings(settings, f"Legacy-Email-Proxy-{__version__}", stls=tls is not None),
        tls,
        current.composition.shared,
    )


def _smtp(current: Current, most: int, on_admitted: Callable[[Address], None]) -> tuple[SMTPServer, RelayHandler]:
    composition = current.composition
    settings = composition.settings
    hostname = _hostname()
    rewriting = Rewriting(HeaderOptions.from_settings(settings, hostname), composition.filters)
    proven = settings["SMTP_AUTH"] == "accounts"
    handler = RelayHandler(CurrentRelay(current), settings["SMTP_MAX_OCTETS"], rewriting, logins_proven=proven)
    options = SessionOptions(
        hostname=hostname,
        max_octets=settings["SMTP_MAX_OCTETS"],
        patience=Patience(settings["SMTP_PROGRESS_SECONDS"], settings["SMTP_IDLE_SECONDS"]),
        admission=Admission.from_settings(settings, on_admitted, most=most),
        lf_end_networks=settings["SMTP_LF_END_NETWORKS"] or (),
        tls=current.tls if composition.tls else None,
        verifier=current.prove if proven else anybody if settings["SMTP_AUTH"] == "any" else None,
    )
    return SMTPServer(handler, options), handler


def _warn_of(gateway_address: Address | None) -> Callable[[Address], None]:
    """A callback that warns, once, of a client with the address of the container's own gateway: it may hide others."""

    def admitted(peer: Address) -> None:
        nonlocal gateway_address
        if peer == gateway_address:
            gateway_address = None
            words = "clients come from the container's own gateway: ALLOWED_NETWORKS can not tell them apart"
            log.event(_log, logging.WARNING, words, gateway=peer, see="proxy/docs/containers.md")

    return admitted


def _hostname() -> str:
    """The name in the greeting. Not getfqdn(): that asks a resolver, which may take long."""
    return socket.gethostname() or "localhost"


def _own_plugins(composition: Composition) -> Sequence[Maildrop | Relay | Credentials | None]:
    """The plugins that no later composition shares, as they are to be closed: credentials last, since the others may
    still be logging in with them.
    """
    return (composition.maildrop, composition.relay, *composition.credentials)


async def _close(*plugins: Maildrop | Relay | Filter | Credentials | None) -> None:
    for plugin in plugins:
        if plugin is None:
            continue
        # Only credentials have a method of this name.
        seconds = _FINISHING_SECONDS if hasattr(plugin, "secret") else _CLOSING_SECONDS
        with anyio.move_on_after(seconds, shield=True) as scope:
            unshield = asyncio.get_running_loop().call_later(_CLOSING_SECONDS, setattr, scope, "shield", False)
            try:
                await plugin.aclose()
            except Exception as error:
                log.failure(_log, "plugin not closed cleanly", error)
            finally:
                unshield.cancel()


def _status(opened: Mapping[str, Sequence[socket.socket]]) -> str:
    return "serving: " + " ".join(f"{name.lower()}={_listed(sockets)}" for name, sockets in opened.items() if sockets)


def _listed(sockets: Sequence[socket.socket]) -> str:
    return ",".join(map(shown, sockets)) or "closed"


def _places(sockets: Sequence[socket.socket]) -> tuple[tuple[str, int], ...]:
    return tuple(sock.getsockname()[:2] for sock in sockets)
