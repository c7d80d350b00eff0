"""The fault matrix of the backend's side, row by row: where each row is tested, and the rows that had no test yet."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from dataclasses import replace

import pytest

from fakes.server import Step
from fakes.smtp import Action, Connection, Drip, FakeSMTPServer, Hang
from legacy_email_proxy.contracts import Disconnected, Overloaded, Recipient, Refused, Unverified
from legacy_email_proxy.replies import smtp_reply
from legacy_email_proxy_plugins.smtps import Timeouts
from matrix import missing_tests
from realservers.certificates import Certificates
from smtps.support import CLIENT, CONTENT, SENDER, SHORT, Dialogue, deliver, pieces, relay_to, relaying, server_tls

# The tests of `transaction_faults` and `content_faults` are run in every dialogue: one command at a time, pipelined by
# the proxy, pipelined by the device, and with BDAT.
MATRIX = {
    # Getting in.
    "B1": ["setting_up:nobody_listens", "setting_up:every_address_of_the_name_is_tried"],
    "B2": ["setting_up:the_name_does_not_resolve", "setting_up:every_address_of_the_name_is_tried"],
    "B3": ["setting_up:a_failure_before_the_login_is_no_verdict_and_sends_nothing"],
    "B4": [
        "setting_up:a_bad_certificate_gets_nothing_from_us",
        "against_postfix:a_bad_certificate",
        "fault_matrix:a_backend_that_only_speaks_old_tls",
    ],
    "B5": [
        "setting_up:tls_where_the_backend_speaks_in_the_clear",
        "setting_up:a_failure_before_the_login_is_no_verdict_and_sends_nothing",
    ],
    "B6": ["setting_up:a_failure_before_the_login_is_no_verdict_and_sends_nothing"],
    "B7": [
        "setting_up:no_mechanism_in_common",
        "happy_path:only_what_the_backend_offers_is_asked_of_it",
        "pipelining:without_pipelining_each_command_waits_for_its_reply",
    ],
    "B8": [
        "setting_up:one_login_is_tried_and_another_way_only_where_it_was_not_understood",
        "setting_up:a_refused_password_is_not_tried_again_and_told_once",
    ],
    # The envelope.
    "B9": ["transaction_faults:no_verdict_before_the_content", "transaction_faults:a_verdict_is_passed_on_as_it_is"],
    "B10": [
        "transaction_faults:each_recipient_gets_its_own_verdict",
        "fault_matrix:recipients_of_all_kinds",
        "pipelining:a_refused_sender_is_the_verdict_on_every_recipient",
        "against_postfix:a_group_of_recipients",
    ],
    "B11": ["transaction_faults:421_at_the_second_recipient_ends_it_for_all"],
    "B12": [
        "transaction_faults:duplicate_recipients_are_counted_one_by_one",
        "pipelining:content_wanted_for_nobody_is_an_empty_message_for_nobody",
    ],
    # The content.
    "B13": [
        "transaction_faults:no_verdict_before_the_content",
        "content_faults:a_reply_before_the_final_dot_is_no_reply_to_it",
        "content_faults:a_reply_before_the_last_chunk_is_no_reply_to_it",
        "wire:a_reply_that_lies_unread_in_the_socket_is_seen_before_the_end_is_sent",
        "pipelining:refused_data_is_told_when_content_is_sent",
    ],
    "B14": [
        "content_faults:the_backend_drops_the_connection_in_the_content",
        "content_faults:the_backend_drops_the_connection_within_the_last_chunk",
        "transaction_faults:no_verdict_on_a_chunk",
    ],
    "B15": [
        "large_messages:a_backend_that_stops_reading_stops_the_device_until_the_deadline",
        "wire:a_trickle_is_given_up_when_it_takes_too_long",
    ],
    "B16": [
        "transaction_faults:no_verdict_on_the_content",
        "transaction_faults:a_message_accepted_without_a_word_is_not_sent_again",
        "transaction_faults:421_to_the_end_is_a_refusal_and_the_end",
        "transaction_faults:two_verdicts_are_none",
    ],
    "B17": ["content_faults:a_patient_backend_is_waited_for"],
    "B18": [
        "transaction_faults:cancelled_at_any_step_nothing_is_delivered_and_the_slot_is_free",
        "smtp/session:client_that_vanishes_behind_the_end_gets_exactly_one_delivery",
    ],
    # What is told.
    "B19": ["fault_matrix:every_code_at_every_step", "core/replies:class_and_code_are_kept"],
    "B20": ["transaction_faults:a_verdict_is_passed_on_as_it_is", "core/replies:any_verdict_is_one_short_line"],
    # Connections.
    "B21": ["pool:whatever_quit_is_answered_with_the_end_is_bounded"],
    "B22": [
        "pool:dead_at_mail_it_is_replaced_once_and_unnoticed",
        "pipelining:a_group_on_a_connection_that_died_idle_is_sent_again_once",
        "pool:later_than_mail_nothing_is_tried_again",
    ],
    "B23": ["fault_matrix:a_backend_that_wants_less_is_not_hammered"],
    "B24": [
        "pipelining:the_backend_offers_less_when_asked_again",
        "happy_path:internationalized_mail_to_a_backend_that_does_not_take_it",
    ],
    "B25": ["fault_matrix:a_backend_that_hangs_on_everybody", "fairness:nobody_waits_for_ever"],
    "B26": ["fault_matrix:a_backend_that_speaks_in_crumbs", "large_messages:a_slow_backend_is_not_a_stuck_one"],
}

# What aiosmtplib had to mend in 2026, and smtplib still has: the same must not be found here.
KNOWN_ELSEWHERE = {
    "commands in addresses (GHSA-v3q9-hj7j-63hq)": [
        "transaction_faults:no_path_becomes_a_second_command",
        "pipelining:what_is_no_address_is_left_out_of_the_group",
        "dialogue:no_path_and_no_parameter_ever_makes_a_second_command_or_parameter",
        "dialogue:a_path_arrives_octet_for_octet",
    ],
    "octets behind the answer to STARTTLS": [
        "setting_up:starttls_injection_is_told_as_such",
        "setting_up:what_was_offered_before_starttls_is_forgotten",
    ],
    "STARTTLS that is stripped": [
        "setting_up:starttls_that_is_not_offered_is_not_done_without",
        "setting_up:a_failure_before_the_login_is_no_verdict_and_sends_nothing",
    ],
    "replies paired with the wrong command": [
        "dialogue:what_nobody_asked_for_is_noticed_and_makes_the_rest_worthless",
        "dialogue:never_more_replies_are_given_than_were_asked_for",
        "pipelining:a_reply_too_many_in_a_group_is_no_verdict",
        "pipelining:a_reply_too_few_in_a_group_is_waited_for",
        "transaction_faults:cancelled_at_any_step_nothing_is_delivered_and_the_slot_is_free",
    ],
    "lines that nobody asked for": [
        "pool:what_the_backend_closed_while_idle_is_not_used",
        "content_faults:a_reply_in_the_middle_of_the_content_is_no_reply_to_the_final_dot",
        "transaction_faults:a_goodbye_behind_the_verdict_does_not_change_it",
    ],
    "replies without an end": [
        "dialogue:a_reply_has_a_limit",
        "dialogue:many_recipients_have_room_for_their_verdicts",
    ],
    "QUIT and the end of TLS": ["pool:whatever_quit_is_answered_with_the_end_is_bounded"],
    "passwords in what is logged": [
        "setting_up:no_secret_is_ever_shown",
        "setting_up:no_secret_is_shown_when_it_comes_back_later",
    ],
}


def test_every_row_has_its_test() -> None:
    # B27 is about OAuth2, and with the plugin for that.
    assert MATRIX.keys() == {f"B{number}" for number in range(1, 27)}
    assert missing_tests(MATRIX | KNOWN_ELSEWHERE, "smtps") == []
    assert len(missing_tests({"B1": ["login:no_such_test", "pool:no_such_test"]}, "smtps")) == 2


async def test_a_backend_that_only_speaks_old_tls(certificates: Certificates) -> None:
    tls = server_tls(certificates.good)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        tls.minimum_version = ssl.TLSVersion.TLSv1
        tls.maximum_version = ssl.TLSVersion.TLSv1_1
    tls.set_ciphers("ALL:@SECLEVEL=0")
    async with FakeSMTPServer(tls=tls) as server:
        relay = relay_to(server.port, certificates.ca_file)
        with pytest.raises((Unverified, Disconnected), match="TLS"):
            await deliver(relay)
        assert server.octets == b""
        await relay.aclose()


@pytest.mark.parametrize(
    "judged",
    [[250, 550, 250], [550, 550, 550], [450, 450, 450], [450, 550, 450], [552, 250, 452], [250, 250, 450]],
    ids=str,
)
async def test_recipients_of_all_kinds(judged: list[int], dialogue: Dialogue, certificates: Certificates) -> None:
    twice = all(400 <= code < 500 for code in judged)
    script: dict[Step, Action] = {("RCPT", n): f"{code} x" for n, code in enumerate(judged * (1 + twice), 1)}
    async with relaying(certificates.good, script, dialogue=dialogue) as (server, relay):
        async with relay.transaction(CLIENT, SENDER, {}) as transaction:
            recipients = [Recipient(f"r{number}@example.test") for number in range(1, 4)]
            verdicts = await transaction.add_recipients(recipients, content_follows=dialogue.together)
            assert [each.code if each else 250 for each in verdicts] == judged
            if 250 in judged:
                await transaction.send(pieces(CONTENT))
        taken = [f"RCPT TO:<{each.forward_path}>" for each, code in zip(recipients, judged, strict=True) if code == 250]
        assert [list(message.rcpt) for message in server.messages] == ([taken] if taken else [])
        assert len(server.connections) == 1 + twice


CODES = [
    *(432, 450, 451, 452, 454, 455, 500, 501, 502, 503, 504, 521),
    *(530, 534, 535, 538, 550, 551, 552, 553, 554, 555, 556),
]


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "."])
async def test_every_code_at_every_step(step: str, dialogue: Dialogue, certificates: Certificates) -> None:
    """The class is kept, except where the code judges the proxy and not the mail: a login, or a command of ours."""
    step = "." if step == "DATA" and dialogue.chunking else step
    # Each 4yz before the content is asked for again on another connection, see test_pool.
    twice = step in ("MAIL", "RCPT")
    said = [code for code in CODES for _ in range(1 + (twice and code < 500))]
    script: dict[Step, Action] = {(step, number): f"{code} no" for number, code in enumerate(said, 2)}
    told = []
    async with relaying(certificates.good, script, dialogue=dialogue) as (server, relay):
        await deliver(relay, dialogue=dialogue)
        for _ in CODES:
            with pytest.raises(Refused) as refused:
                await deliver(relay, dialogue=dialogue)
            told.append(smtp_reply(refused.value).code)
        assert len(server.connections) == 1 + sum(twice for code in CODES if code < 500)
        assert len(server.messages) == 1
    ours = {530, 534, 535, 538} | (set(range(500, 505)) if step == "DATA" else set())
    assert told == [451 if code in ours else code for code in CODES]


@pytest.mark.parametrize(
    ("step", "reply", "tries"),
    [("MAIL", "450 4.7.0 slow down", 2), ("RCPT", "452 4.5.3 enough", 2), (".", "432 4.7.1 no more today", 1)],
)
async def test_a_backend_that_wants_less_is_not_hammered(
    step: str, reply: str, tries: int, dialogue: Dialogue, certificates: Certificates
) -> None:
    async with relaying(certificates.good, {step: reply}, dialogue=dialogue) as (server, relay):
        for _ in range(3):
            with pytest.raises(Refused):
                await deliver(relay, dialogue=dialogue)
        # A second connection that says the same is believed, and is as good as any.
        assert server.verbs.count("MAIL") == 2 + tries
        assert server.verbs.count("AUTH") == tries


async def test_a_backend_that_hangs_on_everybody(certificates: Certificates) -> None:
    timeouts = replace(Timeouts(), slot=SHORT)
    async with relaying(certificates.good, {"RCPT": Hang()}, timeouts=timeouts, BACKEND_SMTP_MAX_CONNECTIONS=4) as (
        server,
        relay,
    ):
        clients = [replace(CLIENT, address=f"10.0.0.{number}") for number in range(40)]
        stuck = [asyncio.create_task(deliver(relay, client=client)) for client in clients]
        done, pending = await asyncio.wait(stuck, timeout=50 * SHORT, return_when=asyncio.FIRST_EXCEPTION)
        while len(done) < 36:
            more, pending = await asyncio.wait(pending, timeout=50 * SHORT, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        assert {type(task.exception()) for task in done} == {Overloaded}
        assert len(server.connections) == 4
        assert relay.capabilities().max_octets == 50_000_000
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


async def test_a_backend_that_speaks_in_crumbs(dialogue: Dialogue, certificates: Certificates) -> None:
    def drip(text: str) -> Drip:
        return Drip(text, 0.0001)

    def judge(_: Connection, line: str) -> Drip:
        return drip("550-5.1.1 no\n550 5.1.1 such" if "nobody" in line else "250 OK")

    script: dict[Step, Action] = {
        "GREETING": drip("220-a\n220 b"),
        "MAIL": drip("250 2.1.0 OK"),
        "RCPT": judge,
        ".": drip("250-2.0.0 a\n250 2.0.0 b"),
    }
    async with relaying(certificates.good, script, dialogue=dialogue) as (server, relay):
        receipt = await deliver(relay, "nobody@example.test", "a@example.test", dialogue=dialogue)
        assert receipt.detail == "250 2.0.0 a 2.0.0 b"
        await server.until(lambda server: server.messages)
        assert server.messages[0].rcpt == ("RCPT TO:<a@example.test>",)
