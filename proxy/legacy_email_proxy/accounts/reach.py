"""Where rules can lead once it is known which legs the accounts have: pure, with a line for each that leads nowhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from .rules import BOTH_LEGS, Leg, Rule, never_reached

__all__ = ("effective",)


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
        found.append(replace(rule, legs=here))
    hidden = never_reached(found)
    mistakes += [f"{rule.place}: never reached: the rule at {above.place} takes all of it" for rule, above in hidden]
    useful = [rule for rule in found if rule.legs and all(rule is not one for one, _ in hidden)]
    led_to = {rule.account for rule in useful}
    lost = [name for name in places if name not in led_to]
    mistakes += [f"{places[name]}: accounts.{name}: no rule leads to it" for name in lost]
    return tuple(useful), mistakes
