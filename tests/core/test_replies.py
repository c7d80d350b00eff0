"""The reply table: one row per kind of failure, and nothing foreign in a reply line."""

from __future__ import annotations

import inspect
import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_email_proxy import contracts, replies
from legacy_email_proxy.contracts import Failure, Refused, SettingsMistake
from legacy_email_proxy.replies import SMTP, Reply, pop3_error, printable, severity, smtp_reply

KINDS = [
    kind
    for name in contracts.__all__
    if inspect.isclass(kind := getattr(contracts, name))
    and issubclass(kind, Failure)
    and kind not in (Failure, Refused)
]


@pytest.mark.fault("B6")
@pytest.mark.parametrize("kind", KINDS)
def test_our_own_trouble_is_temporary(kind: type[Failure]) -> None:
    reply = smtp_reply(kind("secret detail 10.0.0.5"))
    assert str(reply.code)[0] == reply.enhanced[0] == "4"
    assert "secret" not in str(reply) + pop3_error(kind("secret"))


@pytest.mark.parametrize("error", [ValueError("x"), Failure("x"), KeyError(), OSError(5, "x"), RecursionError()])
def test_anything_unexpected_is_temporary(error: Exception) -> None:
    assert str(smtp_reply(error)) == "451 4.3.0 Local error, try again later"
    assert pop3_error(error) == "-ERR [SYS/TEMP] local error, try again later"
    assert severity(error) == logging.ERROR


def test_every_reply_of_ours_agrees_with_itself() -> None:
    for name, reply in vars(SMTP).items():
        if isinstance(reply, Reply):
            assert printable(reply.text) == reply.text, name
            assert reply.enhanced == "" or reply.enhanced[0] == str(reply.code)[0], name


VERDICTS = [
    ((550, "5.1.1", "No such user"), "550 5.1.1 No such user"),
    ((450, "4.2.0", "Greylisted"), "450 4.2.0 Greylisted"),
    ((552, "", "Too big"), "552 5.0.0 Too big"),
    ((452, "5.1.1", "class does not agree"), "452 4.0.0 class does not agree"),
    ((550, "5.7.x", "no code"), "550 5.0.0 no code"),
    ((554, "5.7.1", ""), "554 5.7.1 Refused by the backend"),
    ((550, "5.7.1", "two\r\n550 lines\r\nand caf\u00e9\x00\x1b[31m"), "550 5.7.1 two 550 lines and caf [31m"),
    ((550, "5.7.1", "x" * 1000), "550 5.7.1 " + "x" * 400),
    # what judges the proxy and not the message
    *(((code, "5.5.1", "x"), "451 4.3.0 The backend did not take this, try again later")
      for code in (421, 530, 534, 535, 538)),
]  # fmt: skip


@pytest.mark.parametrize(("verdict", "line"), VERDICTS)
def test_verdicts_of_the_backend(verdict: tuple[int, str, str], line: str) -> None:
    assert str(smtp_reply(Refused(*verdict))) == line


@pytest.mark.fault("B19")
@pytest.mark.parametrize("code", [432, 450, 451, 452, 454, 455, *range(500, 505), 521, *range(550, 557)])
def test_class_and_code_are_kept(code: int) -> None:
    assert smtp_reply(Refused(code, f"{str(code)[0]}.1.1", "x")).code == code


@pytest.mark.parametrize("code", [250, 354, 200, 600, 0, -1])
def test_a_refusal_is_no_success(code: int) -> None:
    with pytest.raises(ValueError, match="4yz or 5yz"):
        Refused(code, "", "")


@pytest.mark.fault("B20")
@given(st.integers(400, 599), st.text(), st.text())
def test_any_verdict_is_one_short_line(code: int, enhanced: str, text: str) -> None:
    line = str(smtp_reply(Refused(code, enhanced, text)))
    assert re.fullmatch(r"[45]\d\d [45]\.\d{1,3}\.\d{1,3} [\x20-\x7e]+", line)
    assert line[0] == line[4]
    assert len(line) <= 510


RESPONSE_CODES = {
    "LoginRefused": "-ERR [AUTH] ",
    "LoginsLimited": "-ERR [SYS/TEMP] ",
    "MaildropBusy": "-ERR [IN-USE] ",
    "Unusable": "-ERR [SYS/PERM] ",
    "MessageGone": "-ERR the message",
    "CredentialsRefused": "-ERR [SYS/TEMP] ",
    "Unverified": "-ERR [SYS/TEMP] ",
    "Unreachable": "-ERR [SYS/TEMP] ",
}


@pytest.mark.fault("C1", "C2", "C3", "C4")
@pytest.mark.parametrize(("kind", "start"), RESPONSE_CODES.items())
def test_pop3_response_codes(kind: str, start: str) -> None:
    assert pop3_error(getattr(contracts, kind)("x")).startswith(start)


@given(st.text())
def test_printable_is_printable(text: str) -> None:
    assert re.fullmatch(r"[\x20-\x7e]*", printable(text))
    assert len(printable(text)) <= replies.MAX_TEXT_OCTETS


def test_failures_tell_where_to_look() -> None:
    assert str(contracts.Unreachable("no route", look_at="BACKEND_IMAP_HOST")) == "no route (see BACKEND_IMAP_HOST)"
    assert SettingsMistake("A: x", "B: y").lines == ("A: x", "B: y")
