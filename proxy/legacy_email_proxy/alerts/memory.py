"""What alerts keep over a restart, ``alerts.json`` in ``STATE_DIR``: what was told, and when each device last sent."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .conditions import CONDITIONS, Trouble

__all__ = ("FILE_NAME", "Memory", "load", "save")

FILE_NAME = "alerts.json"
_MOST_OCTETS = 1 << 20


@dataclass(frozen=True, slots=True)
class Memory:
    """``saved`` is when it was written, so the time during which no service ran is known."""

    troubles: Sequence[Trouble] = ()
    heard: Mapping[str, float] = field(default_factory=dict)
    saved: float = 0.0


def load(path: Path) -> Memory:
    """What is stored, nothing if there is no file. Raises ``OSError``, or ``ValueError`` for what nobody can read."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MOST_OCTETS))
    except FileNotFoundError:
        return Memory()
    try:
        troubles = [
            Trouble(
                str(one["condition"]), str(one["subject"]), str(one["says"]), float(one["since"]), float(one["told"])
            )
            for one in found["troubles"]
            if one["condition"] in CONDITIONS  # an older version may have had another one
        ]
        heard = {str(name): float(moment) for name, moment in found["heard"].items()}
        return Memory(troubles, heard, float(found["saved"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is damaged ({type(error).__name__})") from None


def save(path: Path, memory: Memory) -> None:
    """Write all of it, or leave the former. Raises ``OSError``."""
    content = {
        "troubles": [asdict(one) for one in memory.troubles], "heard": dict(memory.heard), "saved": memory.saved
    }  # fmt: skip
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file)
    new.replace(path)
