"""Whom a refusal is about: an address, the message, the account's limit, or us."""

from __future__ import annotations

import pytest

from fakes.server import Step
from fakes.smtp import Action, Drop
from legacy_email_proxy.contracts import Disconnected, Refused
from legacy_email_proxy.replies import smtp_reply
from legacy_email_proxy_plugins.smtps.verdicts import NOT_ABOUT_THE_MESSAGE, verdict
from realservers.certificates import Certificates
from smtps.support import Dialogue, deliver, relaying

# As the providers publish them, or as they are seen in public reports.
LIMITS = [
    "550 5.4.5 Daily user sending limit exceeded. For more information on Gmail sending limits go to https://support",
    "550 5.4.5 Daily user sending quota exceeded. d2e1a72fcca58-72a0000 - gsmtp",
    "550 5.4.5 Daily SMTP relay limit exceeded for customer.",
    "550 5.7.1 Email quota exceeded. - gsmtp",
    "550 5.4.5 <a@example.test>: Recipient address rejected: Domain Sending Quota Exceeded",
    "550 5.1.90 Your message can't be sent because you've reached your daily limit for message recipients. (AS:46601)",
    "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed to process message due to a"
    " permanent exception with message The message can't be submitted because the sender's submission quota was"
    " exceeded.",
    "550 5.2.2 Submission quota exceeded",
    "550 5.7.233 Your message can't be sent because your tenant exceeded its daily limit for sending email to external",
    "550 5.7.705 Access denied, tenant has exceeded threshold. For more information please go to http://go.example",
    "550 5.1.8 Access denied, bad outbound sender AS(42004)",
    "554 5.2.0 STOREDRV.Submission.Exception:OutboundSpamException; WASCL UserAction verdict is Suspend. Reason",
    "550 5.4.6 Unusual sending activity detected. Please try after sometime",
    "550 5.4.6 mail rate exceeded limit",
    "550 5.7.1 Your mail limit has been reached.",
    "550 Maximum credits exceeded",
    "554 Throttling failure: Daily message quota exceeded",
    "550 Domain example.test has exceeded the max emails per hour (313/250 (125%)) allowed. Message discarded.",
    "550 Domain example.test has exceeded the max defers and failures per hour (5/5 (100%)) allowed.",
    "550 5.7.1 Your message could not be sent. The limit on the number of allowed outgoing messages was exceeded",
    "554 5.7.1 <n@example.test>: Recipient address rejected: Policy Rejection- SENDER_QUOTA_REJECTION.",
    "554 5.7.1 <a@example.test>: Recipient address rejected: Policy rejection: Sender quota exceeded",
    "554 5.7.1 <a@example.test>: Recipient address rejected: You have exceeded your Outmail quota.",
    "554 5.7.1 <a@example.test>: Sender address rejected: Number messages per hour exceeded",
    "550 Daily limit has been exceeded for [scanner@example.test]",
    "550 - Stop, you are sending too fast!",
    "554 5.7.0 Your account has reached its hourly sending limit",
    "550 5.7.1 Sending limit for this account exceeded",
    "553 5.7.1 You have exceeded the daily sending quota",
]
ABOUT_US = [
    "504 5.5.2 <scanner>: Helo command rejected: need fully-qualified hostname",
    "550 5.7.1 <[192.0.2.1]>: Helo command rejected: Host not found",
    "554 5.7.1 <unknown[192.0.2.1]>: Client host rejected: Access denied",
    "503 This mail server requires authentication when attempting to send to a non-local e-mail address.",
    "503 AUTH first (#5.5.1)",
    "550 5.7.1 Client was not authenticated",
    "550-Please turn on SMTP Authentication in your mail client.",
    "553 5.7.1 authentication required",
]
VERDICTS = [
    "500 Line too long (see RFC5321 4.5.3.1.6)",
    "501 5.1.3 Bad recipient address syntax",
    "501 5.1.7 Bad sender address syntax",
    "502 5.5.1 no",
    "503 5.1.2 no such domain",
    "504 5.5.2 <scanner>: Sender address rejected: need fully-qualified address",
    "550 5.1.1 <a@example.test>: Recipient address rejected: User unknown",
    "550 maximum allowed line length is 998 octets, got 1200",
    "550 5.7.26 This mail has been blocked because the sender is unauthenticated. The sender must authenticate with"
    " at least one of SPF or DKIM.",
    "550 5.7.60 SMTP; Client does not have permissions to send as this sender",
    "552 5.2.2 The email account that you tried to reach is over quota",
    "552 5.2.2 mailbox full",
    "552 5.3.4 Message size exceeds fixed limit",
    "552 5.2.3 Your message exceeded the size limit",
    "552-5.2.3 Your message exceeded Google's message size limits.",
    "552 message size limit exceeded",
    "553 5.1.3 That is no address",
    "554 5.7.1 spam",
    "554 5.2.2 mailbox full; STOREDRV.Submission.Exception: quota of the mailbox exceeded",
    "554 5.7.1 This message exceeds the maximum number of recipients",
    "555 5.5.4 Unsupported option: RET",
]


