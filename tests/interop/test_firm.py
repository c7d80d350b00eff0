"""A small firm's week in a minute: what an operator reads afterwards answers what happened, without a packet dump.

Nobody watches while it happens: there are the history, the devices, the log, /readyz, /metrics, and the alarms that
were received.
"""

from __future__ import annotations

import json
import poplib
from pathlib import Path
from typing import Any

import pytest

from interop.firm import ERP, MINUTE, SCANNER, WRONG, Firm, firm
from realservers.certificates import Certificates

BEGUN, LASTS, OVER = "begun", "lasts", "over"
SMTP, POP3 = "backend smtp", "backend pop3"


@pytest.mark.long
def test_a_week_of_a_small_firm(certificates: Certificates, tmp_path: Path) -> None:
    with firm(certificates.good, tmp_path) as it:
        try:
            monday(it)
            tuesday(it)
            wednesday(it)
            thursday_and_friday(it)
            if it.has_disk:
                saturday(it)
            sunday(it)
        finally:
            print("\n".join(it.story))
        no_secret_anywhere(it)


def monday(it: Firm) -> None:
    it.day("Monday", 8, "the consent is given; three scans, one to a mistyped address; the ERP program fetches")
    it.consent()
    for _ in range(3):
        it.scan(it.world.account.address)
    it.wait_for("message delivered", 3)
    it.scan("nobody@example.test")
    it.wait_for("recipient failed for good")
    it.arrived(3)
    assert it.fetch() == 3
    it.wait_for("pop3 session ended")
    status, said = it.asked("/readyz")
    assert status == 200, said
    # Its sender has no mailbox, so nobody could be told by mail.
    it.after(MINUTE)
    it.told((BEGUN, "spool_dead"))


def tuesday(it: Firm) -> None:
    it.day("Tuesday", 9, "the mistyped scan is still there; somebody sets up another scanner, wrong in six ways")
    it.after(MINUTE)
    it.told((LASTS, "spool_dead"))
    dead = it.run("spool", "list")
    it.show("spool list", dead)
    it.run("spool", "drop", dead.split()[0])
    it.after(MINUTE)
    it.told((OVER, "spool_dead"))
    it.six_mistakes()
    it.wait_for("smtp sender refused")


def wednesday(it: Firm) -> None:
    it.day("Wednesday", 10, "the provider is down for an hour; the scanner does not notice")
    it.world.postfix.kill()
    it.scan(it.world.account.address)
    it.wait_for("delivery paused")
    it.after(MINUTE)
    it.after(16 * MINUTE)
    it.told((BEGUN, SMTP))
    status, said = it.asked("/readyz")
    assert status == 503
    assert "Connection refused" in said
    it.show("/readyz", said)
    assert it.figure('spool_messages{state="queued"}') == 1
    assert it.figure('messages_total{leg="smtp",verdict="not_delivered"}') >= 1
    it.show("history", it.run("history", "--failed", "--limit", "1"))
    it.after(46 * MINUTE)
    it.told((BEGUN, "spool_old"))
    it.world.postfix.start_again()
    it.delivered_after(5 * MINUTE, 4)
    it.after(MINUTE)
    it.told((OVER, SMTP), (OVER, "spool_old"))


def thursday_and_friday(it: Firm) -> None:
    it.arrived(1)
    it.revoke()
    it.day("Thursday", 8, "the consent was revoked in the night")
    it.scan(it.world.account.address)
    it.wait_for(" no token")
    with pytest.raises(poplib.error_proto, match=r"-ERR \[SYS/TEMP\]"):
        it.fetch()
    it.after(MINUTE)
    it.told((BEGUN, "token"))
    it.after(16 * MINUTE)
    it.told((BEGUN, SMTP), (BEGUN, POP3))
    it.after(46 * MINUTE)
    it.told((BEGUN, "spool_old"))
    status, said = it.asked("/readyz")
    assert status == 503
    it.show("/readyz", said)
    it.show("authorize --status", it.run("authorize", "--status"))
    it.day("Friday", 10, "nobody has read it; so it is told again, and the owner consents anew")
    it.after(MINUTE)
    it.told((LASTS, "token"), (LASTS, SMTP), (LASTS, POP3), (LASTS, "spool_old"))
    it.consent()
    it.delivered_after(20 * MINUTE, 5)
    it.arrived(2)
    assert it.fetch() == 2
    it.after(MINUTE)
    it.told((OVER, "token"), (OVER, SMTP), (OVER, POP3), (OVER, "spool_old"))
    it.show("authorize --status", it.run("authorize", "--status"))


