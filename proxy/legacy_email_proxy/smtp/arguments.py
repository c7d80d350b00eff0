"""What follows MAIL and RCPT: a path and options that can be passed on, or the reply that says why not."""

from __future__ import annotations

import re

from ..replies import SMTP, Reply
from .paths import BadParameter, BadPath, parse

__all__ = ("Rejected", "forward_path", "reverse_path")

_NUMBER = re.compile(r"[0-9]{1,20}")
_BODIES = ("7BIT", "8BITMIME")


class Rejected(ValueError):
    """The argument can not be used; ``reply`` tells the client why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


def reverse_path(argument: str) -> tuple[str, list[str]]:
    """``FROM:<path> KEY=value …`` → path (``""`` is the null one) and the options that count: SIZE and BODY.

    ``AUTH=``, which some clients send to whom never offered it, and DSN's parameters are taken and dropped.
    """
    path, parameters = _split("FROM:", argument, SMTP.BAD_PATH, {"AUTH", "RET", "ENVID"}, {"SIZE", "BODY"})
    if "SIZE" in parameters and not _NUMBER.fullmatch(parameters["SIZE"]):
        raise Rejected(SMTP.SYNTAX)
    if "BODY" in parameters and parameters["BODY"].upper() not in _BODIES:
        raise Rejected(SMTP.SYNTAX)
    return path, [f"{key}={value.upper()}" for key, value in parameters.items()]


def forward_path(argument: str) -> tuple[str, list[str]]:
    """``TO:<path> KEY=value …`` → path, never empty, and options, of which none counts; DSN's are dropped."""
    path, _ = _split("TO:", argument, SMTP.BAD_FORWARD_PATH, {"NOTIFY", "ORCPT"}, set())
    if not path:
        raise Rejected(SMTP.BAD_FORWARD_PATH)
    return path, []


def _split(
    keyword: str, argument: str, bad_path: Reply, dropped: set[str], known: set[str]
) -> tuple[str, dict[str, str]]:
    if argument[: len(keyword)].upper() != keyword:
        raise Rejected(SMTP.SYNTAX)
    try:
        path, parameters = parse(argument[len(keyword) :])
    except BadPath:
        raise Rejected(bad_path) from None
    except BadParameter:
        raise Rejected(SMTP.SYNTAX) from None
    kept = {key: value or "" for key, value in parameters.items() if key not in dropped}
    if not known.issuperset(kept):
        raise Rejected(SMTP.UNKNOWN_PARAMETER)
    return path, kept
