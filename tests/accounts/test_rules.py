"""The choice of an account: pure, the first rule that fits, and the rules that never can."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_email_proxy.accounts import rules as module
from legacy_email_proxy.accounts.pop_before_smtp import MAX_ADDRESSES, RecentLogins
from legacy_email_proxy.accounts.rules import (
    BOTH_LEGS,
    Facts,
    Leg,
    Rule,
    candidates,
    choose,
    effective,
    login_would_help,
    never_reached,
)
from legacy_email_proxy.relays.allow_list import Addresses

SMTP, POP3 = frozenset({Leg.SMTP}), frozenset({Leg.POP3})


def rule(account: str, place: str = "", **conditions: Any) -> Rule:
    conditions = {
        key: Addresses.parse(value)
        if key in ("senders", "recipients")
        else tuple(map(ip_network, value))
        if key == "networks"
        else frozenset(value)
        if key in ("users", "ports", "legs")
        else value
        for key, value in conditions.items()
    }
    return Rule(account, place, **conditions)


RULES = [
    rule("ann", users=["ann"]),
    rule("office", networks=["10.0.0.0/24", "fd00::/64"], ports=[25, 2525]),
    rule("partner", recipients=["@partner.example"], legs=SMTP),
    rule("fax", senders=["Fax@firm.example", "<>"], legs=SMTP),
    rule("", within_seconds=600, legs=SMTP),
    rule("b", within_seconds=3600, legs=SMTP),
    rule("reading", legs=POP3),
]
CHOICES: list[tuple[dict[str, Any], str, str | None]] = [
    ({"login": "ann", "address": "10.0.0.7"}, "x@y", "ann"),
    ({"login": "bob", "address": "10.0.0.7", "port": 25}, "x@y", "office"),
    ({"address": "::ffff:10.0.0.7", "port": 2525}, "x@y", "office"),
    ({"address": "fd00::7%eth0", "port": 25}, "x@y", "office"),
    ({"address": "10.0.0.7", "port": 587, "sender": "fax@FIRM.example"}, "x@y", "fax"),
    ({"address": "nonsense", "port": 25, "sender": "fax@firm.example"}, "x@y", "fax"),
    ({"sender": "fax@firm.example"}, "Y@Partner.Example.", "partner"),
    ({"sender": "fax@firm.example"}, "y@sub.partner.example", "fax"),
    ({"sender": ""}, "x@y", "fax"),
    ({"sender": "scanner"}, "x@y", None),
    ({"sender": "fax@firm.example.evil"}, "x@y", None),
    ({"sender": "telefax@firm.example"}, "x@y", None),
    ({"logged_in": (("a", 10.0), ("b", 20.0))}, "x@y", "a"),
    ({"logged_in": (("a", 601.0), ("b", 700.0))}, "x@y", "b"),
    ({"logged_in": (("a", 601.0), ("b", 3601.0))}, "x@y", None),
    ({"leg": Leg.POP3}, "", "reading"),
    ({"leg": Leg.POP3, "login": "ann"}, "", "ann"),
    ({"leg": Leg.POP3, "address": "10.0.1.7", "port": 25}, "", "reading"),
]


@pytest.mark.parametrize(("facts", "recipient", "account"), CHOICES)
def test_the_first_that_fits(facts: dict[str, Any], recipient: str, account: str | None) -> None:
    found = candidates(RULES, Facts(**{"leg": Leg.SMTP, "address": "192.0.2.1", **facts}))
    match = choose(found, recipient)
    assert (match.account if match else None) == account
    assert all(one.recipients is not None for one in found[:-1])


def test_what_a_recipient_decides_is_left_open() -> None:
    facts = Facts(Leg.SMTP, "192.0.2.1", sender="fax@firm.example")
    assert [match.account for match in candidates(RULES, facts)] == ["partner", "fax"]
    assert [match.account for match in candidates(RULES, Facts(Leg.SMTP, "192.0.2.1", sender="x@y"))] == ["partner"]


HIDDEN: list[tuple[Rule, Rule, bool]] = [
    (rule("a"), rule("b"), True),
    (rule("a", users=["x"]), rule("b"), False),
    (rule("a"), rule("b", users=["x"], senders=["@y"], legs=SMTP), True),
    (rule("a", users=["x", "y"]), rule("b", users=["x"]), True),
    (rule("a", users=["x"]), rule("b", users=["x", "y"]), False),
    (rule("a", networks=["10.0.0.0/8"]), rule("b", networks=["10.1.0.0/16", "10.2.0.0/16"]), True),
    (rule("a", networks=["10.0.0.0/8"]), rule("b", networks=["10.1.0.0/16", "fd00::/8"]), False),
    (rule("a", networks=["10.0.0.0/8"]), rule("b", ports=[25]), False),
    (rule("a", senders=["@x"]), rule("b", senders=["me@x"]), True),
    (rule("a", senders=["me@x"]), rule("b", senders=["@x"]), False),
    (rule("a", recipients=["@x"], legs=SMTP), rule("b", legs=SMTP), False),
    (rule("a", legs=SMTP), rule("b"), False),
    (rule("a"), rule("b", legs=SMTP), True),
    (rule("", within_seconds=60), rule("b", within_seconds=30), True),
    (rule("", within_seconds=60), rule("b", within_seconds=90), False),
    (rule("a", within_seconds=60), rule("", within_seconds=60), False),
    (rule("a", within_seconds=60), rule("a"), False),
]


@pytest.mark.parametrize(("earlier", "later", "hidden"), HIDDEN)
def test_what_an_earlier_rule_hides(earlier: Rule, later: Rule, hidden: bool) -> None:
    assert never_reached([earlier, later]) == ([(later, earlier)] if hidden else [])


def addresses(*entries: str) -> st.SearchStrategy[Addresses]:
    return st.sets(st.sampled_from(entries), min_size=1).map(Addresses.parse)


ANY_RULE = st.builds(
    rule,
    st.sampled_from(["", "a", "b"]),
    users=st.lists(st.sampled_from("xyz"), max_size=2),
    ports=st.lists(st.sampled_from([25, 587]), max_size=2),
    networks=st.lists(st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "fd00::/8", "::/0"]), max_size=2),
    legs=st.lists(st.sampled_from(Leg), max_size=2),
).flatmap(
    lambda made: st.builds(
        lambda **more: replace(made, **more),
        senders=st.none() | addresses("@x", "a@x", "b@x", "<>"),
        recipients=st.none() | addresses("@y", "a@y"),
        within_seconds=st.sampled_from([None, None, 30, 60]),
    )
)


@given(st.lists(ANY_RULE, max_size=6))
def test_the_search_for_hidden_rules_leaves_none_out(rules: list[Rule]) -> None:
    expected = []
    for index, each in enumerate(rules):
        above = [one for one in rules[:index] if each.legs and module._takes_all_of(one, each)]
        expected += [(each, above[0])] if above else []
    assert never_reached(rules) == expected


def test_a_thousand_rules_are_not_compared_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    takes_all_of = module._takes_all_of

    def counted(earlier: Rule, later: Rule) -> bool:
        compared.append(later)
        return takes_all_of(earlier, later)

    monkeypatch.setattr(module, "_takes_all_of", counted)
    rules = [rule("a", networks=[f"10.{number >> 8}.{number & 255}.0/24"]) for number in range(500)]
    rules += [rule("a", users=[f"user{number}"]) for number in range(500)]
    assert never_reached([*rules, rule("b", networks=["10.0.7.7"])]) == [(rule("b", networks=["10.0.7.7"]), rules[7])]
    assert len(compared) == 1


def test_accounts_with_different_legs_share_conditions() -> None:
    rules = [rule("reading", "1", networks=["10.0.0.0/8"]), rule("sending", "2", networks=["10.0.0.0/8"])]
    places = {"reading": "8", "sending": "9"}
    found, mistakes = effective(rules, {"reading": POP3, "sending": SMTP}, places, "any", "off")
    assert mistakes == []
    assert [one.legs for one in found] == [POP3, SMTP]
    _, mistakes = effective(rules, {"reading": BOTH_LEGS, "sending": SMTP}, places, "any", "off")
    assert [line.partition(":")[0] for line in mistakes] == ["2", "9"]


@pytest.mark.parametrize(
    ("login", "auth", "legs"),
    [
        ("accounts", "accounts", BOTH_LEGS),
        ("backend", "accounts", SMTP),
        ("any", "accounts", SMTP),
        ("accounts", "any", POP3),
        ("accounts", "off", POP3),
    ],
)
def test_a_user_is_known_only_where_local_passwords_are_asked_for(login: str, auth: str, legs: frozenset[Leg]) -> None:
    rules = [rule("a", "1", users=["ann"])]
    [found], mistakes = effective(rules, {"a": BOTH_LEGS}, {"a": "8"}, login, auth)
    assert (found.legs, mistakes) == (legs, [])


@pytest.mark.parametrize(
    ("legs", "login", "auth", "named"),
    [
        (SMTP, "accounts", "any", "SMTP_AUTH"),
        (SMTP, "accounts", "off", "SMTP_AUTH"),
        (POP3, "any", "accounts", "POP3_LOGIN"),
        (BOTH_LEGS, "backend", "any", "POP3_LOGIN or SMTP_AUTH"),
    ],
)
def test_a_user_whom_nobody_can_prove_to_be_is_told(legs: frozenset[Leg], login: str, auth: str, named: str) -> None:
    rules = [rule("a", "1", users=["ann"]), rule("a", "2")]
    [found], mistakes = effective(rules, {"a": legs}, {"a": "8"}, login, auth)
    assert found.place == "2"
    assert mistakes == [f"1: user: no password is asked for; set {named} to accounts"]


@pytest.mark.parametrize(
    ("facts", "recipient", "helps"),
    [
        ({}, None, True),
        ({"login": "bob"}, None, False),
        ({"port": 2525}, None, False),
        ({"sender": "x@y"}, "a@there", True),
        ({"port": 26}, "a@partner.example", False),
        ({"login": "bob", "sender": "x@y"}, "a@there", False),
    ],
)
def test_whether_a_login_would_help(facts: dict[str, Any], recipient: str | None, helps: bool) -> None:
    rules = [rule("a", users=["ann"], ports=[25])]
    known = Facts(Leg.SMTP, "10.0.0.7", 25)
    assert login_would_help(rules, replace(known, **facts), recipient) is helps
    assert not login_would_help([replace(rules[0], legs=POP3)], known)


def test_recent_logins() -> None:
    now = 0.0
    recent = RecentLogins(lambda: now)
    recent.note("10.0.0.7", "a")
    now = 5.0
    recent.note("::ffff:10.0.0.7", "b")
    recent.note("nonsense", "b")
    assert recent.of("10.0.0.7") == (("b", 0.0), ("a", 5.0))
    now = 6.0
    recent.note("10.0.0.7", "a")
    assert recent.of("10.0.0.7") == (("a", 0.0), ("b", 1.0))
    assert recent.of("10.0.0.8") == recent.of("nonsense") == ()
    for number in range(MAX_ADDRESSES):
        recent.note(f"10.1.{number // 256}.{number % 256}", "a")
    assert recent.of("10.0.0.7") == ()
    assert recent.of("10.1.0.0") != ()
    recent.note("10.1.0.0", "a")
    recent.note("10.0.0.7", "a")
    assert recent.of("10.1.0.0") != ()
    assert recent.of("10.1.0.1") == ()