def saturday(it: Firm) -> None:
    it.day("Saturday", 12, "somebody fills the disk of STATE_DIR; the spool has another one")
    it.wait_for_history()
    it.fill_disk()
    it.scan(it.world.account.address)
    it.wait_for("message delivered", 6)
    it.wait_for("history not written")
    it.after(MINUTE)
    it.told((BEGUN, "disk"))
    status, said = it.asked("/readyz")
    assert status == 503
    it.show("/readyz", said)
    it.show("the log", it.wait_for("history not written"))
    it.empty_disk()
    it.after(2 * MINUTE)
    it.told((OVER, "disk"))
    it.scan(it.world.account.address)
    it.wait_for("message delivered", 7)
    it.show("the log", it.wait_for("history written again"))
    assert it.asked("/readyz")[0] == 200


def sunday(it: Firm) -> None:
    it.day("Sunday", 20, "what happened?")
    it.wait_for_history()
    history, devices = it.table("history"), {each["client"]: each for each in it.table("devices")}
    did_it_go_out(it, history)
    what_to_change(it, history, devices)
    what_went_on(it, devices)
    # Nothing is wrong now, and no more was told than was received above.
    status, said = it.asked("/readyz")
    assert (status, "\ntrouble:" in said) == (200, False), said
    it.after(MINUTE)
    it.told()


def did_it_go_out(it: Firm, history: list[dict[str, Any]]) -> None:
    it.tell("", "### Did that scan go out? What did the provider say?")
    it.show("history --client", it.run("history", "--client", SCANNER))
    # What was sent while the disk was full may be missing in the history, and the log has it.
    messages = [
        each
        for each in history
        if each["kind"] == "message" and each["client"] == SCANNER and not it.was_full(each["time"])
    ]
    states = ["delivered"] * 3 + ["failed"] + ["delivered"] * (3 if it.has_disk else 2)
    assert [each["state"] for each in messages] == states
    for each in messages:
        if each["state"] == "delivered":
            assert "queued as" in each["backend"]
    (failed,) = (each for each in messages if each["state"] == "failed")
    assert failed["recipients"][0]["said"].startswith("550 5.1.1 <nobody@example.test>")
    (to_nobody,) = it.table("history", "--recipient", "nobody@example.test")
    assert to_nobody["recipients"] == failed["recipients"]
    it.show("the log", *it.proxy.lines(" message delivered")[-2:])
    assert len(it.proxy.lines(" message delivered")) == (7 if it.has_disk else 5)


def what_to_change(it: Firm, history: list[dict[str, Any]], devices: dict[str, Any]) -> None:
    it.tell("", "### What shall I change on the other scanner?")
    it.show("history --client", it.run("history", "--client", WRONG))
    assert [each["advice"].partition(":")[0] for each in history if each["client"] == WRONG] == [
        "it speaks TLS", "it wants to log in", "it wants TLS", "its sender address is no e-mail address",
        "a recipient is no e-mail address",
        "lower the scan's resolution, or raise SMTP_MAX_OCTETS if the provider takes more",
    ]  # fmt: skip
    assert (devices[WRONG].get("success"), devices[WRONG]["probably"]) == (None, "Brother")


def what_went_on(it: Firm, devices: dict[str, Any]) -> None:
    it.tell("", "### Which device works, and which one does not?")
    it.show("devices", it.run("devices"))
    assert devices[SCANNER]["messages"] in ((7, 8) if it.has_disk else (6,))
    assert devices[SCANNER]["success"] > devices[SCANNER]["trouble"]
    assert devices[ERP]["retrieved"] == devices[ERP]["deleted"] == 5
    assert devices[ERP]["success"] > devices[ERP]["trouble"]
    it.tell("", "### What was wrong, from when to when?")
    it.show("the log", *(line for line in it.proxy.log.splitlines() if " trouble " in line))
    it.tell("", "### How much was it?")
    wanted = {
        'messages_total{leg="smtp",verdict="spooled"}': 8 if it.has_disk else 6,
        'messages_total{leg="smtp",verdict="delivered"}': 7 if it.has_disk else 5,
        'messages_total{leg="smtp",verdict="failed"}': 1, 'messages_total{leg="pop3",verdict="deleted"}': 5,
        'refusals_total{leg="smtp",reply="553"}': 2, 'wrong_protocol_total{leg="smtp",protocol="TLS"}': 1,
        'spool_messages{state="queued"}': 0, 'spool_messages{state="dead"}': 0,
    }  # fmt: skip
    found = {name: it.figure(name) for name in wanted}
    it.show("/metrics", *(f"legacy_email_proxy_{name} {value:g}" for name, value in found.items()))
    assert found == wanted
    assert it.figure('messages_total{leg="smtp",verdict="not_delivered"}') >= 2


def no_secret_anywhere(it: Firm) -> None:
    told = [it.proxy.log, json.dumps(it.receiver.received), "\n".join(it.story)]
    secrets = [*(token.text for token in it.world.tokens.tokens), "hunter2", "AGEAaHVudGVyMg", it.receiver.url]
    for text in told:
        assert not [secret for secret in secrets if secret in text]
        assert "a scan" not in text
