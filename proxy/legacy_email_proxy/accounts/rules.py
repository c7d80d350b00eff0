"""Which account a session gets: pure choice among rules, first match in the order of the file.

All conditions of a rule must hold. What depends on a recipient can only be said at RCPT, so :func:`candidates` gives
what is possible at the login or at MAIL, and :func:`choose` decides among it once the recipient is known.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ..access import canonical
from ..relays.allow_list import Addresses

__all__ = ("BOTH_LEGS", "Facts", "Leg", "Match", "Rule", "candidates", "choose", "login_would_help", "never_reached")

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
    """One rule. A condition that is empty or ``None`` is none.

    ``account`` may be empty where ``within_seconds`` (POP-before-SMTP) is set: it is the one that was logged in to.
    ``legs`` are those on which it can apply; ``place`` is where it stands in the file.
    """

    account: str
    place: str = ""
    users: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    ports: frozenset[int] = frozenset()
    senders: Addresses | None = None
    recipients: Addresses | None = None
    within_seconds: float | None = None
    legs: frozenset[Leg] = BOTH_LEGS

    @property
    def of_envelope(self) -> bool:
        """Whether it asks for what only a mail transaction has."""
        return self.senders is not None or self.recipients is not None or self.within_seconds is not None


@dataclass(frozen=True, slots=True)
class Match:
    """A rule that fits all that is known; ``recipients`` is what is left to be asked."""

    account: str
    rule: Rule

    @property
    def recipients(self) -> Addresses | None:
        """The condition on recipients, if there is one."""
        return self.rule.recipients


def candidates(rules: Iterable[Rule], facts: Facts) -> tuple[Match, ...]:
    """The rules that may apply, in order, up to the first that asks for no recipient; none means no account."""
    found: list[Match] = []
    for rule in rules:
        account = _account(rule, facts)
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


def _account(rule: Rule, facts: Facts) -> str | None:
    """The account that this rule gives, whatever the recipient; ``None`` if it does not fit."""
    if facts.leg not in rule.legs:
        return None
    if rule.users and facts.login not in rule.users:
        return None
    if rule.ports and facts.port not in rule.ports:
        return None
    if rule.networks and not _inside(facts.address, rule.networks):
        return None
    if rule.senders is not None and (facts.sender is None or not rule.senders.holds(facts.sender)):
        return None
    if rule.within_seconds is None:
        return rule.account
    recent = [account for account, age in facts.logged_in if age <= rule.within_seconds]
    return next((account for account in recent if rule.account in ("", account)), None)


def _inside(address: str, networks: Iterable[Network]) -> bool:
    peer = canonical(address)
    return peer is not None and any(peer in network for network in networks)


def never_reached(rules: Sequence[Rule]) -> list[tuple[Rule, Rule]]:
    """Rules that can not apply because an earlier one takes all of theirs: each with that earlier one."""
    hidden = []
    for index, rule in enumerate(rules):
        above = next((earlier for earlier in rules[:index] if rule.legs and _takes_all_of(earlier, rule)), None)
        if above is not None:
            hidden.append((rule, above))
    return hidden


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
