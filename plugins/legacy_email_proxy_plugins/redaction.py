"""Takes passwords and tokens out of what a server said: in an error some servers repeat what they did not like.

A text has to come whole and as it was. What a log leaves out, blanks or the end, would hide a secret from this search,
and the rest of that secret would be shown.
"""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

__all__ = ("MARK", "without_secrets")

MARK = "***"

_SHORT = 4
"""A secret with fewer characters is looked for as a word of its own, and not in every word that has its letter."""

_PIECE = 8
"""So many characters in a row of what was sent are a part of it: the server may have cut the line that it repeats."""

_CORE = 5
"""Fewer characters of base64 than this could be any word."""

_CODES = (
    "ALERT|ALREADYEXISTS|APPENDUID|AUTHENTICATIONFAILED|AUTHORIZATIONFAILED|BADCHARSET|CANNOT|CAPABILITY|CLIENTBUG"
    "|CLOSED|CONTACTADMIN|COPYUID|CORRUPTION|EXPIRED|EXPUNGEISSUED|HASCHILDREN|INUSE|LIMIT|NONEXISTENT|NOPERM"
    "|NOTSAVED|OVERQUOTA|PARSE|PERMANENTFLAGS|PRIVACYREQUIRED|READ-ONLY|READ-WRITE|SERVERBUG|THROTTLED|TRYCREATE"
    "|UIDNEXT|UIDNOTSTICKY|UIDVALIDITY|UNAVAILABLE|UNKNOWN-CTE|WEBALERT"
)
_KEPT = rf"\[(?:{_CODES})(?=[\]\s])|(?<![\w.])[245]\.[0-9]{{1,3}}\.[0-9]{{1,3}}(?![\w.])|^[2-5][0-9][0-9](?=[ -]|$)"
"""Response codes (RFC 9051 §7.1, 5530), enhanced codes (RFC 3463) and the reply code in front: what they say is no
secret, whatever the password is, and without them nobody knows why a login was refused."""

_WORDS, _LONG_WORDS = (
    re.compile(rf"(?P<kept>{_KEPT})|[A-Za-z0-9+/_-]{{{least},}}={{0,2}}", re.IGNORECASE) for least in (_CORE, _PIECE)
)
_LONG_RUNS = re.compile(rf"(?P<kept>{_KEPT})|[^\s\"]{{{_PIECE},}}", re.IGNORECASE)

_ENTITIES = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "apos"}


def without_secrets(said: str, secrets: Iterable[str]) -> str:
    """``said`` with ``***`` for any of ``secrets``, as it is or as what may have become of it.

    Looked for are other case, blanks and charset; quotes and escapes of IMAP, JSON, HTML and URLs; base64, also as a
    part of something longer; and pieces. The codes by which a refusal is understood stay.
    """
    known = _known(tuple(secrets))
    if known is None or not said:
        return said
    # Each search is one of the text as it came: what one of them takes out may be a part of what another one looks for.
    found = [_without_blanks(match) for match in known.pattern.finditer(said) if not match["kept"]]
    # Any answer to any command may be searched, so what is short is looked at only where there is a reason to.
    words = _WORDS if known.begins_in(said) else _LONG_WORDS
    found += [match.span() for match in words.finditer(said) if not match["kept"] and known.is_in_word(match[0])]
    found += [match.span() for match in _LONG_RUNS.finditer(said) if not match["kept"] and known.is_piece(match[0])]
    return _marked(said, sorted(span for span in found if span[0] < span[1])) if found else said


def _without_blanks(match: re.Match[str]) -> tuple[int, int]:
    """Where it is, without the blanks around it: no secret begins or ends with any."""
    text = match[0]
    return match.end() - len(text.lstrip()), match.start() + len(text.rstrip())


def _marked(text: str, spans: list[tuple[int, int]]) -> str:
    """``text`` with one mark for each stretch that ``spans`` cover; those that only touch are two."""
    shown, end = [], 0
    for start, stop in spans:
        if start >= end:
            shown += [text[end:start], MARK]
        end = max(end, stop)
    return "".join([*shown, text[end:]])


def _comparable(text: str) -> str:
    """In lower case, and in the one of the two alphabets of base64 that everybody writes."""
    # Not translate(): that takes forty times as long, and every message's reply is searched.
    return text.lower().replace("-", "+").replace("_", "/")


@dataclass(frozen=True, slots=True)
class _Known:
    pattern: re.Pattern[str]
    beginnings: tuple[str, ...]
    """How what base64 makes of each secret begins, wherever that stands in something longer."""
    sent: str
    """Everything in which a piece may be found. In lower case, as all that is compared here."""

    def begins_in(self, text: str) -> bool:
        lowered = _comparable(text)
        return any(beginning in lowered for beginning in self.beginnings)

    def is_in_word(self, word: str) -> bool:
        return (len(word) >= _PIECE and self.is_piece(word.rstrip("="))) or self.begins_in(word)

    def is_piece(self, text: str) -> bool:
        return _comparable(text) in self.sent


