"""What the device reads of Graph's answers, and that no message is lost or doubled by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from fakes.graph import Broken, Drop, Status
from fakes.graph.server import Action
from graph.support import SENDER, context, relaying, send, serving
from legacy_email_proxy.contracts import (
    CredentialsRefused,
    Disconnected,
    Failure,
    Overloaded,
    Refused,
    SettingsMistake,
    Unreachable,
    Unverified,
)
from legacy_email_proxy_plugins.graph import GraphRelay
from legacy_email_proxy_plugins.graph import relay as relay_module
from legacy_email_proxy_plugins.graph.pacing import WINDOW_OCTETS, Pace
from legacy_email_proxy_plugins.graph.verdicts import GraphRefusal
from realservers.certificates import Certificates

MESSAGE = b"Subject: meter\r\n\r\n42\r\n"

VERDICTS: dict[str, tuple[Status, type[Failure], int, bool]] = {
    "send as": (Status(403, "ErrorSendAsDenied"), Refused, 550, False),
    "recipients": (Status(400, "ErrorInvalidRecipients"), Refused, 550, False),
    "size": (Status(413, ""), Refused, 552, False),
    "size, by name": (Status(400, "ErrorMessageSizeExceeded"), Refused, 552, False),
    "MIME": (Status(400, "ErrorMimeContentInvalidBase64String"), Refused, 554, False),
    "no right": (Status(403, "ErrorAccessDenied"), GraphRefusal, 0, True),
    "policy": (Status(403, "ErrorAccessDenied", "[RAOP] : Blocked by tenant"), GraphRefusal, 0, True),
    "no licence": (Status(404, "MailboxNotEnabledForRESTAPI"), GraphRefusal, 0, True),
    "no user": (Status(404, "ErrorInvalidUser"), GraphRefusal, 0, True),
    "full": (Status(507, "ErrorQuotaExceeded"), GraphRefusal, 0, True),
    "unknown": (Status(400, "ErrorNobodyKnows"), GraphRefusal, 0, False),
    "busy for long": (Status(429, "ApplicationThrottled", retry_after=60), Overloaded, 0, True),
    "busy for ever": (Status(503, "ErrorServerBusy", retry_after=0), Overloaded, 0, True),
    "a date": (Status(429, "x", retry_after="Wed, 01 Jan 2070 00:00:00 GMT"), Overloaded, 0, True),
    "200 is no success": (Status(200, "odd"), GraphRefusal, 0, False),
    "broken": (Status(500, "ErrorInternalServerError"), Disconnected, 0, False),
    "a gateway": (Status(504, ""), Disconnected, 0, False),
}  # fmt: skip


@pytest.mark.fault("E2")
@pytest.mark.parametrize("case", VERDICTS)
async def test_verdicts(certificates: Certificates, tmp_path: Path, case: str) -> None:
    status, kind, code, about_us = VERDICTS[case]
    async with relaying(certificates, tmp_path) as (relay, fake):
        fake.script = {"sendMail": status}
        with pytest.raises(Failure) as raised:
            await send(relay, MESSAGE)
        assert not fake.mailbox.sent
        failure = raised.value
        assert type(failure) is kind
        assert failure.about_us is about_us
        assert (failure.code if isinstance(failure, Refused) else 0) == code
        assert "the-token" not in str(failure)
        fake.script = {}
        if kind is not Overloaded:
            await send(relay, MESSAGE)
            assert len(fake.mailbox.sent) == 1


@pytest.mark.fault("E7")
async def test_a_token_that_is_over_is_renewed_once(certificates: Certificates, tmp_path: Path) -> None:
    async with relaying(certificates, tmp_path, "old", "the-token") as (relay, fake):
        await send(relay, MESSAGE)
        assert [fake.times("sendMail"), len(fake.mailbox.sent)] == [2, 1]


@pytest.mark.fault("E7")
async def test_a_refused_token_is_ours(certificates: Certificates, tmp_path: Path) -> None:
    async with relaying(certificates, tmp_path, "old", "older", "oldest") as (relay, fake):
        with pytest.raises(CredentialsRefused, match="InvalidAuthenticationToken"):
            await send(relay, MESSAGE)
        assert fake.times("sendMail") == 2


@pytest.mark.fault("E3")
async def test_a_throttled_server_gets_it_once(certificates: Certificates, tmp_path: Path) -> None:
    async with relaying(certificates, tmp_path) as (relay, fake):
        fake.script = {
            ("sendMail", 1): Status(429, "ApplicationThrottled", retry_after=0),
            ("sendMail", 2): Status(503, "ErrorServerBusy"),
        }
        await send(relay, MESSAGE)
        assert [fake.times("sendMail"), len(fake.mailbox.sent)] == [3, 1]


@pytest.mark.fault("E3")
async def test_nothing_is_asked_in_a_pause(certificates: Certificates, tmp_path: Path) -> None:
    async with relaying(certificates, tmp_path) as (relay, fake):
        fake.script = {("sendMail", 1): Status(429, "ApplicationThrottled", retry_after=60)}
        for _ in range(3):
            with pytest.raises(Overloaded, match=r"left alone for (another )?(60|59) s"):
                await send(relay, MESSAGE)
        assert fake.times("sendMail") == 1


@pytest.mark.fault("E3")
async def test_never_more_requests_at_once_than_the_mailbox_takes(certificates: Certificates, tmp_path: Path) -> None:
    async with relaying(certificates, tmp_path) as (relay, fake):
        fake.slow_seconds = 0.02
        async with anyio.create_task_group() as tasks:
            for number in range(30):
                tasks.start_soon(send, relay, b"Subject: %d\r\n\r\n" % number + b"x" * 200_000)
        assert fake.most_at_once == 4
        assert len(fake.mailbox.sent) == 30


@pytest.mark.fault("E4")
@pytest.mark.parametrize("action", [Drop(done=True), Status(504, "", done=True), Broken(0)], ids=str)
async def test_a_lost_answer_is_told_as_that(certificates: Certificates, tmp_path: Path, action: Action) -> None:
    async with relaying(certificates, tmp_path) as (relay, fake):
        fake.script = {("sendMail", 1): action}
        if action == Broken(0):
            await send(relay, MESSAGE)  # the status has come, and 202 has no body
        else:
            with pytest.raises(Disconnected, match="the message may have been delivered: Microsoft did not answer"):
                await send(relay, MESSAGE)
        assert [fake.times("sendMail"), len(fake.mailbox.sent)] == [1, 1], (
            "it is not sent again without the spool's word"
        )


async def test_what_was_not_sent_whole_is_not_told_as_delivered(certificates: Certificates, tmp_path: Path) -> None:
    async with relaying(certificates, tmp_path) as (relay, fake):
        fake.script = {"sendMail": Drop()}
        async with serving(certificates) as gone:
            pass
        relay.graph.options = replace(relay.options, url=gone.url)
        with pytest.raises(Unreachable) as raised:
            await send(relay, MESSAGE)
        assert "delivered" not in str(raised.value)


@pytest.mark.fault("E4")
@pytest.mark.parametrize("sent", [True, False])
async def test_a_lost_answer_about_a_draft_is_looked_up(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, sent: bool
) -> None:
    monkeypatch.setattr(relay_module, "_SETTLING_SECONDS", (0.0, 0.0))
    async with relaying(certificates, tmp_path, GRAPH_SAVE_TO_SENT="false") as (relay, fake):
        fake.script = {("send", 1): Drop(done=sent)}
        if sent:
            fake.pending_polls = 1
            await send(relay, MESSAGE)
        else:
            with pytest.raises(Disconnected, match="may have been delivered"):
                await send(relay, MESSAGE)
        assert len(fake.mailbox.sent) == sent
        await fake.until(lambda server: not server.mailbox.items)


async def test_no_copy_stays_in_sent_items(certificates: Certificates, tmp_path: Path) -> None:
    async with relaying(certificates, tmp_path) as (relay, fake):
        await send(relay, MESSAGE)
        assert len(fake.mailbox.held("sentitems")) == 1
    async with relaying(certificates, tmp_path, GRAPH_SAVE_TO_SENT="false") as (relay, fake):
        await send(relay, MESSAGE)
        await fake.until(lambda server: not server.mailbox.items)
        assert fake.mailbox.sent[0].delivered == MESSAGE
        assert len(fake.mailbox.purged) == 1


async def test_a_draft_that_is_refused_does_not_stay(certificates: Certificates, tmp_path: Path) -> None:
    async with relaying(certificates, tmp_path, GRAPH_SAVE_TO_SENT="false") as (relay, fake):
        fake.script = {"send": Status(403, "ErrorSendAsDenied")}
        with pytest.raises(Refused):
            await send(relay, MESSAGE)
        assert not fake.mailbox.items


@pytest.mark.parametrize("name", ["expired", "wrong_host", "other_ca"])
async def test_nothing_is_sent_before_the_certificate_is_verified(
    certificates: Certificates, tmp_path: Path, name: str
) -> None:
    async with relaying(certificates, tmp_path, server={"certificate": getattr(certificates, name)}) as (relay, fake):
        with pytest.raises(Unverified, match="nothing was sent"):
            await send(relay, MESSAGE)
        assert not fake.requests


@pytest.mark.fault("E12")
async def test_the_token_goes_to_graph_only(certificates: Certificates, tmp_path: Path) -> None:
    async with relaying(certificates, tmp_path) as (relay, fake), serving(certificates) as other:
        with pytest.raises(Disconnected, match="another server"):
            await relay.graph.ask("a page", "GET", f"{other.url}/users/{SENDER}/messages")
        assert not other.requests
        assert not fake.requests


MISTAKES: dict[str, tuple[dict[str, str], str]] = {
    "no mailbox": ({"GRAPH_MAILBOX": ""}, "GRAPH_MAILBOX: not set"),
    "no address": ({"GRAPH_MAILBOX": "scanner"}, "GRAPH_MAILBOX: 'scanner' is no address"),
    "a path": ({"GRAPH_MAILBOX": "a/b@c"}, "GRAPH_MAILBOX: 'a/b@c' is no address"),
    "in the clear": ({"GRAPH_URL": "http://graph.microsoft.com/v1.0"}, "GRAPH_URL: must be an address"),
    "a password": ({"GRAPH_CREDENTIALS": "password"}, "GRAPH_CREDENTIALS: Microsoft Graph takes no passwords"),
    "SMTP without a host": ({"GRAPH_LARGE": "smtp"}, "BACKEND_SMTP_HOST: not set"),
}


@pytest.mark.parametrize("case", MISTAKES)
async def test_settings_that_can_not_work(certificates: Certificates, tmp_path: Path, case: str) -> None:
    given, words = MISTAKES[case]
    async with serving(certificates) as fake:
        with pytest.raises(SettingsMistake) as raised:
            GraphRelay(context(GraphRelay, fake, certificates, tmp_path, **given))
    assert any(words in line for line in raised.value.lines)


def test_uploads_have_a_window() -> None:
    now = 0.0
    pace = Pace(4, lambda: now)
    pace.upload(WINDOW_OCTETS + 1)
    with pytest.raises(Overloaded, match="150 MB in five minutes"):
        pace.upload(1)
    now = 300.0
    pace.upload(1)
