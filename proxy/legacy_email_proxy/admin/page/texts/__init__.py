"""The catalogue: every word that stands on the page, in English. A text in another place could not be translated.

``text("key")`` gives one; ``{name}`` in it is filled in from the arguments. With ``count`` the key followed by ``.one``
is taken for 1, where there is one. Each section has a module of its own here.
"""

from __future__ import annotations

from .accounts import TEXTS as ACCOUNTS
from .common import TEXTS as COMMON
from .devices import TEXTS as DEVICES
from .messages import TEXTS as MESSAGES
from .overview import TEXTS as OVERVIEW
from .settings import TEXTS as SETTINGS
from .spool import TEXTS as SPOOL

__all__ = ("text",)

_TEXTS: dict[str, str] = {**COMMON, **OVERVIEW, **DEVICES, **MESSAGES, **SPOOL, **ACCOUNTS, **SETTINGS}


class _Catalogue:
    def __call__(self, key: str, **values: object) -> str:
        """The text, filled in. Raises ``KeyError`` where there is none."""
        if values.get("count") == 1 and f"{key}.one" in _TEXTS:
            key = f"{key}.one"
        return _TEXTS[key].format(**values)

    def has(self, key: str) -> bool:
        """Whether there is such a text."""
        return key in _TEXTS


text = _Catalogue()
"""The text of a key."""
