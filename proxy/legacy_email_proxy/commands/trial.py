"""A test message through the whole proxy, as a device would send it, followed to the backend's receipt.

The service runs in this process, on a free port of the loopback, with the same settings. Its spool is one of its own,
in a temporary folder: the real one may be held by a service that runs, and mail that waits there is not this command's
to deliver.
"""

from __future__ import annotations

import asyncio
import logging
import os
import smtplib
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import Any

import anyio

from .. import log
from ..build import Composition, compose
from ..contracts import Client, Finding, Level, Parameters, Relay, SettingsMistake, Transaction, unwritable
from ..plugins import state_url
from ..relays.wrapper import RelayWrapper
from ..replies import printable
from ..service import Addresses, serve
from ..settings import read
from ..signals import Signals

__all__ = ("Trial", "send")

_REPLY_SECONDS = 150.0
"""For the whole dialogue. A backend may take longer by the RFC, but nobody waits for that at a terminal."""
_DELIVERY_SECONDS = 150.0
"""From the 250 of a spool to the backend's receipt."""

_LOGGER = logging.getLogger("legacy_email_proxy")
_RELAYED = "message relayed"
_DELIVERED = "message delivered"
_AGAIN = "; it would be tried again later"
_NOT_DELIVERED = {
    "recipients refused": "", "recipients not taken for now": _AGAIN, "message not delivered": _AGAIN,
    "message may have been delivered: it is tried again, and may arrive twice": "",
}  # fmt: skip
_ADVICE = "what each reply means: proxy/docs/troubleshooting.md, When it sends"


@dataclass(frozen=True, slots=True)
class Trial:
    """The message's envelope, and as which client it is sent: the rules of ACCOUNTS_FILE go by that."""

    recipient: str
    sender: str | None
    client: str
    login: str
    port: int


