"""The arguments of MAIL and RCPT: a path and its parameters (RFC 5321 §4.1.2).

An address is never rewritten: what stands between the brackets goes to the backend octet for octet, or the command is
refused. The only repairs are of what stands around it: brackets missing or doubled, blanks, a display name or a source
route in front (``<@a,@b:c@d>``, which everybody has to ignore); and the dot that ends a domain in the DNS but not in
mail (``<a@b.>``) is taken off.
"""

from __future__ import annotations

import re

from ..contracts import Parameters

__all__ = ("BadParameter", "BadPath", "parse")


class BadPath(ValueError):
    """There is no address in the argument that could be passed on unchanged."""


class BadParameter(ValueError):
    """A parameter is malformed."""


_QUOTED = r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e\xa0-\U0010ffff]|\\[\x20-\x7e])*"'
_UNQUOTED = r'[^\x00-\x20\x7f-\x9f<>"(),;\\]*+'
_ADDRESS = rf"{_UNQUOTED}(?:{_QUOTED}{_UNQUOTED})*"
# In front of the bracket may stand a display name, but nothing that could be an address or a parameter itself.
_NAME = r"[^<>@=]*+<"
# Left out here: a backend would do that, and then see another address than the one that our lists were asked for.
_HOP = r'@(?:[^\x00-\x20\x7f-\x9f<>"(),;\\@:\[\]]+|\[[^\x00-\x20\x7f-\x9f<>\[\]]*\])'
_ROUTE = rf"(?:{_HOP}(?:,{_HOP})*:(?=[^ >]))?"
# Twice, where somebody wrote an address with its brackets into a device that adds some.
_BRACKETED = re.compile(rf"{_NAME}(?P<twice><)? *+{_ROUTE}(?P<path>{_ADDRESS}) *+>(?(twice)>)")
# Without brackets an empty path is a forgotten argument, not the null reverse-path.
_BARE = re.compile(rf"(?!{_NAME})(?=[^ \t])(?P<path>{_ADDRESS})(?![^ \t])")
_DOT = re.compile(r"(?<=@)([^@.]+(?:\.[^@.]+)*)\.\Z")
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([\x21-\x7e]*))?")


def parse(argument: str) -> tuple[str, Parameters]:
    """Split ``<path> KEY=value …`` into the path without brackets and the parameters.

    The null reverse-path ``<>`` comes out as ``""``. Raises :class:`BadPath` or :class:`BadParameter`.
    """
    argument = argument.strip(" \t")
    found = _BRACKETED.match(argument) or _BARE.match(argument)
    if not found:
        raise BadPath(argument)
    return _DOT.sub(r"\1", found["path"]), _parameters(argument[found.end() :])


def _parameters(text: str) -> Parameters:
    found: dict[str, str | None] = {}
    if text and not text.startswith((" ", "\t")):
        raise BadParameter(text)
    for word in text.split():
        match = _PARAMETER.fullmatch(word)
        if not match or match.group(1).upper() in found:
            raise BadParameter(word)
        found[match.group(1).upper()] = match.group(2)
    return found
