"""README says what the code does: tables, commands and names are read from both and compared."""

from __future__ import annotations

import argparse
import re
import ssl
from pathlib import Path

import pytest

from legacy_email_proxy import cli
from legacy_email_proxy.access import Admission
from legacy_email_proxy.accounts.file import CONDITIONS
from legacy_email_proxy.composition import compose
from legacy_email_proxy.contracts import Setting
from legacy_email_proxy.pop3.commands import COMMANDS, Mistake, State, capabilities, parse
from legacy_email_proxy.pop3.options import Options
from legacy_email_proxy.settings import PROFILES, TABLE, read
from legacy_email_proxy.smtp.authentication import anybody
from legacy_email_proxy.smtp.handler import RelayHandler
from legacy_email_proxy.smtp.options import SessionOptions
from legacy_email_proxy.smtp.reception import Patience
from legacy_email_proxy.smtp.session import SMTPSession
from smtp.relays import MemoryRelay

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MAP = (ROOT / "proxy" / "README.md").read_text()


def marked(kind: str, name: str) -> str:
    """What stands behind ``<!-- kind: name -->``, up to the next blank line or end of a code block."""
    behind = README.partition(f"<!-- {kind}: {name} -->\n")[2]
    assert behind, f"README has no {kind} {name}"
    return behind.split("```")[1].removeprefix("sh\n") if kind == "command" else behind.partition("\n\n")[0]


def settings_row(setting: Setting) -> str:
    default = "–" if setting.default is None else f"`{setting.default}`"
    if setting.name == "STATE_DIR":
        default = "see there"
    shown = default.replace(",", ", ") if setting.type == "networks" else default
    return f"| `{setting.name}` | {shown} | {setting.sentence} |"


def test_the_settings_table_is_the_codes() -> None:
    rows = marked("table", "settings").splitlines()[2:]
    assert rows == [settings_row(setting) for setting in TABLE]


def profile_rows() -> list[str]:
    """One row for each provider: where the legs go, and what else its profile says."""
    rows = []
    places = [f"BACKEND_{leg}_{what}" for leg in ("IMAP", "SMTP") for what in ("HOST", "PORT", "USE_SSL")]
    upgrades = {"IMAP": "BACKEND_IMAP_USE_STARTTLS", "SMTP": "BACKEND_SMTP_USE_TLS"}
    for name, texts in PROFILES.items():
        settings = read({"PROVIDER": name})
        cells = [
            f"`{settings[f'BACKEND_{leg}_HOST']}` port {settings[f'BACKEND_{leg}_PORT']}"
            f"{', STARTTLS' if settings[upgrade] else ''}"
            if settings[f"BACKEND_{leg}_HOST"]
            else "yours"
            for leg, upgrade in upgrades.items()
        ]
        rest = [f"`{key}={text}`" for key, text in texts.items() if key not in (*places, *upgrades.values())]
        rows.append(f"| `{name}` | {' | '.join(cells)} | {' '.join(rest)} |")
    return rows


def test_the_providers_table_is_the_codes() -> None:
    assert marked("table", "profiles").splitlines()[2:] == profile_rows()


async def test_the_example_of_several_accounts_works(tmp_path: Path) -> None:
    text = README.partition("## Several accounts\n")[2].partition("```toml\n")[2].partition("```")[0]
    file = tmp_path / "accounts.toml"
    file.write_text(text.replace("/run/secrets", str(tmp_path)))
    for name in ("office", "scanner"):
        (tmp_path / name).write_text("secret\n")
    composition = compose({"ACCOUNTS_FILE": str(file), "POP3_LOGIN": "accounts"})
    assert [account.name for account in composition.accounts] == ["office", "scanner"]
    assert [rule.account for rule in composition.rules] == ["scanner", "office"]


def test_every_condition_is_documented() -> None:
    rows = marked("table", "conditions").splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(CONDITIONS)


def support(name: str) -> dict[str, str]:
    """Keyword → yes, partial or no, from one of the support tables."""
    found: dict[str, str] = {}
    for row in marked("table", name).splitlines()[2:]:
        keywords, answer, reason = (cell.strip() for cell in row.strip("|").split("|"))
        assert answer in ("yes", "partial", "no")
        assert reason, row
        found |= dict.fromkeys(re.findall(r"`([^`]+)`", keywords), answer)
    return found


