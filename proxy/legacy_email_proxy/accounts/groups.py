"""Recipients that came together, on their way through a transaction that looks at each of them before its backend does.

They stay together, so that a device that pipelines waits once for all of them and not once for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from ..contracts import Failure, PipeliningTransaction, Recipient, Refused, Transaction

__all__ = ("asked", "in_place")


async def asked(
    transaction: Transaction, recipients: Sequence[Recipient], *, content_follows: bool
) -> Sequence[Refused | None]:
    """What ``transaction`` says of each, also where it takes recipients only one by one. Whatever is raised ends it."""
    if not recipients:
        return ()
    if hasattr(transaction, "add_recipients"):
        together = cast(PipeliningTransaction, transaction)
        given = await together.add_recipients(recipients, content_follows=content_follows)
        if len(given) != len(recipients):
            raise Failure("the relay plugin gave another number of verdicts than there were recipients")
        return given
    verdicts: list[Refused | None] = []
    for recipient in recipients:
        try:
            await transaction.add_recipient(recipient.forward_path, recipient.parameters)
            verdicts.append(None)
        except Refused as refused:
            verdicts.append(refused)
    return verdicts


def in_place(looked: Sequence[Recipient | Refused], verdicts: Sequence[Refused | None]) -> list[Refused | None]:
    """One verdict for each that was looked at: those refused there keep that, ``verdicts`` are on the others."""
    rest = iter(verdicts)
    return [each if isinstance(each, Refused) else next(rest) for each in looked]
