"""Which test asserts which row of an index: the fault matrix below, and the quirks of servers, devices and libraries.

A test names its rows with ``@pytest.mark.fault("A12")`` or ``@pytest.mark.quirk("smtp-C17")``, on the function or on
one of its parameters (``pytest.param(..., marks=pytest.mark.fault("A12"))``). A transcript does it in a line
``# fault: A12``. An index that names tests would still name a test from which the assertion was taken away, so the
sources are read here: a claim counts only where something is asserted.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent

FAULTS = {
    # The SMTP leg.
    "A1": "connects and says nothing: greeted at once, told 421 and closed when the time for a command is over",
    "A2": "connects and resets, a thousand times: no descriptor, no task and no traceback is left",
    "A3": "an octet now and then, and no line end: closed by the time since the command began",
    "A4": "NOOP for ever: 421 after so many commands without a message",
    "A5": "mistakes of every kind: each counts, and at the limit the session ends with 421",
    "A6": "command lines of every length: 512 octets are taken, more is one error, a million costs no memory",
    "A7": "bare LF, bare CR and NUL in commands: refused or tolerated as documented, and never a second command",
    "A8": "smuggling, with all ends of a message that some server takes: one message behind, without bare CR or LF",
    "A9": "a line of content without end: refused at the size limit, memory bounded",
    "A10": "long lines of content: unchanged or mended as set, never cut",
    "A11": "sizes at the limit and above, and false SIZE parameters: 250, 552 or 501, and the rest is no command",
    "A12": "dots in every place: the content arrives octet for octet",
    "A13": "many recipients: a hundred at least, then 452, and those before it are kept",
    "A14": "a recipient twice, or in another case: passed on as given",
    "A15": "the null sender, a null recipient, Postmaster: relayed, refused, relayed",
    "A16": "quoted, literal, routed, international and overlong paths: kept octet for octet or refused",
    "A17": "control characters and syntax inside a path: refused, and no second command behind",
    "A18": "parameters and commands that are unknown or not offered: an error each, the session goes on",
    "A19": "a session in one segment, octet by octet, and cut anywhere: the same replies in the same order",
    "A20": "content sent before 354: handled or refused, never read as commands",
    "A21": "leaves in DATA, by FIN, by RST or in silence: nothing is relayed, nothing is held for ever",
    "A22": "vanishes between the final dot and our reply: delivered once or not at all, and the log names it",
    "A23": "half-closes behind the final dot: delivered and answered",
    "A24": "half-closes behind QUIT or inside a command: whole lines are answered, then a clean close",
    "A25": "sends commands and never reads: cut off, its socket is free again",
    "A26": "slow content: served while it makes progress, given up below the rate",
    "A27": "very many idle connections: cheap to hold, refused above the limits with a reply",
    "A28": "a flood of connections: none is lost in the backlog, and an open session is served meanwhile",
    "A29": "HTTP, TLS, POP3 and noise: a short answer, closed, nothing said back",
    "A30": "odd names in EHLO: refused or cleaned, the Received line stays clean",
    "A31": "STARTTLS: only where it is offered, and what was sent in the clear is forgotten",
    "A32": "a PROXY header: not believed from anybody who may not send it",
    "A33": "EHLO, RSET and MAIL with RSET for ever: an end, and no memory",
    "A34": "a hundred Received lines, huge headers, deep MIME: 554 for the loop, the others pass",
    "A35": "commands in any order: 503, and the state stays as it was",
    "A36": "a client from outside the allowed networks: told and closed, nothing relayed",
    # The backend that mail goes to.
    "B1": "refused, swallowed or unreachable connections: a temporary failure within the time to connect",
    "B2": "no name, no answer, a name server that hangs, a dead first address: temporary, the next address is tried",
    "B3": "accepts and never speaks, or never ends the handshake: temporary at the deadline, nothing is held",
    "B4": "certificates that are wrong in every way, and old TLS: temporary, no login is sent, the log says why",
    "B5": "no TLS on the TLS port, an alert, a reset: temporary, never without TLS",
    "B6": "greetings that refuse, are garbage or never end: temporary, never permanent for the device",
    "B7": "EHLO refused, or without an extension: only what is offered is used",
    "B8": "the login refused in every way: temporary, one try for a message, told once",
    "B9": "MAIL refused, dropped or hanging: the verdict is passed on, silence is temporary",
    "B10": "recipients with different verdicts: each has its own, and no recipient is lost",
    "B11": "421 at the second recipient: nobody counts as accepted",
    "B12": "a recipient twice, refused: no content for nobody",
    "B13": "DATA refused, dropped, or answered too early: no early reply is taken for the verdict",
    "B14": "the connection ends inside the content: temporary, not delivered",
    "B15": "the backend stops reading: given up when there is no progress",
    "B16": "every answer to the final dot: told as it is; no answer is temporary, and the log says it may come twice",
    "B17": "an answer after nine minutes: waited for",
    "B18": "the device leaves while the backend works: an outcome, and nothing is left running",
    "B19": "every code at every step: its class is kept, but what judges us is temporary",
    "B20": "verdicts of many lines, in UTF-8, with control characters, very long: short valid lines",
    "B21": "QUIT unanswered or refused: what was accepted stays accepted",
    "B22": "an idle connection that the backend has closed: replaced once, unnoticed, nothing doubled",
    "B23": "a backend that wants less: its verdict passes, and it is not hammered",
    "B24": "fewer extensions the next time, a message that needs one: told with its code, never mangled",
    "B25": "a backend that hangs on everybody: others are told soon, and nothing grows",
    "B26": "a backend that answers in crumbs: slower, and right",
    "B27": "OAuth2 tokens expired, renewal down, an error in the challenge: one renewal, then temporary",
    # The POP3 leg and the IMAP server behind it.
    "C1": "refused, silent, BYE, PREAUTH, HTTP or garbage: [SYS/TEMP], for PREAUTH [SYS/PERM], never [AUTH]",
    "C2": "certificates that do not verify: no login is sent",
    "C3": "every answer to the login: [AUTH] only where the client's own password is wrong",
    "C4": "no usable mechanism: [SYS/PERM]",
    "C5": "odd users and passwords: the server sees exactly these, or none; never a second command",
    "C6": "folders missing, read-only, empty, huge, with high UIDs: listed, or the right code",
    "C7": "another UIDVALIDITY in the next session: all unique-ids are new",
    "C8": "another UIDVALIDITY inside a session: it fails, and nothing is deleted by an old UID",
    "C9": "another client removes a message before it is read: -ERR for it, and no number moves",
    "C10": "another client removes a message while the folder is listed: the others are served, or a temporary error",
    "C11": "new mail in a session: for the next one",
    "C12": "answers without the message, or with another: the right one or -ERR",
    "C13": "a connection that ends inside a message: -ERR before +OK, no final dot behind it",
    "C14": "literals longer, shorter, huge or negative: an error, memory bounded",
    "C15": "sizes that are off: the whole message all the same",
    "C16": "bare line ends, NUL, no last line end, long lines, 8 bits, empty, large: octets and size agree",
    "C17": "BYE while idle: one new connection whose UIDVALIDITY is looked at",
    "C18": "a connection that the server or a NAT drops while the client thinks: replaced, or not kept so long",
    "C19": "DELE, and then no QUIT in any way: nothing is deleted",
    "C20": "DELE and QUIT: exactly these, and no message that another client marked",
    "C21": "deletion fails half way: -ERR, never +OK, and a second try is safe",
    "C22": "QUIT, and closed without waiting: deleted",
    "C23": "two sessions of one user: [IN-USE], and free again however the first ended",
    "C24": "a wrong password while locked: [AUTH], never [IN-USE]",
    "C25": "a server that drips, or never ends: a deadline and a limit for all of it",
    "C26": "a reader that is slow or stops: memory bounded, then cut off, its connection is free",
    "C27": "many sessions with large messages: memory bounded, and the small ones have their turn",
    "C28": "garbage, endless lines, floods, numbers that only int() takes: -ERR, counted, closed",
    "C29": "commands in the wrong state: -ERR, and the state stays",
    "C30": "guessing of passwords: delayed, three each, few reach the backend",
    "C31": "passwords: in no log, no traceback, no list of processes",
    "C32": "idle for the ten minutes of RFC 1939: closed without a word, nothing deleted",
    # The process and its machine.
    "D1": "kill -9 at every point: what had a 250 arrives, and once but for what nobody can know",
    "D2": "power lost: file, folder and record are synchronised before the 250 is written",
    "D3": "errors of the disk at every call: 452 or 451, never 250",
    "D4": "a full disk: 452, and it heals by itself",
    "D5": "a spool folder that can not be used, and files in it that are damaged: told, or set aside",
    "D6": "two services on one spool: the second one does not start",
    "D7": "a clock that jumps: no storm, no stall, no mail given up",
    "D8": "SIGTERM: idle sessions are told, transactions finish, a second signal is faster",
    "D9": "SIGTERM between the backend's 250 and ours: the device reads it",
    "D10": "no descriptors left: who is there is served, connections are taken again later, few lines in the log",
    "D11": "little memory: the attacks are survived in 256 MiB",
    "D12": "every thread hangs: other accounts are served",
    "D13": "a plugin that raises, hangs, blocks, returns nonsense or does not load: temporary, named, alone",
    "D14": "every mistake in the settings: one line each, no traceback, no secret, no start",
    "D15": "a port that is taken, not allowed or of no address: one line, no start",
    "D16": "a log reader that stalls, and words that forge a line: service goes on, one event is one line",
    "D17": "a message made to keep the processor busy: linear work",
    "D18": "very many sessions with faults: descriptors, threads, tasks and memory come back",
    "D19": "in a container: not root, read-only, signals reach it, health tells the truth",
    "D20": "a backend that comes back to a long queue: bounded connections, in order, no storm",
    "D21": "a message that is too old: one notification from the null sender, none for a null sender",
    "D22": "a message that always fails: out of the queue once, the others pass",
    # Microsoft Graph.
    "E1": "it delivers to the header: exactly the envelope's recipients get the message, each once",
    "E2": "it refuses a sender, a recipient or a message: a verdict with its text; all else is temporary",
    "E3": "it throttles: pauses are kept, four requests at once at most, no message lost or doubled",
    "E4": "the answer is lost: told as perhaps delivered, a draft is looked up, nothing is sent again by itself",
    "E5": "an upload breaks off: it goes on where it was; what fails in the end leaves no draft",
    "E6": "killed while it sends: the spool sends again, once",
    "E7": "a token that is over or refused: another one is tried once, then it is temporary",
    "E8": "the listing breaks off, or its state is forgotten: it goes on or begins anew, with the same unique-ids",
    "E9": "one message that can not be shown or converted: that one alone",
    "E10": "a download breaks off: begun anew before the client has anything, else closed without an end",
    "E11": "a deletion fails: told, the rest can be repeated, and what left the folder is not touched",
    "E12": "it names an address on another server: the token does not go there",
}
"""What happens: what must be seen. A is the SMTP leg, B its backend, C the POP3 leg and IMAP, D process and machine."""


@dataclass(frozen=True)
class Claim:
    """One test says that it asserts one row."""

    mark: str
    row: str
    place: str
    asserts: bool


@cache
def claims(mark: str) -> tuple[Claim, ...]:
    """All claims in this folder that are made with one mark."""
    files = [path for path in sorted(TESTS.rglob("test_*.py")) if "site_plugin" not in path.parts]
    transcripts = sorted((TESTS / "transcripts").rglob("*.txt"))
    found = [claim for path in files for claim in claims_of_module(path.read_text(), str(path.relative_to(TESTS)))]
    found += [claim for path in transcripts for claim in _claims_of_transcript(path)]
    return tuple(claim for claim in found if claim.mark == mark)


def mistakes(found: Iterable[Claim], rows: Iterable[str]) -> list[str]:
    """What is wrong with an index: rows that nobody claims, claims of unknown rows, and claims without an assertion."""
    found, wanted = list(found), set(rows)
    claimed = {claim.row for claim in found}
    return sorted(
        [f"{row}: no test" for row in wanted - claimed]
        + [f"{claim.row}: no such row ({claim.place})" for claim in found if claim.row not in wanted]
        + [f"{claim.row}: {claim.place} asserts nothing" for claim in found if not claim.asserts]
    )


def untested() -> list[str]:
    """The rows of the fault matrix for which tests/README.md gives the reason why they have no test."""
    return re.findall(r"^\| ([A-D]\d+) \| \S", (TESTS / "README.md").read_text(), re.MULTILINE)


def claims_of_module(source: str, place: str) -> Iterator[Claim]:
    """The claims of all test functions in one file."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _FUNCTIONS) and node.name.startswith("test_"):
            for mark, row in _marked(node.decorator_list):
                # One that is skipped, or expected to fail, asserts nothing.
                asserts = not _never_passes(node.decorator_list) and (_asserts(node) or _by_a_helper(node, tree))
                yield Claim(mark, row, f"{place}::{node.name}", asserts)


