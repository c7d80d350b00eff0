"""Chooses the account of a session: the first rule that fits, in the order of the file. It does no I/O.

All conditions of a rule must hold. The recipient is known only at RCPT, so :func:`candidates` gives the rules that may
still apply at the login or at MAIL, and :func:`choose` decides among them at RCPT. :func:`effective` finds the legs on
which each rule can apply, and the mistakes in the rules, when the legs of the accounts are known.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ..access import Address, canonical
from ..relays.allow_list import Addresses, entries_holding

__all__ = (
    "BOTH_LEGS",
    "Facts",
    "Leg",
    "Match",
    "Rule",
    "candidates",
    "choose",
    "effective",
    "login_would_help",
    "never_reached",
)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Leg(StrEnum):
    """Where a client came in."""

    POP3 = "POP3"
    SMTP = "SMTP"


BOTH_LEGS = frozenset(Leg)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a session. ``login`` is a user whose password was proven, ``""`` for nobody.

    ``sender`` is ``None`` before MAIL and on the POP3 leg. ``logged_in`` says to which accounts the client's address
    has logged in by POP3, and how many seconds ago, the latest first.
    """

    leg: Leg
    address: str
    port: int = 0
    login: str = ""
    sender: str | None = None
    logged_in: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. An empty or ``None`` condition holds always.

    ``account`` may be empty where ``within_seconds`` (POP-before-SMTP) is set: then it is the one that the client has
    logged in to. ``expect_seconds`` is no condition: it says how often something is to come. ``legs`` are those on
    which the rule can apply; ``place`` is where it stands in the file.
    """

    account: str
    place: str = ""
    users: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    ports: frozenset[int] = frozenset()
    senders: Addresses | None = None
    recipients: Addresses | None = None
    within_seconds: float | None = None
    expect_seconds: float | None = None
    legs: frozenset[Leg] = BOTH_LEGS

    @property
    def of_envelope(self) -> bool:
        """Whether it has a condition on what only a mail transaction has."""
        return self.senders is not None or self.recipients is not None or self.within_seconds is not None


@dataclass(frozen=True, slots=True)
class Match:
    """A rule that fits all that is known so far; ``recipients`` is the condition that is still open."""

    account: str
    rule: Rule

    @property
    def recipients(self) -> Addresses | None:
        """The condition on recipients, if there is one."""
        return self.rule.recipients


def candidates(rules: Iterable[Rule], facts: Facts) -> tuple[Match, ...]:
    """The rules that may apply, in order, up to the first without a condition on recipients. None: no account."""
    found: list[Match] = []
    peer = canonical(facts.address)
    for rule in rules:
        account = _account(rule, facts, peer)
        if account is not None:
            found.append(Match(account, rule))
            if rule.recipients is None:
                break
    return tuple(found)


def choose(found: Sequence[Match], recipient: str) -> Match | None:
    """The first of ``found`` that fits this recipient."""
    return next((match for match in found if match.recipients is None or match.recipients.holds(recipient)), None)


def login_would_help(rules: Iterable[Rule], facts: Facts, recipient: str | None = None) -> bool:
    """Whether somebody for whom there is no account could have one by logging in."""
    if facts.login:
        return False
    found = candidates((replace(rule, users=frozenset()) for rule in rules), facts)
    return bool(found) if recipient is None else choose(found, recipient) is not None


def asks_for_logins(rules: Iterable[Rule]) -> bool:
    """Whether a rule wants to know who has logged in by POP3."""
    return any(rule.within_seconds is not None for rule in rules)


def _account(rule: Rule, facts: Facts, peer: Address | None) -> str | None:
    """The account that this rule gives, whatever the recipient; ``None`` if it does not fit."""
    if facts.leg not in rule.legs:
        return None
    if rule.users and facts.login not in rule.users:
        return None
    if rule.ports and facts.port not in rule.ports:
        return None
    if rule.networks and (peer is None or not any(peer in network for network in rule.networks)):
        return None
    if rule.senders is not None and (facts.sender is None or not rule.senders.holds(facts.sender)):
        return None
    if rule.within_seconds is None:
        return rule.account
    recent = [account for account, age in facts.logged_in if age <= rule.within_seconds]
    return next((account for account in recent if rule.account in ("", account)), None)


def effective(
    rules: Sequence[Rule],
    legs: Mapping[str, frozenset[Leg]],
    places: Mapping[str, str],
    pop3_login: str,
    smtp_auth: str,
) -> tuple[tuple[Rule, ...], list[str]]:
    """The rules with the legs on which they can apply, and what is wrong with them.

    ``legs`` and ``places`` are by account; ``pop3_login`` is ``POP3_LOGIN``, ``smtp_auth`` is ``SMTP_AUTH``.
    """
    asking = {Leg.POP3: ("POP3_LOGIN", pop3_login), Leg.SMTP: ("SMTP_AUTH", smtp_auth)}
    unasked = {leg for leg, (_, value) in asking.items() if value != "accounts"}
    mistakes = []
    found = []
    for rule in rules:
        here = rule.legs & legs.get(rule.account, BOTH_LEGS)
        if rule.users:
            closed, here = here & unasked, here - unasked
            if closed and not here:
                names = " or ".join(sorted(asking[leg][0] for leg in closed))
                mistakes.append(f"{rule.place}: user: no password is asked for; set {names} to accounts")
                found.append(replace(rule, legs=here))
                continue
        if not here:
            mistakes.append(f"{rule.place}: leads nowhere: account {rule.account} has no leg on which it could apply")
        elif rule.within_seconds is not None and (
            pop3_login == "any" or not any(Leg.POP3 in each for each in legs.values())
        ):
            mistakes.append(
                f"{rule.place}: after_pop3_login_seconds: nobody proves a password by POP3;"
                " set POP3_LOGIN to accounts or backend"
            )
        elif rule.expect_seconds is not None and Leg.SMTP not in here:
            mistakes.append(f"{rule.place}: expect_seconds: nothing can be sent by this rule")
        found.append(replace(rule, legs=here))
    hidden = never_reached(found)
    mistakes += [f"{rule.place}: never reached: the rule at {above.place} takes all of it" for rule, above in hidden]
    useful = [rule for rule in found if rule.legs and all(rule is not one for one, _ in hidden)]
    led_to = {rule.account for rule in useful}
    lost = [name for name in places if name not in led_to]
    mistakes += [f"{places[name]}: accounts.{name}: no rule leads to it" for name in lost]
    return tuple(useful), mistakes


def never_reached(rules: Sequence[Rule]) -> list[tuple[Rule, Rule]]:
    """Rules that never apply, because an earlier one fits in all their cases: each with that earlier rule."""
    hidden = []
    # Each rule stands here under one of its conditions, so that not every rule is compared with every other: a thousand
    # accounts have half a million such pairs.
    filed: dict[Hashable, list[int]] = {}
    for index, rule in enumerate(rules):
        if rule.legs:
            near = sorted({number for key in _looked_for(rule) for number in filed.get(key, ())})
            above = next((rules[number] for number in near if _takes_all_of(rules[number], rule)), None)
            if above is not None:
                hidden.append((rule, above))
        for key in _filed_under(rule):
            filed.setdefault(key, []).append(index)
    return hidden


def _filed_under(rule: Rule) -> Iterable[Hashable]:
    """The keys of its most special condition. What this rule takes all of has one of them in :func:`_looked_for`."""
    if rule.within_seconds is not None:
        return [("within", rule.account)]
    if rule.users:
        return [("user", each) for each in rule.users]
    for what, addresses in (("sender", rule.senders), ("recipient", rule.recipients)):
        if addresses is not None:
            return [(what, each) for each in addresses.entries]
    if rule.networks:
        return [(network.version, network.prefixlen, int(network.network_address)) for network in rule.networks]
    return [("port", each) for each in rule.ports] or [()]


def _looked_for(rule: Rule) -> Iterator[Hashable]:
    """Where an earlier rule that takes all of this one may be filed. One value of each condition is enough: that rule
    would have to take all of them.
    """
    yield ()
    if rule.within_seconds is not None:
        yield from (("within", ""), ("within", rule.account))
    yield from (("user", each) for each in sorted(rule.users)[:1])
    for what, addresses in (("sender", rule.senders), ("recipient", rule.recipients)):
        for each in sorted(addresses.entries)[:1] if addresses is not None else ():
            yield from ((what, entry) for entry in entries_holding(each))
    for network in rule.networks[:1]:
        address, bits = int(network.network_address), network.max_prefixlen
        for prefix in range(network.prefixlen + 1):
            yield (network.version, prefix, address >> (bits - prefix) << (bits - prefix))
    yield from (("port", each) for each in sorted(rule.ports)[:1])


def _takes_all_of(earlier: Rule, rule: Rule) -> bool:
    if earlier.within_seconds is not None and (
        rule.within_seconds is None
        or rule.within_seconds > earlier.within_seconds
        or earlier.account not in ("", rule.account)
    ):
        return False
    return (
        rule.legs <= earlier.legs
        and _narrower(rule.users, earlier.users)
        and _narrower(rule.ports, earlier.ports)
        and _addresses_narrower(rule.senders, earlier.senders)
        and _addresses_narrower(rule.recipients, earlier.recipients)
        and (not earlier.networks or _networks_narrower(rule.networks, earlier.networks))
    )


def _narrower(mine: frozenset[str] | frozenset[int], theirs: frozenset[str] | frozenset[int]) -> bool:
    return not theirs or (bool(mine) and mine <= theirs)


def _addresses_narrower(mine: Addresses | None, theirs: Addresses | None) -> bool:
    return theirs is None or (mine is not None and theirs.covers(mine))


def _networks_narrower(mine: Sequence[Network], theirs: Sequence[Network]) -> bool:
    return bool(mine) and all(any(_subnet(network, other) for other in theirs) for network in mine)


def _subnet(network: Network, other: Network) -> bool:
    return network.version == other.version and network.subnet_of(other)  # type: ignore[arg-type]
