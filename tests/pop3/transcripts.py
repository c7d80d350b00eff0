"""Reads ``tests/transcripts/pop3/*.txt``: one behaviour per file, in the RFCs' own notation.

``C:`` and ``S:`` are lines, ``C=`` and ``S=`` octets with Python's escapes. ``MESSAGE: unique-id`` with ``|`` lines
below it, or ``MESSAGE= unique-id octets``, fills the maildrop; ``FAIL: step kind`` lets a step fail; ``OPTION: name
value`` gives the session an option; ``LOGIN: user password`` is what the maildrop must have been asked with;
``DELETED:`` is what must have been removed in the end. After the last line the connection is closed. ``S: {GREETING}``
and the like stand for what :mod:`announced` has.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import announced
from legacy_email_proxy import contracts
from legacy_email_proxy.contracts import Secret
from legacy_email_proxy.pop3.requests import Open
from legacy_email_proxy.pop3.session import Session
from pop3.maildrops import OPTIONS, MemoryMaildrop, Play

FILES = sorted((Path(__file__).parent.parent / "transcripts" / "pop3").glob("*.txt"))


def _octets(text: str) -> bytes:
    return text.encode("ascii").decode("unicode_escape").encode("latin-1")


@dataclass
class Transcript:
    dialogue: list[tuple[str, bytes]] = field(default_factory=list)
    messages: dict[str, bytes] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)
    deleted: tuple[str, ...] = ()
    options: dict[str, object] = field(default_factory=dict)
    logins: list[Open] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Transcript:
        found = cls()
        for line in path.read_text().splitlines():
            mark, _, rest = line.partition(" ")
            match mark:
                case "" | "#":
                    pass
                case "S:" if rest in announced.POP3:
                    found.dialogue += [("S", said.encode() + b"\r\n") for said in announced.POP3[rest]]
                case "C:" | "S:":
                    found.dialogue.append((mark[0], rest.encode() + b"\r\n"))
                case "C=" | "S=":
                    found.dialogue.append((mark[0], _octets(rest)))
                case "MESSAGE:":
                    found.messages[rest] = b""
                case "MESSAGE=":
                    unique_id, _, content = rest.partition(" ")
                    found.messages[unique_id] = _octets(content)
                case "|":
                    found.messages[list(found.messages)[-1]] += rest.encode() + b"\r\n"
                case "FAIL:":
                    step, _, kind = rest.partition(" ")
                    found.failures.append((step.replace("-", " "), kind))
                case "OPTION:":
                    name, _, value = rest.partition(" ")
                    found.options[name] = value or True
                case "LOGIN:":
                    user, _, password = rest.partition(" ")
                    found.logins.append(Open(user, Secret(password)))
                case "DELETED:":
                    found.deleted = tuple(rest.split())
                case _:
                    raise AssertionError(f"{path.name}: {line!r}")
        assert found.dialogue
        return found

    def said(self, who: str) -> bytes:
        return b"".join(octets for speaker, octets in self.dialogue if speaker == who)

    def maildrop(self) -> MemoryMaildrop:
        maildrop = MemoryMaildrop(dict(self.messages))
        for step, kind in self.failures:
            failure = getattr(contracts, kind)("the detail is not for the client")
            if step == "open":
                maildrop.fail_open.append(failure)
            else:
                maildrop.fail[step] = failure
        return maildrop

    def play(self) -> Play:
        return Play(self.maildrop(), Session(replace(OPTIONS, **self.options)))  # type: ignore[arg-type]

    def check_deletions(self, maildrop: MemoryMaildrop) -> None:
        assert maildrop.commits == ([self.deleted] if self.deleted else [])
        assert set(maildrop.messages) == set(self.messages) - set(self.deleted)
