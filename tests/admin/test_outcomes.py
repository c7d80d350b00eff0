"""What last became of a backend, from the events that the service logs."""

from __future__ import annotations

import logging

import pytest

from admin.support import LOGGER, Clock, observed
from legacy_email_proxy import log
from legacy_email_proxy.admin.outcomes import Backend, Outcome, Outcomes
from legacy_email_proxy.contracts import (
    CredentialsRefused,
    Disconnected,
    Failure,
    LoginRefused,
    NoCredentials,
    Overloaded,
    Refused,
    StorageFull,
    Unreachable,
    Unusable,
    Unverified,
    bound,
)

SMTP = Backend("", "smtp")


@pytest.mark.parametrize("words", ["message relayed", "message delivered"])
async def test_mail_that_went_through(words: str) -> None:
    outcomes = Outcomes(Clock())
    async with observed(outcomes):
        log.event(LOGGER, logging.INFO, words, octets=1)
    assert outcomes.last(SMTP) == Outcome(1000.0)
    assert outcomes.successes == {SMTP: 1000.0}


async def test_mail_that_only_the_spool_has_says_nothing_of_the_backend() -> None:
    outcomes = Outcomes()
    async with observed(outcomes):
        log.event(LOGGER, logging.INFO, "message spooled", octets=1)
    assert outcomes.last(SMTP) is None


async def test_a_maildrop_that_was_opened() -> None:
    outcomes = Outcomes(Clock())
    async with observed(outcomes):
        log.event(LOGGER, logging.INFO, "pop3 session ended", retrieved=0)
        assert outcomes.last(Backend("", "pop3")) is None
        log.event(LOGGER, logging.INFO, "pop3 session ended", messages=0, account="ann")
    assert outcomes.successes == {Backend("ann", "pop3"): 1000.0}


@pytest.mark.parametrize(
    "failure",
    [
        Unreachable("down"), Disconnected("gone"), Unverified("no certificate"), CredentialsRefused("no"),
        NoCredentials("none"), Unusable("no way"), Overloaded("later"), Refused(421, "4.3.2", "closing"),
    ],
)  # fmt: skip
async def test_trouble_with_the_backend(failure: Failure) -> None:
    outcomes = Outcomes(Clock())
    async with observed(outcomes):
        log.failure(LOGGER, "message refused", failure)
    assert outcomes.last(SMTP) == Outcome(1000.0, str(failure))
    assert outcomes.successes == {}


@pytest.mark.parametrize(
    "failure",
    [
        Refused(550, "5.1.1", "no such user"), StorageFull("full"), LoginRefused("the client's own"), ValueError("bug"),
        Overloaded("all connections are busy", about_us=False),
    ],
)  # fmt: skip
async def test_what_says_nothing_of_the_backend(failure: Exception) -> None:
    outcomes = Outcomes()
    async with observed(outcomes):
        log.failure(LOGGER, "message refused", failure)
    assert outcomes.last(SMTP) is None


async def test_the_last_one_counts() -> None:
    clock = Clock()
    outcomes = Outcomes(clock)
    async with observed(outcomes):
        log.failure(LOGGER, "smtp sender refused", Unreachable("down"))
        clock.now = 1001.0
        log.event(LOGGER, logging.INFO, "message relayed", octets=1)
    assert outcomes.last(SMTP) == Outcome(1001.0)


async def test_the_account_is_known_where_the_failure_is_logged_outside_of_it() -> None:
    outcomes = Outcomes(Clock())
    async with observed(outcomes):
        with bound(session="s1"):
            try:
                with bound(account="ann"):
                    raise Unreachable("down")
            except Unreachable as failure:
                log.failure(LOGGER, "smtp sender refused", failure)
    assert outcomes.last(Backend("ann", "smtp")) == Outcome(1000.0, "down")