async def send(trial: Trial, environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """Send it and say what the device would have read and what the backend said. Every failure is a finding."""
    with _events() as events, tempfile.TemporaryDirectory(prefix="check-", dir=_disk(environ)) as folder:
        try:
            composition = await anyio.to_thread.run_sync(compose, _environment(environ, folder))
            if composition.relay is None:
                return [Finding(Level.BAD, "not sent: the SMTP listener is closed", "set RELAY_PLUGIN")]
            composition = replace(composition, relay=_AsClient(composition.relay, trial))
            sender = trial.sender or _usual_sender(composition) or trial.recipient
            async with _served(composition) as place:
                found = [await _handed_over(place, sender, trial, events)]
                if found[0].level is Level.GOOD:
                    found.append(await _followed(events))
        except SettingsMistake as mistake:
            return [Finding(Level.BAD, f"not sent: {line}") for line in mistake.lines]
    return found


def _disk(environ: Mapping[str, str]) -> Path | None:
    """Where the real spool would be; ``None``, for the system's folder, where that is not there or not writable."""
    folder: Path = read(environ)["STATE_DIR"]
    return folder if folder.is_dir() and unwritable(folder) is None else None


def _environment(environ: Mapping[str, str], folder: str) -> dict[str, str]:
    """The settings, but for where the service listens, who may connect, and where its spool is."""
    own = {
        "SMTP_BIND_ADDR": "127.0.0.1", "SMTP_BIND_PORT": "0", "SMTPS_BIND_PORT": "",
        "POP3_BIND_ADDR": "127.0.0.1", "POP3_BIND_PORT": "0", "POP3S_BIND_PORT": "",
        "ADMIN_BIND_PORT": "", "ALERT_WEBHOOK_URL": "", "ALERT_MAIL_TO": "", "ALERT_COMMAND": "",
        "ALLOWED_NETWORKS": "127.0.0.0/8", "PROXY_PROTOCOL_NETWORKS": "", "DRAIN_DELAY_SECONDS": "0",
        "SPOOL_URL": f"sqlite:///{folder.lstrip('/')}/spool.db", "STATE_URL": "",
    }  # fmt: skip
    state = state_url(read(environ))
    if state is not None:
        # Not with the spool: the tokens are the real ones.
        own["STATE_URL"] = state[1].reveal()
    return {name: text for name, text in environ.items() if name.removesuffix("_FILE") not in own} | own


def _usual_sender(composition: Composition) -> str | None:
    """The address that mail is likely to be allowed to come from."""
    settings = composition.settings
    user: str | None = settings["BACKEND_SMTP_USER"] or settings["GRAPH_MAILBOX"]
    return settings["SMTP_SENDER"] or (user if user and "@" in user else None)


class _AsClient(RelayWrapper):
    """Shows the relay another client than the one that connects: the device for which the trial is made."""

    def __init__(self, relay: Relay, trial: Trial) -> None:
        super().__init__(relay)
        self._trial = trial

    def transaction(
        self, client: Client, reverse_path: str, parameters: Parameters
    ) -> AbstractAsyncContextManager[Transaction]:
        trial = self._trial
        shown = replace(client, address=trial.client, login=trial.login, port=trial.port)
        return super().transaction(shown, reverse_path, parameters)


@asynccontextmanager
async def _served(composition: Composition) -> AsyncIterator[tuple[str, int]]:
    """The service, and the place of its SMTP listener. Raises :class:`SettingsMistake` where it does not start."""
    signals = Signals()
    ready = asyncio.get_running_loop().create_future()

    def started(addresses: Addresses) -> None:
        ready.set_result(addresses.smtp[0])

    service = asyncio.create_task(serve(composition, signals, started, passing=True))
    try:
        await asyncio.wait((service, ready), return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            await service
        yield ready.result()
    finally:
        signals.stop()
        await asyncio.wait((service,))
        ready.cancel()


async def _handed_over(place: tuple[str, int], sender: str, trial: Trial, events: _Events) -> Finding:
    """What the device would read: the reply to the end of the message, or the first refusal."""
    with anyio.move_on_after(_REPLY_SECONDS) as scope:
        command, code, said = await anyio.to_thread.run_sync(
            _dialogue, place, sender, trial.recipient, abandon_on_cancel=True
        )
    if scope.cancelled_caught:
        text = f"no reply within {_REPLY_SECONDS:g} s; a device would have given up by then"
        return Finding(Level.BAD, text, "look at what is found about the relay above")
    text = f"from <{sender}> to <{trial.recipient}>: the device reads {code} {printable(said)}"
    if code < 400:
        return Finding(Level.GOOD, text)
    told: Mapping[str, Any] = next(
        (facts for _, facts in reversed(events.found) if "reply" in facts and "cause" in facts), {}
    )
    because = f"; the log says: {printable(str(told['cause']))}" if told else ""
    return Finding(Level.BAD, f"{text}, in reply to {command}{because}", str(told.get("advice", _ADVICE)))


def _dialogue(place: tuple[str, int], sender: str, recipient: str) -> tuple[str, int, str]:
    """Send a message as a device does. Returns the last command with its reply: the end of the message, or the command
    that was refused.
    """
    plain = sender.isascii() and recipient.isascii()
    content = _message(sender, recipient).as_bytes(policy=SMTP if plain else SMTPUTF8)
    command, reply = "the connection", (0, b"")
    try:
        with smtplib.SMTP(timeout=_REPLY_SECONDS) as smtp:
            reply = smtp.connect(*place)
            if reply[0] < 400:
                command, reply = "EHLO", smtp.ehlo("check.invalid")
            if reply[0] < 400:
                smtp.command_encoding = "ascii" if plain else "utf-8"
                command, reply = "MAIL", smtp.mail(sender, () if plain else ("SMTPUTF8",))
            if reply[0] < 400:
                command, reply = "RCPT", smtp.rcpt(recipient)
            if reply[0] < 400:
                command, reply = "the end of the message", smtp.data(content)
    except smtplib.SMTPDataError as refused:
        said = refused.smtp_error
        command, reply = "DATA", (refused.smtp_code, said if isinstance(said, bytes) else said.encode())
    except (smtplib.SMTPException, OSError) as error:
        return f"what follows {command}", 421, f"(no reply: {error})"
    return command, reply[0], reply[1].decode("utf-8", "replace")


def _message(sender: str, recipient: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = sender, recipient
    message["Subject"] = "Test message from legacy-email-proxy"
    message["Date"], message["Message-ID"] = formatdate(localtime=True), make_msgid(domain="legacy-email-proxy.invalid")
    message.set_content(
        "This message was sent by `legacy-email-proxy check --send`.\n"
        "If you read it, what your devices send through the proxy arrives, too.\n"
    )
    return message


async def _followed(events: _Events) -> Finding:
    """What the backend said of a message that was accepted; of a spool, at its first try."""
    for words, facts in events.found:
        if words == _RELAYED:
            return Finding(Level.GOOD, f"the backend says: {_said(facts)}")
    with anyio.move_on_after(_DELIVERY_SECONDS):
        while True:
            for words, facts in events.found:
                if words == _DELIVERED:
                    return Finding(Level.GOOD, f"the spool has delivered it; the backend says: {_said(facts)}")
                if words in _NOT_DELIVERED:
                    text = f"the spool: {words}: {printable(str(facts.get('cause')))}{_NOT_DELIVERED[words]}"
                    return Finding(Level.BAD, text, _ADVICE)
            await events.more()
    text = f"the spool has not delivered it within {_DELIVERY_SECONDS:g} s, and would go on trying"
    return Finding(Level.BAD, text, "look at what is found about the relay above")


def _said(facts: Mapping[str, Any]) -> str:
    return printable(str(facts.get("backend", ""))) or "nothing"


class _Events(logging.Handler):
    """The events that the service logs, instead of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, Mapping[str, Any]]] = []
        self._loop = asyncio.get_running_loop()
        self._more = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append((record.getMessage(), log.facts_of(record)))
        # Some plugins log in threads.
        self._loop.call_soon_threadsafe(self._more.set)

    async def more(self) -> None:
        """Wait for another event."""
        self._more.clear()
        await self._more.wait()


@contextmanager
def _events() -> Iterator[_Events]:
    events, level = _Events(), _LOGGER.level
    log.observe(events)
    _LOGGER.propagate = False
    try:
        yield events
    finally:
        log.unobserve(events)
        _LOGGER.propagate = True
        _LOGGER.setLevel(level)
