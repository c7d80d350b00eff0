"""Removes passwords and tokens from a server's text: some servers repeat in an error what they were sent.

The text has to be complete and unchanged. If blanks or the end were removed before, this search would not find the
secret, and the rest of it would be shown.
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
"""A secret with fewer characters is searched only as a whole word, and not inside every word that contains it."""

_PIECE = 8
"""So many characters in a row from a secret count as a part of it: the server may repeat only a part of the line."""

_CORE = 5
"""Fewer base64 characters than this could be an ordinary word."""

_CODES = (
    "ALERT|ALREADYEXISTS|APPENDUID|AUTHENTICATIONFAILED|AUTHORIZATIONFAILED|BADCHARSET|CANNOT|CAPABILITY|CLIENTBUG"
    "|CLOSED|CONTACTADMIN|COPYUID|CORRUPTION|EXPIRED|EXPUNGEISSUED|HASCHILDREN|INUSE|LIMIT|NONEXISTENT|NOPERM"
    "|NOTSAVED|OVERQUOTA|PARSE|PERMANENTFLAGS|PRIVACYREQUIRED|READ-ONLY|READ-WRITE|SERVERBUG|THROTTLED|TRYCREATE"
    "|UIDNEXT|UIDNOTSTICKY|UIDVALIDITY|UNAVAILABLE|UNKNOWN-CTE|WEBALERT"
)
_KEPT = rf"\[(?:{_CODES})(?=[\]\s])|(?<![\w.])[245]\.[0-9]{{1,3}}\.[0-9]{{1,3}}(?![\w.])|^[2-5][0-9][0-9](?=[ -]|$)"
"""Response codes (RFC 9051 §7.1, 5530), enhanced codes (RFC 3463) and the reply code in front: they are kept even if
the password looks like one, because without them the operator can not see why a login was refused."""

_WORDS, _LONG_WORDS = (
    re.compile(rf"(?P<kept>{_KEPT})|[A-Za-z0-9+/_-]{{{least},}}={{0,2}}", re.IGNORECASE) for least in (_CORE, _PIECE)
)
_LONG_RUNS = re.compile(rf"(?P<kept>{_KEPT})|[^\s\"]{{{_PIECE},}}", re.IGNORECASE)

_WORD = re.compile(f"[a-z0-9+/]{{{_PIECE},}}")
"""The longer words of a comparable text, whatever stands in front of them."""

_ENTITIES = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "apos"}


def without_secrets(said: str, secrets: Iterable[str]) -> str:
    """``said`` with ``***`` in place of each of ``secrets``, also where the server has changed the secret's form.

    It finds secrets with other case, blanks or charset; with quotes and escapes of IMAP, JSON, HTML and URLs; in
    base64, also inside a longer text; and pieces of secrets. The codes that tell why the server refused are kept.
    """
    known = _known(tuple(secrets))
    if known is None or not known.may_be_in(said):
        return said
    # Each search reads the original text: what one search removes may be a part of what another one has to find.
    found = [_without_blanks(match) for match in known.pattern.finditer(said) if not match["kept"]]
    # This runs for many replies, so short words are searched only if the text has the beginning of a secret.
    words = _WORDS if known.begins_in(said) else _LONG_WORDS
    found += [match.span() for match in words.finditer(said) if not match["kept"] and known.is_in_word(match[0])]
    found += [match.span() for match in _LONG_RUNS.finditer(said) if not match["kept"] and known.is_piece(match[0])]
    return _marked(said, sorted(span for span in found if span[0] < span[1])) if found else said


def _without_blanks(match: re.Match[str]) -> tuple[int, int]:
    """The span of the match, without the blanks around it: no secret begins or ends with a blank."""
    text = match[0]
    return match.end() - len(text.lstrip()), match.start() + len(text.rstrip())


def _marked(text: str, spans: list[tuple[int, int]]) -> str:
    """``text`` with one mark for all ``spans`` that overlap; spans that only touch get a mark each."""
    shown, end = [], 0
    for start, stop in spans:
        if start >= end:
            shown += [text[end:start], MARK]
        end = max(end, stop)
    return "".join([*shown, text[end:]])


def _comparable(text: str) -> str:
    """``text`` in lower case, and with the standard base64 alphabet instead of the one for URLs."""
    # translate() would take forty times as long, and the reply to every message is searched.
    return text.lower().replace("-", "+").replace("_", "/")


@dataclass(frozen=True, slots=True)
class _Known:
    itself: re.Pattern[str]
    """Any form of any secret."""
    pattern: re.Pattern[str]
    """The same, or a code that is kept."""
    plain: tuple[str, ...]
    """Of each secret, the longest piece that stands in all of its forms, apart from base64."""
    beginnings: tuple[str, ...]
    """The beginning of each secret in base64, for each position that it can have inside a longer text."""
    sent: str
    """The text in which pieces are looked up; in lower case, like all that is compared here."""

    def may_be_in(self, said: str) -> bool:
        """Whether the text has to be searched. Almost none has, and to see this costs much less than the search."""
        if not said.isascii():
            return True
        text = _comparable(said)
        # Loops, because generators for any() cost more than what is looked for in them.
        for plain in self.plain:
            if plain in text and self.itself.search(said):
                return True
        for beginning in self.beginnings:
            if beginning in text:
                return True
        # What the search takes for a piece of a secret may begin behind a code that is kept. It ends where these do.
        for run in text.replace('"', " ").split():
            if len(run) >= _PIECE:
                for part in (run, *_WORD.findall(run)):
                    if part[-_PIECE:] in self.sent:
                        return True
        return False

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
"""Characters whose possible escaped forms are known. For others only their possible number is known."""


@functools.lru_cache(maxsize=64)
def _known(given: tuple[str, ...]) -> _Known | None:
    secrets = sorted({secret.strip() for secret in given} - {""}, key=lambda secret: (-len(secret), secret))
    if not secrets:
        return None
    kept = re.compile(_KEPT, re.IGNORECASE)
    long = [_forms(secret) for secret in secrets if len(secret) >= _SHORT and not kept.fullmatch(secret)]
    short = [
        f"(?<![^\\W_]){_forms(secret)}(?![^\\W_])"
        for secret in secrets
        if len(secret) < _SHORT or kept.fullmatch(secret)
    ]
    # Long secrets come before the codes: such a secret may begin with what looks like a code.
    pattern = "|".join([*long, f"(?P<kept>(?i:{_KEPT}))", *short])
    cores = [core.lower() for secret in secrets for core in _cores(secret)]
    beginnings = tuple(core[:_PIECE] for core in cores if len(core) >= _CORE)
    sent = _comparable("\n".join((*secrets, *cores)))
    plain = tuple(_comparable(_longest_plain(secret)) for secret in secrets)
    return _Known(re.compile("|".join([*long, *short])), re.compile(pattern), plain, beginnings, sent)


def _longest_plain(secret: str) -> str:
    return max((run["plain"] or "" for run in _RUNS.finditer(secret)), key=len)


def _cores(secret: str) -> list[str]:
    """Of its base64, for each of the three positions in a group, the characters that depend on the secret alone."""
    octets = secret.encode("utf-8", "surrogateescape")
    cores = []
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + octets).decode("ascii")
        cores.append(encoded[-(-before * 8 // 6) : (before + len(octets)) * 8 // 6])
    return cores


def _forms(secret: str) -> str:
    """A pattern for the forms in which ``secret`` may come back, run by run.

    It can match a text in one way only: the pattern of a run neither begins nor continues with a character of the next
    run. Otherwise a password of many backslashes, repeated by a server, would block the whole process (backtracking).
    """
    anchored = sum("!" <= character <= "~" for character in secret) >= _SHORT - 1
    runs = _RUNS.finditer(secret)
    forms = "".join(_plain(run[0]) if run["plain"] else _run(run[0], anchored=anchored) for run in runs)
    if not re.search(_ESCAPED, secret):
        return forms
    # The secret itself holds what looks like an escape. In a URL its "%" or "\" is escaped again.
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
    # Characters outside printable ASCII may come back as others: \ufffd or "?" for each octet (up to four of them a
    # character), letters of a wrong charset, or one blank between two lines instead of two. The pattern is case
    # sensitive: if case were ignored, the dotless i would be excluded here.
    units = _UNITS.findall(run)
    least = sum(len(unit) > 1 or "!" <= unit <= "~" for unit in units)
    plus = r"|\+" if " " in run else ""
    unit = _UNIT if least else rf"(?:[^!->@-~]|{_ESCAPED}{plus})"
    return f"{unit}{{{max(least, 1)},{4 * len(units)}}}"


def _exactly(character: str) -> str:
    # There is too little text around it, so that a pattern for any character would match at every blank.
    octets = character.encode("utf-8", "surrogateescape")
    forms = [re.escape(character), *("".join(f"{mark}{octet:02x}" for octet in octets) for mark in ("%", "=", r"\\x"))]
    forms.append(rf"\\u{ord(character):04x}")
    if character == " ":
        forms.append(r"\+")
    return f"(?i:{'|'.join(forms)})"
