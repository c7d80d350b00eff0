"""The spool in front of the relay: what one message meets at the backend holds no other one up."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from fakes.smtp import Action, Connection, Drop
from realservers.certificates import Certificates
from smtps.support import CHUNKED, PIPELINED, PLAIN, Dialogue, relaying
from spool.support import send, spooling, until_states
from waiting import until

BAD: list[tuple[str, Action]] = [
    ("MAIL", "501 5.1.7 Bad sender address syntax"),
    ("MAIL", "504 5.5.2 <bad>: Sender address rejected: need fully-qualified address"),
    ("MAIL", "450 4.1.8 Sender address rejected: Domain not found"),
    ("MAIL", "553 5.1.7 no"),
    ("MAIL", Drop()),
    ("RCPT", "501 5.1.3 Bad recipient address syntax"),
    ("RCPT", "450 4.2.0 Greylisted"),
    ("RCPT", "550 5.4.5 Daily user sending limit exceeded"),
    ("RCPT", Drop()),
    (".", "500 Line too long"),
    (".", "452 4.3.1 too big for now"),
    (".", "554 5.7.1 spam"),
    (".", Drop()),
]


@pytest.mark.long
@pytest.mark.parametrize(("step", "action"), BAD, ids=repr)
@pytest.mark.parametrize("dialogue", [PLAIN, PIPELINED, CHUNKED], ids=lambda each: each.name)
async def test_a_good_message_beside_fifteen_bad_ones_waits_no_pause(
    step: str, action: Action, dialogue: Dialogue, certificates: Certificates, tmp_path: Path
) -> None:
    bad: set[int] = set()

    def sender(connection: Connection, line: str) -> Action:
        bad.discard(id(connection))
        if "bad" in line:
            bad.add(id(connection))
        return judge(connection, line) if step == "MAIL" else None

    def judge(connection: Connection, _: str) -> Action:
        return action if id(connection) in bad else None

    script: Any = {"MAIL": sender, **({step: judge} if step != "MAIL" else {})}
    async with (
        relaying(certificates.good, script, dialogue=dialogue) as (server, relay),
        spooling(relay, tmp_path, SPOOL_RETRY_SECONDS="3600") as spool,
    ):
        for number in range(15):
            await send(spool, f"r{number}@example.test", reverse_path=f"bad{number}@example.test")
        delivery: Any = spool._delivery
        await until(lambda: not delivery._busy)
        await send(spool, "good@example.test", reverse_path="good@example.test")
        await until(lambda: any("FROM:<good@" in message.mail for message in server.messages))
        assert not delivery._gate.closed


async def test_the_accounts_limit_kills_nothing(
    certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    script: dict[Any, Action] = {"RCPT": "550 5.4.5 Daily user sending limit exceeded. For more information …"}
    async with (
        relaying(certificates.good, script, dialogue=PIPELINED) as (server, relay),
        spooling(relay, tmp_path, SPOOL_RETRY_SECONDS="1") as spool,
    ):
        for number in range(5):
            await send(spool, reverse_path=f"s{number}@example.test")
        await until(lambda: server.verbs.count("RCPT") >= 5)
        await until_states(spool, *["queued"] * 5)
        causes = [getattr(each, "facts", {}).get("cause", "") for each in caplog.records]
        assert sum("no verdict" in cause and "BACKEND_SMTP_MESSAGES_PER_MINUTE" in cause for cause in causes) >= 5
        del server.script["RCPT"]
        await until_states(spool)
        assert len(server.messages) == 5


async def test_the_log_names_the_setting_for_long_lines(
    certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with (
        relaying(certificates.good, {".": "500 Line too long"}, dialogue=PIPELINED) as (_, relay),
        spooling(relay, tmp_path) as spool,
    ):
        await send(spool, reverse_path="")
        await until_states(spool, "dead")
        causes = [getattr(each, "facts", {}).get("cause", "") for each in caplog.records]
        assert any(cause.endswith("(see SMTP_LONG_LINES)") for cause in causes)