def judged(line: str, *, named: bool = True) -> Refused:
    code, _, rest = line.partition(" ")
    enhanced, _, text = rest.partition(" ")
    if enhanced.count(".") != 2:
        enhanced, text = "", rest
    return verdict(int(code[:3]), enhanced, text, line, named=named)


@pytest.mark.parametrize("line", [*LIMITS, *ABOUT_US])
def test_what_is_about_the_account_or_us_is_temporary_and_says_so(line: str) -> None:
    refused = judged(line)
    assert not refused.permanent
    assert not refused.about_us  # nor does it stop mail that the server takes
    assert smtp_reply(refused).code == 451
    assert smtp_reply(refused).enhanced.startswith("4.")
    assert "no verdict" in refused.detail


@pytest.mark.parametrize("line", VERDICTS)
def test_what_is_about_the_address_or_the_message_is_passed_on(line: str) -> None:
    refused = judged(line)
    assert refused.permanent
    assert smtp_reply(refused).code == int(line[:3])


@pytest.mark.parametrize("code", range(500, 505))
def test_what_a_server_does_not_understand_of_our_commands_is_no_verdict(code: int) -> None:
    refused = judged(f"{code} 5.5.1 what?", named=False)
    assert (smtp_reply(refused).code, smtp_reply(refused).enhanced) == (451, "4.5.1")


def test_a_500_too_is_judged_by_its_words() -> None:
    assert not judged("500 Authentication required").permanent


def test_where_the_server_gave_no_enhanced_code_there_is_none() -> None:
    assert judged("550 Maximum credits exceeded").enhanced == ""
    assert judged("550 5.7.1 Email quota exceeded.").enhanced == "4.7.1"


def test_only_a_line_that_is_too_long_names_the_setting() -> None:
    assert "SMTP_LONG_LINES" not in str(judged("550 5.1.1 User unknown"))


@pytest.mark.parametrize("line", ["500 Line too long", "550 maximum allowed line length is 998 octets, got 1200"])
def test_a_line_that_is_too_long_names_the_setting(line: str) -> None:
    assert "see SMTP_LONG_LINES" in str(judged(line))


def test_every_row_says_where_it_can_be_read() -> None:
    for row in NOT_ABOUT_THE_MESSAGE:
        assert row.words
        assert row.advice
        assert row.source


ADDRESSES = [("MAIL", "504 5.5.2 <x>: Sender address rejected"), ("RCPT", "501 5.1.3 Bad recipient address syntax"),
             ("RCPT", "553 5.1.3 no"), (".", "500 Line too long")]  # fmt: skip


@pytest.mark.parametrize(("step", "reply"), ADDRESSES)
async def test_a_verdict_on_what_we_named_reaches_the_device(
    step: str, reply: str, dialogue: Dialogue, certificates: Certificates
) -> None:
    # The second message: of the first the backend may not have known BDAT.
    async with relaying(certificates.good, {(step, 2): reply}, dialogue=dialogue) as (server, relay):
        await deliver(relay, dialogue=dialogue)
        with pytest.raises(Refused) as refused:
            await deliver(relay, dialogue=dialogue)
        assert str(smtp_reply(refused.value)).startswith(reply[:3])
        await deliver(relay, dialogue=dialogue)
        assert len(server.messages) == 2
        assert len(server.connections) == 1


@pytest.mark.parametrize("step", ["EHLO", "AUTH", "MAIL", "RCPT"])
async def test_who_hangs_up_before_mail_has_nothing_against_the_message(
    step: str, dialogue: Dialogue, certificates: Certificates
) -> None:
    script: dict[Step, Action] = {step: Drop()}
    async with relaying(certificates.good, script, dialogue=dialogue) as (_, relay):
        with pytest.raises(Disconnected) as lost:
            await deliver(relay, dialogue=dialogue)
        assert lost.value.about_us == (step in ("EHLO", "AUTH"))
    script = {step: "421 4.3.2 going down"}
    if step in ("MAIL", "RCPT"):
        async with relaying(certificates.good, script, dialogue=dialogue) as (_, relay):
            with pytest.raises(Disconnected) as lost:
                await deliver(relay, dialogue=dialogue)
            assert lost.value.about_us


def test_what_the_log_says_of_a_limit_is_one_sentence() -> None:
    """Also without a spool, where nobody but the device tries again."""
    said = "550 5.4.5 Daily user sending quota exceeded."
    detail = verdict(550, "5.4.5", said[10:], f"while sending RCPT: the backend said {said}", named=True).detail
    assert "quota exceeded: the account has sent as much as its provider allows for now, so this is no" in detail
    assert "it is tried again" not in detail
