"""What a device probably is, by the name that it gives in HELO.

Makers give their devices a name when nobody sets one: some letters and, most often, a part of the network card's
address. Who has set another name gets no guess. The table stands in ``proxy/docs/smtp.md`` too, and a test holds that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ("FAMILIES", "Family", "family_of")


@dataclass(frozen=True, slots=True)
class Family:
    """Devices of one maker. In ``names`` a ``#`` stands for a hexadecimal digit and a ``?`` for a letter or digit."""

    maker: str
    names: tuple[str, ...]
    habits: tuple[str, ...] = ()
    """Which rows of the table of sending devices' habits are about it."""

    def has(self, name: str) -> bool:
        """Whether a device of this family has such a name by default."""
        return any(re.fullmatch(_pattern(each), name, re.IGNORECASE) for each in self.names)


def _pattern(name: str) -> str:
    return "".join({"#": "[0-9a-f]", "?": "[0-9a-z]"}.get(each, re.escape(each)) for each in name)


FAMILIES = (
    Family("Brother", ("BRN############", "BRW############", "BRN_######", "BRW_######")),
    Family("Canon", ("Canon######",)),
    Family("Epson", ("EPSON######",)),
    Family("Fuji Xerox", ("FX-######",), ("C24",)),
    Family("HP", ("NPI######", "HP############", "HP######"), ("C13",)),
    Family("Konica Minolta", ("KMBT######",), ("C2",)),
    Family("Kyocera", ("KM######",), ("C14",)),
    Family("Lexmark", ("ET############", "LXK######")),
    Family("Ricoh", ("RNP############", "RNP######"), ("C12",)),
    Family("Samsung", ("SEC############",)),
    Family("Toshiba", ("MFP########",), ("C14",)),
    Family("Xerox", ("XRX############",), ("C1",)),
    Family("a Windows program", ("WIN-???????????", "DESKTOP-???????", "LAPTOP-????????")),
)


def family_of(helo: str) -> str:
    """The maker of a device with this name; ``""`` where the name tells nothing."""
    name = helo.strip().partition(".")[0]
    return next((family.maker for family in FAMILIES if family.has(name)), "")