def announced_by_pop3(options: Options, state: State, *, secured: bool = False) -> set[str]:
    return {line.split()[0] for line in capabilities(options, state, secured=secured)}


def test_the_pop3_table_is_the_codes() -> None:
    table = support("pop3")
    supported = {keyword for keyword, answer in table.items() if answer == "yes" and not keyword.startswith("[")}
    assert supported == {str(keyword) for keyword in COMMANDS}
    row = next(row for row in marked("table", "pop3").splitlines() if row.startswith("| `CAPA`"))
    named = set(re.findall(r"`([A-Z0-9-]+)`", row)) - {"CAPA"}
    plain, full = Options("x"), Options("x", expire="NEVER", stls=True)
    for state in (State.AUTHORIZATION, State.TRANSACTION):
        assert announced_by_pop3(plain, state) == named - {"STLS", "EXPIRE"}
        assert announced_by_pop3(full, state, secured=True) == named - {"STLS"}
    assert announced_by_pop3(full, State.AUTHORIZATION) == named
    assert announced_by_pop3(full, State.TRANSACTION) == named - {"STLS"}


def test_what_the_pop3_table_denies_is_an_error() -> None:
    for keyword, answer in support("pop3").items():
        if answer == "no" and not keyword.startswith("["):
            with pytest.raises(Mistake):
                parse(keyword.encode())


async def test_the_smtp_table_is_the_codes() -> None:
    handler = RelayHandler(MemoryRelay(), 1 << 20)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    admission = Admission((), 1, 1)
    options = SessionOptions("x", 1 << 20, Patience(1.0, 1.0), admission, tls=lambda: tls, verifier=anybody)
    session = SMTPSession(handler, options)
    table = support("smtp")
    verbs = set(session._smtp_methods)
    silent = {"EXPN"}
    assert {keyword for keyword, answer in table.items() if answer != "no"} >= verbs - silent
    assert all(table[verb] == "no" for verb in silent)
    lines: list[str] = []
    session.reply = lambda reply: lines.extend(str(reply).split("\r\n"))  # type: ignore[method-assign]
    session.session = session._create_session()
    session.session.peer = ("127.0.0.1", 1)  # type: ignore[assignment]
    await session.smtp_EHLO("x")
    announced = {re.split("[ =]", line[4:])[0] for line in lines}
    assert {keyword for keyword, answer in table.items() if answer == "yes"} >= announced - {"x"}
    always = {"PIPELINING", "SIZE", "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING", "LIMITS", "HELP", "STARTTLS", "AUTH"}
    assert always == announced - {"x"}


def test_every_command_is_documented() -> None:
    for module in cli._COMMANDS:
        name = module.__name__.rpartition(".")[2]
        assert re.search(rf"`… {name}`|`legacy-email-proxy` or `… {name}`", README), name


def test_every_variable_named_anywhere_exists() -> None:
    known = {setting.name for setting in TABLE}
    known |= {f"{name}_FILE" for name in known}
    prefixes = "POP3S?|TLS|SMTPS?|BACKEND|MAILDROP|RELAY|LOG|MAX|ALLOWED|DRAIN|ACCOUNTS|OAUTH2|SPOOL"
    pattern = rf"\b(?:{prefixes})_[A-Z0-9_]*[A-Z0-9]\b"
    for path in (ROOT / "README.md", ROOT / "proxy" / "README.md", ROOT / "Containerfile"):
        named = set(re.findall(pattern, path.read_text()))
        assert named - known == set(), path


def test_links_lead_somewhere() -> None:
    headings = {re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                for line in README.splitlines() if line.startswith("#")}  # fmt: skip
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("https://"):
            assert (ROOT / target).exists(), target


def test_the_map_names_only_modules_that_exist() -> None:
    core = ROOT / "proxy" / "legacy_email_proxy"
    for name in re.findall(r"`((?:smtp|pop3|accounts|settings|contracts|commands)/\w+)", MAP):
        assert (core / f"{name}.py").exists(), name


def test_the_help_fits_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(["--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    for module in cli._COMMANDS:
        assert module.__name__.rpartition(".")[2] in shown
        assert (module.__doc__ or "").splitlines()[0].endswith((".", ")."))
        module.add_arguments(argparse.ArgumentParser())