def _claims_of_transcript(path: Path) -> Iterator[Claim]:
    text = path.read_text()
    # What the server must say behind something that the client said.
    asserts = bool(re.search(r"^C[:=].*^S[:=]", text, re.MULTILINE | re.DOTALL))
    for mark, rows in re.findall(r"^# (fault|quirk): (.+)$", text, re.MULTILINE):
        for row in rows.split(", "):
            yield Claim(mark, row, str(path.relative_to(TESTS)), asserts)


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_ASSERTING = ("pytest.raises", "pytest.fail", "until", "wait_until")
"""The two waits of this suite fail when what they wait for does not come."""


def _marked(decorators: Iterable[ast.expr]) -> Iterator[tuple[str, str]]:
    for decorator in decorators:
        for node in ast.walk(decorator):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("pytest.mark.fault", "pytest.mark.quirk"):
                mark = ast.unparse(node.func).rpartition(".")[2]
                for argument in node.args:
                    yield mark, ast.literal_eval(argument)


def _never_passes(decorators: Iterable[ast.expr]) -> bool:
    names = {ast.unparse(node.func if isinstance(node, ast.Call) else node) for node in decorators}
    return bool(names & {"pytest.mark.skip", "pytest.mark.xfail"})


def _asserts(tree: ast.AST) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call) and ast.unparse(node.func) in _ASSERTING:
            return True
        if isinstance(node, ast.Raise) and node.exc and ast.unparse(node.exc).startswith("AssertionError"):
            return True
    return False


def _by_a_helper(test: ast.AST, module: ast.Module) -> bool:
    """Whether a function or class that the test names asserts something: in its own file, or imported from here."""
    used = {node.id for node in ast.walk(test) if isinstance(node, ast.Name)}
    if any(_asserts(helper) for helper in _defined(module, used)):
        return True
    for node in module.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            wanted = {alias.name for alias in node.names if (alias.asname or alias.name) in used}
            path = TESTS / (node.module.replace(".", "/") + ".py")
            if wanted and path.exists() and any(map(_asserts, _defined(ast.parse(path.read_text()), wanted))):
                return True
    return False


def _defined(module: ast.Module, names: set[str]) -> Iterator[ast.AST]:
    return (node for node in module.body if isinstance(node, (*_FUNCTIONS, ast.ClassDef)) and node.name in names)
