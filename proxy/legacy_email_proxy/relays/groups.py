"""Recipients that came together, on their way through a transaction that looks at each of them before its backend does.

They stay together, so that a device that pipelines waits once for all of them and not once for each.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..contracts import Recipient, Refused

__all__ = ("in_place",)


def in_place(looked: Sequence[Recipient | Refused], verdicts: Sequence[Refused | None]) -> list[Refused | None]:
    """One verdict for each that was looked at: those refused there keep that, ``verdicts`` are on the others."""
    rest = iter(verdicts)
    return [each if isinstance(each, Refused) else next(rest) for each in looked]
