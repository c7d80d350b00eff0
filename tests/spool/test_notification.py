"""What a notification says, byte by byte, and what programs that read notifications make of it."""

from __future__ import annotations

import email
import email.policy
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from email.message import EmailMessage, Message
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legacy_email_proxy.contracts import Client, Parameters
from legacy_email_proxy.testing import context_for
from legacy_email_proxy_plugins.spool import SpoolRelay
from legacy_email_proxy_plugins.spool.message import Notice, Recipient, SpooledMessage, State, Verdict
from legacy_email_proxy_plugins.spool.notification import notices
from legacy_email_proxy_plugins.spool.settings import Options

NOW = 1_800_000_000.0
HEADER = (
    b"From: scanner@firm.test\r\nTo: bob@example.test\r\nSubject: a scan\r\nMessage-ID: <1@firm.test>\r\n"
    b"Date: Fri, 15 Jan 2027 08:00:00 +0000\r\n"
)


def options(folder: Path, **given: str) -> Options:
    return Options.from_context(context_for(SpoolRelay, folder, BACKEND_SMTP_USER="proxy@provider.test", **given))


def message(
    *recipients: Recipient, reverse_path: str = "scanner@firm.test", parameters: Parameters | None = None
) -> SpooledMessage:
    return SpooledMessage(
        number=7, account="", state=State.QUEUED, received=NOW - 600, since=NOW - 600, due=NOW, tries=1, unfinished=0,
        warned=False, notice=False, reason="", client=Client("192.168.1.20", "s1"), reverse_path=reverse_path,
        parameters=parameters or {}, octets=1000, body=None, recipients=list(recipients),
    )  # fmt: skip


def recipient(
    path: str = "bob@example.test",
    code: int = 550,
    enhanced: str = "5.1.1",
    text: str = "No such user",
    number: int = 0,
    **parameters: str,
) -> Recipient:
    return Recipient(number, path, dict(parameters), verdict=Verdict(code, enhanced, text, NOW))


def made(folder: Path, *recipients: Recipient, header: bytes = HEADER, delayed: bool = False, **given: Any) -> Notice:
    about = message(*recipients, **given)
    (notice,) = notices(about, recipients, header, options(folder), NOW, delayed=delayed)
    return notice


def parsed(notice: Notice) -> EmailMessage:
    found = email.message_from_bytes(notice.content, policy=email.policy.SMTP)
    assert isinstance(found, EmailMessage)
    assert [defect for part in found.walk() for defect in part.defects] == []
    return found


def parts(notice: Notice) -> list[EmailMessage]:
    words, status, header = list(parsed(notice).iter_parts())
    assert status.get_content_type() == "message/delivery-status"
    return [words, status, header]  # type: ignore[list-item]


def fields(notice: Notice) -> tuple[Message, list[Message]]:
    """Of the message, and of each recipient."""
    payload: Any = parts(notice)[1].get_payload()
    return payload[0], payload[1:]


def passes_anywhere(content: bytes) -> bool:
    lines = content.split(b"\r\n")
    return content.isascii() and all(len(line) <= 998 and b"\n" not in line and b"\r" not in line for line in lines)


