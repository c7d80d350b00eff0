"""The declaration of one environment variable: its name, type, default and the sentence that documents it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ("Setting", "SettingType")

SettingType = Literal["text", "secret", "document", "integer", "flag", "seconds", "days", "path", "list", "networks"]
"""``text`` str · ``secret`` :class:`Secret` · ``document`` a :class:`Secret` of several lines, like a key in PEM ·
``integer`` int · ``flag`` bool · ``seconds`` float · ``days`` str, a number or ``NEVER`` · ``path``
:class:`pathlib.Path` · ``list`` tuple of str, separated by commas · ``networks`` tuple of ``ipaddress`` networks."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One variable. ``default`` is written as the user would write it; ``None`` means that there is no value then.

    A plugin class may carry ``settings = (Setting(…), …)``: those variables are read, checked, listed by ``settings``
    and handed to it in ``context.settings`` like the built-in ones, ``NAME_FILE`` included.
    """

    name: str
    type: SettingType
    default: str | None
    sentence: str
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None

    def shown(self, value: Any) -> str:
        """``value`` as ``settings`` prints it, secrets hidden."""
        if value is None:
            return ""
        if self.type in ("list", "networks"):
            return ",".join(map(str, value))
        if self.type == "flag":
            return "true" if value else "false"
        if self.type == "seconds":
            return f"{value:g}"
        return str(value)