_ESCAPED = r"(?i:[%=][0-9a-f]{2}|\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\[0-7]{3}|&(?:\#x?[0-9a-f]{1,6}|amp|lt|gt|quot|apos);)"
_PLAIN = re.compile("[A-Za-z0-9._~-]")
_UNIT = f"(?:{_ESCAPED}|(?!{_ESCAPED})[^A-Za-z0-9._~-])"
_UNITS = re.compile(_UNIT)
_RUNS = re.compile(f"(?P<plain>{_PLAIN.pattern}+)|{_UNIT}+")
_CERTAIN = re.compile(r"[!-\[\]-~]+")
"""Of these characters it is known what may become of each. Of others only how many there may be."""


@functools.lru_cache(maxsize=64)
def _known(given: tuple[str, ...]) -> _Known | None:
    secrets = sorted({secret.strip() for secret in given} - {""}, key=lambda secret: (-len(secret), secret))
    if not secrets:
        return None
    kept = re.compile(_KEPT, re.IGNORECASE)
    long = [_forms(secret) for secret in secrets if len(secret) >= _SHORT and not kept.fullmatch(secret)]
    short = [_forms(secret) for secret in secrets if len(secret) < _SHORT or kept.fullmatch(secret)]
    # A long one may begin with what looks like a code.
    alternatives = [*long, f"(?P<kept>(?i:{_KEPT}))", *(f"(?<![^\\W_]){form}(?![^\\W_])" for form in short)]
    cores = [core.lower() for secret in secrets for core in _cores(secret)]
    beginnings = tuple(core[:_PIECE] for core in cores if len(core) >= _CORE)
    sent = _comparable("\n".join((*secrets, *cores)))
    return _Known(re.compile("|".join(alternatives)), beginnings, sent)


def _cores(secret: str) -> list[str]:
    """The characters of its base64, at each of three places in a group, that depend on nothing around it."""
    octets = secret.encode("utf-8", "surrogateescape")
    cores = []
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + octets).decode("ascii")
        cores.append(encoded[-(-before * 8 // 6) : (before + len(octets)) * 8 // 6])
    return cores


def _forms(secret: str) -> str:
    """A pattern for what may have become of ``secret``, run by run.

    Nothing in it can match the same text in two ways: what stands for a run neither begins nor goes on with a character
    of the next one. Else a password of many backslashes, and a server that repeats it, would stop the whole process.
    """
    anchored = sum("!" <= character <= "~" for character in secret) >= _SHORT - 1
    runs = _RUNS.finditer(secret)
    forms = "".join(_plain(run[0]) if run["plain"] else _run(run[0], anchored=anchored) for run in runs)
    if not re.search(_ESCAPED, secret):
        return forms
    # What looks like an escape in the secret itself is two of them, or one and the rest, where a URL holds it.
    quoted = re.escape(quote(secret.encode("utf-8", "surrogateescape"), safe="")).replace("%20", r"(?:%20|\+)")
    return f"(?:{forms}|(?i:{quoted}))"


def _plain(text: str) -> str:
    return f"(?i:{re.escape(text)})"


def _run(run: str, *, anchored: bool) -> str:
    if anchored and not _CERTAIN.fullmatch(run):
        return _any_charset(run)
    return "".join(
        _plain(character)
        if _PLAIN.match(character)
        else _special(character)
        if "!" <= character <= "~"
        else _exactly(character)
        for character in run
    )


def _special(character: str) -> str:
    code = f"{ord(character):02x}"
    itself = r"\\{1,4}" if character == "\\" else rf"\\{{0,3}}{re.escape(character)}"
    entity = f"|&{_ENTITIES[character]};" if character in _ENTITIES else ""
    return rf"(?i:{itself}|[%=]{code}|\\u00{code}|\\x{code}|&\#(?:{ord(character)}|x{code});{entity})"


def _any_charset(run: str) -> str:
    # Outside printable ASCII any characters may have taken the place of the others: \ufffd or "?" for each octet (up to
    # four of them a character), the letters of a wrong charset, the blank between two lines for two blanks. With regard
    # to case: without it a dotless i is one of those that are excluded here.
    units = _UNITS.findall(run)
    least = sum(len(unit) > 1 or "!" <= unit <= "~" for unit in units)
    plus = r"|\+" if " " in run else ""
    unit = _UNIT if least else rf"(?:[^!->@-~]|{_ESCAPED}{plus})"
    return f"{unit}{{{max(least, 1)},{4 * len(units)}}}"


def _exactly(character: str) -> str:
    # Nothing around it tells where it stands, so that any character in its place would be any blank.
    octets = character.encode("utf-8", "surrogateescape")
    forms = [re.escape(character), *("".join(f"{mark}{octet:02x}" for octet in octets) for mark in ("%", "=", r"\\x"))]
    forms.append(rf"\\u{ord(character):04x}")
    if character == " ":
        forms.append(r"\+")
    return f"(?i:{'|'.join(forms)})"