HEADERS = {
    "plain": HEADER,
    "none": b"",
    "a line of 2000 octets": b"Subject: " + b"x" * 2000 + b"\r\nTo: bob@example.test\r\n",
    "a line of 999 octets": b"X: " + b"x" * 996 + b"\r\n",
    "UTF-8": "Subject: Rechnung für Jürgen\r\n".encode(),
    "Latin-1": "Subject: Rechnung für Jürgen\r\n".encode("latin-1"),
    "NUL and a bell": b"Subject: a\0b\x07\r\n",
    "blanks at the end": b"Subject: a \t\r\nX: b=20\r\n",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_the_header_is_quoted_as_it_was_and_passes_anywhere(tmp_path: Path, header: bytes) -> None:
    notice = made(tmp_path, recipient(), header=header)
    assert passes_anywhere(notice.content)
    assert notice.submission.parameters == {}
    quoted = parts(notice)[2]
    utf_8 = header is HEADERS["UTF-8"]
    assert quoted.get_content_type() == ("message/global-headers" if utf_8 else "text/rfc822-headers")
    # The line end in front of the boundary belongs to that.
    assert _decoded(notice.content) == header


def _decoded(content: bytes) -> bytes:
    """The last part, decoded by a program that knows no content type."""
    boundary = content.rpartition(b"\r\n--")[2].partition(b"--")[0]
    last = content.split(b"\r\n--" + boundary)[-2]
    head, _, body = last.partition(b"\r\n\r\n")
    encoding = [line for line in head.split(b"\r\n") if line.startswith(b"Content-Transfer-Encoding: ")]
    holder = email.message_from_bytes(b"\r\n".join([b"Content-Type: application/octet-stream", *encoding, b"", body]))
    decoded = holder.get_payload(decode=True)
    assert isinstance(decoded, bytes)
    return decoded


@given(
    header=st.lists(st.binary(max_size=1500).map(lambda line: line.replace(b"\n", b"").replace(b"\r", b"")), max_size=5)
)
def test_any_header_is_quoted_as_it_was(tmp_path_factory: pytest.TempPathFactory, header: list[bytes]) -> None:
    octets = b"".join(b"X: " + line + b"\r\n" for line in header)
    notice = made(tmp_path_factory.getbasetemp(), recipient(), header=octets)
    assert passes_anywhere(notice.content)
    assert _decoded(notice.content) == octets


@given(path=st.text(min_size=1, max_size=100), text=st.text(max_size=1200), orcpt=st.text(), envid=st.text())
def test_whatever_was_said_it_passes_anywhere(
    tmp_path_factory: pytest.TempPathFactory, path: str, text: str, orcpt: str, envid: str
) -> None:
    about = recipient(path, text=text, ORCPT=f"rfc822;{orcpt}")
    notice = made(tmp_path_factory.getbasetemp(), about, parameters={"ENVID": envid})
    assert passes_anywhere(notice.content)
    assert len(fields(notice)[1]) == 1


def test_a_quoted_local_part_keeps_its_blank(tmp_path: Path) -> None:
    path = '"bob  smith"@example.test'
    notice = made(tmp_path, recipient(path), reverse_path='"a b"@firm.test')
    _, (about,) = fields(notice)
    assert about["Final-Recipient"] == f"rfc822; {path}"
    assert b'\r\nTo: <"a b"@firm.test>\r\n' in notice.content
    assert f"  <{path}>\r\n" in parts(notice)[0].get_content()


def test_the_words_name_their_charset(tmp_path: Path) -> None:
    words = parts(made(tmp_path, recipient("jürgen@exämple.test", text="Konto für Jürgen gesperrt")))[0]
    assert words.get_content_charset() == "utf-8"
    assert "  <jürgen@exämple.test>\r\n      550 5.1.1 Konto für Jürgen gesperrt\r\n" in words.get_content()
    assert parts(made(tmp_path, recipient()))[0].get_content_charset() == "us-ascii"


@pytest.mark.parametrize(
    ("code", "enhanced", "delayed", "status"),
    [
        (550, "5.1.1", False, "5.1.1"), (550, "", False, "5.0.0"), (554, "4.7.1", False, "5.0.0"),
        (450, "4.2.1", False, "4.2.1"), (450, "", False, "5.4.7"), (0, "", False, "5.4.7"),
        (450, "4.2.1", True, "4.2.1"), (450, "", True, "4.0.0"), (0, "", True, "4.0.0"), (450, "junk", True, "4.0.0"),
    ],
)  # fmt: skip
def test_the_status(tmp_path: Path, code: int, enhanced: str, delayed: bool, status: str) -> None:
    _, (about,) = fields(made(tmp_path, recipient(code=code, enhanced=enhanced), delayed=delayed))
    assert about["Status"] == status
    assert about["Action"] == ("delayed" if delayed else "failed")


def test_it_stands_beside_the_message_that_it_is_about(tmp_path: Path) -> None:
    header = HEADER + b"References: <a@x> <b@x>\r\n\t<c@x>\r\n"
    notice = parsed(made(tmp_path, recipient(), header=header))
    assert notice["In-Reply-To"] == "<1@firm.test>"
    assert notice["References"].split() == ["<a@x>", "<b@x>", "<c@x>", "<1@firm.test>"]
    assert notice["Auto-Submitted"] == "auto-replied"
    without = parsed(made(tmp_path, recipient(), header=b"Subject: x\r\nMessage-ID: <a b>\r\n"))
    assert (without["In-Reply-To"], without["References"]) == (None, None)


@pytest.mark.parametrize(
    ("orcpt", "original"),
    [
        ("rfc822;bob+2Bnews@example.test", "rfc822; bob+news@example.test"),
        ("RFC822;bob+2bnews@example.test", "RFC822; bob+news@example.test"),
        ("x400;+0D+0AX:+20y", "x400; +0D+0AX: y"),
        (r"utf-8;j\x{FC}rgen@example.test", r"utf-8; j\x{FC}rgen@example.test"),
        ("rfc822;", None),
        ("nonsense", None),
        ("", None),
    ],
)
def test_the_original_recipient(tmp_path: Path, orcpt: str, original: str | None) -> None:
    _, (about,) = fields(made(tmp_path, recipient(ORCPT=orcpt)))
    assert about["Original-Recipient"] == original


def test_the_envelope_id(tmp_path: Path) -> None:
    about, _ = fields(made(tmp_path, recipient(), parameters={"ENVID": "scan+2B+207"}))
    assert about["Original-Envelope-Id"] == "scan+ 7"
    assert fields(made(tmp_path, recipient()))[0]["Original-Envelope-Id"] is None


NOTIFY = {
    "never": recipient("never@x.test", number=0, NOTIFY="NEVER"),
    "success": recipient("success@x.test", number=1, NOTIFY="SUCCESS"),
    "delay": recipient("delay@x.test", number=2, NOTIFY="delay,success"),
    "failure": recipient("failure@x.test", number=3, NOTIFY="SUCCESS,failure"),
    "unsaid": recipient("unsaid@x.test", number=4),
}


@pytest.mark.parametrize(
    ("given_", "delayed", "expected"),
    [
        ({}, False, [("scanner@firm.test", {3, 4})]),
        ({}, True, [("scanner@firm.test", {2, 4})]),
        (
            {"SPOOL_POSTMASTER": "pm@firm.test"},
            False,
            [("scanner@firm.test", {3, 4}), ("pm@firm.test", {0, 1, 2, 3, 4})],
        ),
        (
            {"SPOOL_POSTMASTER": "pm@firm.test", "SPOOL_NOTIFY": "postmaster"},
            False,
            [("pm@firm.test", {0, 1, 2, 3, 4})],
        ),
        ({"SPOOL_POSTMASTER": "scanner@firm.test"}, False, [("scanner@firm.test", {3, 4})]),
    ],
)
def test_who_is_told_of_whom(
    tmp_path: Path, given_: dict[str, str], delayed: bool, expected: list[tuple[str, set[int]]]
) -> None:
    recipients = list(NOTIFY.values())
    told = notices(message(*recipients), recipients, HEADER, options(tmp_path, **given_), NOW, delayed=delayed)
    found = []
    for notice in told:
        (to,) = [path for path, _ in notice.submission.recipients]
        paths = [each["Final-Recipient"].split("; ")[1] for each in fields(notice)[1]]
        found.append((to, {each.number for each in recipients if each.forward_path in paths}))
    assert found == expected
    settled = [number for notice in told for number in notice.about]
    assert len(settled) == len(set(settled))
    assert set(settled) == (set() if delayed else set().union(*(numbers for _, numbers in expected)))


def test_nobody_is_told_where_all_have_waived_it(tmp_path: Path) -> None:
    assert notices(message(NOTIFY["never"]), [NOTIFY["never"]], HEADER, options(tmp_path), NOW) == []


Said = tuple[str, str, str]
"""An address, its action and its status."""

KINDS: dict[str, tuple[Sequence[Recipient], bool, dict[str, Any]]] = {
    "unknown user": ([recipient()], False, {}),
    "no enhanced code": ([recipient(enhanced="")], False, {}),
    "enhanced code of another class": ([recipient(enhanced="4.1.1")], False, {}),
    "mailbox full": ([recipient(code=552, enhanced="5.2.2", text="Mailbox full")], False, {}),
    "too big": ([recipient(code=552, enhanced="5.3.4", text="Message size exceeds fixed limit")], False, {}),
    "policy": ([recipient(code=554, enhanced="5.7.1", text="Relay access denied")], False, {}),
    "spam": ([recipient(code=550, enhanced="5.7.1", text="This message looks like spam")], False, {}),
    "long line": ([recipient(code=550, enhanced="", text="maximum allowed line length is 998 octets")], False, {}),
    "several lines": ([recipient(text="No such user\r\nSee https://example.test/help")], False, {}),
    "text outside ASCII": ([recipient(text="Empfänger unbekannt")], False, {}),
    "no text": ([recipient(text="")], False, {}),
    "text that names another address": ([recipient(text="<other@elsewhere.test>: no such user here")], False, {}),
    "very long text": ([recipient(text="no " * 600)], False, {}),
    "given up after 4yz": ([recipient(code=450, enhanced="4.2.1", text="try later")], False, {}),
    "given up after 4yz without an enhanced code": ([recipient(code=451, enhanced="", text="try later")], False, {}),
    "given up without any reply": ([recipient(code=0, enhanced="", text="Connection refused")], False, {}),
    "late after 4yz": ([recipient(code=450, enhanced="4.2.1", text="try later")], True, {}),
    "late after 4yz without an enhanced code": ([recipient(code=451, enhanced="", text="try later")], True, {}),
    "late without any reply": ([recipient(code=0, enhanced="", text="Connection refused")], True, {}),
    "two recipients": ([recipient(), recipient("eve@example.test", 554, "5.7.1", "no", 1)], False, {}),
    "ORCPT": ([recipient(ORCPT="rfc822;bob@example.test")], False, {}),
    "ENVID": ([recipient()], False, {"parameters": {"ENVID": "abc"}}),
    "plus address": ([recipient("bob+news@example.test")], False, {}),
    "apostrophe": ([recipient("o'neil@example.test")], False, {}),
    "upper case": ([recipient("Bob.Smith@Example.test")], False, {}),
    "header with a very long line": ([recipient()], False, {"header": HEADER + b"X-Long: " + b"y" * 3000 + b"\r\n"}),
    "header outside ASCII": ([recipient()], False, {"header": HEADER + "X-Name: Jürgen\r\n".encode()}),
    "header without a message-id": ([recipient()], False, {"header": b"Subject: x\r\n"}),
}


def expected(kind: str) -> set[Said]:
    recipients, delayed, _ = KINDS[kind]
    said = set()
    for each in recipients:
        verdict = each.verdict
        assert verdict is not None
        given_ = verdict.enhanced if verdict.enhanced[:1] == str(verdict.code)[0] else ""
        unsaid = "5.0.0" if verdict.code >= 500 else "4.0.0" if delayed else "5.4.7"
        said.add((each.forward_path.lower(), "delayed" if delayed else "failed", given_ or unsaid))
    return said


def needs(found: object, what: str) -> None:
    if not found:
        assert "NOTHING_MAY_BE_MISSING" not in os.environ, f"{what} is missing"
        pytest.skip(f"{what} is not installed")


def content(kind: str, folder: Path) -> bytes:
    recipients, delayed, given_ = KINDS[kind]
    return made(folder, *recipients, delayed=delayed, **given_).content


@pytest.mark.parametrize("kind", KINDS)
def test_flufl_bounce_understands_it(tmp_path: Path, kind: str) -> None:
    if "NOTHING_MAY_BE_MISSING" not in os.environ:
        pytest.importorskip("flufl.bounce")
    scanner = __import__("flufl.bounce").bounce
    temporary, permanent = scanner.all_failures(email.message_from_bytes(content(kind, tmp_path)))
    found = {(path.decode().lower(), "delayed") for path in temporary}
    found |= {(path.decode().lower(), "failed") for path in permanent}
    assert found == {(path, action) for path, action, _ in expected(kind)}


PERL = {
    "Sisimai": r"""
        use Sisimai; use JSON::PP;
        my %found = map {
            my $read = Sisimai->make($_, delivered => 1) || [];
            $_ => [map { [$_->recipient->address, $_->action, $_->deliverystatus] } @$read]
        } @ARGV;
        print encode_json(\%found);
    """,
    "Mail::DeliveryStatus::BounceParser": r"""
        use Mail::DeliveryStatus::BounceParser; use JSON::PP;
        my %found = map {
            open my $file, '<', $_ or die; local $/; my $read = <$file>;
            my $bounce = Mail::DeliveryStatus::BounceParser->new($read, { report_non_bounces => 1 });
            $_ => [map { [$_->get('email'), $_->get('action'), $_->get('status')] } $bounce->reports]
        } @ARGV;
        print encode_json(\%found);
    """,
}


def perl_has(module: str) -> bool:
    if not shutil.which("perl"):
        return False
    return not subprocess.run(["perl", f"-M{module}", "-e1"], capture_output=True, check=False).returncode


@pytest.mark.parametrize("module", PERL)
def test_perl_modules_understand_it(tmp_path: Path, module: str) -> None:
    needs(perl_has(module), module)
    files = {str(tmp_path / f"{number}.eml"): kind for number, kind in enumerate(KINDS)}
    for file, kind in files.items():
        # As a mailbox holds it.
        Path(file).write_bytes(b"Return-Path: <>\n" + content(kind, tmp_path).replace(b"\r\n", b"\n"))
    done = subprocess.run(["perl", "-e", PERL[module], *files], capture_output=True, text=True, timeout=50, check=True)
    told = {
        files[file]: {(path.lower(), action, status) for path, action, status in found}
        for file, found in json.loads(done.stdout).items()
    }
    wanted = {kind: expected(kind) for kind in KINDS}
    if module != "Sisimai":
        # It gives the addresses that mail can't reach; one that is late is none of these.
        wanted |= {kind: set() for kind, (_, delayed, _) in KINDS.items() if delayed}
    assert told == wanted, done.stderr
