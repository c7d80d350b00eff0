"""The attacks, by what they go for; `ATTACKS` has them all."""

from __future__ import annotations

from abuse.attacks import connections, guessing, machine, parsers, places, pop3, smtp, tls

ATTACKS = {
    attack.name: attack
    for module in (connections, smtp, parsers, pop3, places, guessing, machine, tls)
    for attack in module.ATTACKS
}
