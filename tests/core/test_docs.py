"""The pages say what the code does: tables, commands and names are read from both and compared."""

from __future__ import annotations

import argparse
import re
import ssl

import pytest

from announced import KEYWORDS
from legacy_email_proxy import cli
from legacy_email_proxy.access import Admission
from legacy_email_proxy.accounts.file import CONDITIONS
from legacy_email_proxy.alerts.conditions import CONDITIONS as CONDITIONS_OF_TROUBLE
from legacy_email_proxy.commands import spool
from legacy_email_proxy.contracts import Setting
from legacy_email_proxy.pop3.commands import COMMANDS, Mistake, State, capabilities, parse
from legacy_email_proxy.pop3.options import Options
from legacy_email_proxy.settings import PROFILES, TABLE, read
from legacy_email_proxy.settings.table import ALIASES
from legacy_email_proxy.smtp.authentication import anybody
from legacy_email_proxy.smtp.connection import SessionOptions
from legacy_email_proxy.smtp.handler import RelayHandler
from legacy_email_proxy.smtp.reading import Patience
from legacy_email_proxy.smtp.session import COMMANDS as SMTP_COMMANDS
from legacy_email_proxy.smtp.session import SMTPSession
from pages import MAP, PAGES, ROOT, rows, text
from smtp.relays import MemoryRelay


def settings_row(setting: Setting) -> str:
    default = "–" if setting.default is None else f"`{setting.default}`"
    if setting.name == "STATE_DIR":
        default = "see there"
    shown = default.replace(",", ", ") if setting.type == "networks" else default
    return f"| `{setting.name}` | {shown} | {setting.sentence} |"


def test_the_settings_table_is_the_codes() -> None:
    assert rows("settings") == [settings_row(setting) for setting in TABLE]


def test_the_table_of_troubles_is_the_codes() -> None:
    assert rows("troubles") == [
        f"| `{one.key}` | {one.severity} | {one.text} | {one.advice} |" for one in CONDITIONS_OF_TROUBLE.values()
    ]


def profile_rows() -> list[str]:
    """One row for each provider: where the legs go, and what else its profile says."""
    made = []
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
        made.append(f"| `{name}` | {' | '.join(cells)} | {' '.join(rest)} |")
    return made


def test_the_providers_table_is_the_codes() -> None:
    assert rows("profiles") == profile_rows()


def test_every_condition_is_documented() -> None:
    assert [row.split("`")[1] for row in rows("conditions")] == list(CONDITIONS)


def support(name: str) -> dict[str, str]:
    """Keyword → yes, partial or no, from one of the support tables."""
    found: dict[str, str] = {}
    for row in rows(name):
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
    row = next(row for row in rows("pop3") if row.startswith("| `CAPA`"))
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
    verbs = set(SMTP_COMMANDS)
    silent = {"EXPN"}
    assert {keyword for keyword, answer in table.items() if answer != "no"} >= verbs - silent
    assert all(table[verb] == "no" for verb in silent)
    lines: list[str] = []
    session._reply = lambda reply: lines.extend(str(reply).split("\r\n"))
    protocol = session.protocol
    protocol.session = protocol._create_session()
    protocol.session.peer = ("127.0.0.1", 1)  # type: ignore[assignment]
    await session.smtp_EHLO("x")
    announced = {re.split("[ =]", line[4:])[0] for line in lines}
    assert {keyword for keyword, answer in table.items() if answer == "yes"} >= announced - {"x"}
    always = {keyword.split()[0] for keyword in KEYWORDS} | {"HELP", "STARTTLS", "AUTH"}
    assert always == announced - {"x"}


def first_cells(name: str) -> list[str]:
    return [row.split("|")[1] for row in rows(name)]


def test_every_command_is_documented() -> None:
    told = [re.findall(r"`… ([a-z]+)`", cell) for cell in first_cells("commands")]
    assert told == [[module.__name__.rpartition(".")[2]] for module in cli.commands()]


def test_every_action_on_the_spool_is_documented() -> None:
    told = {action for cell in first_cells("spool") for action in re.findall(r"`spool ([a-z]+)", cell)}
    assert told == set(spool._SENTENCES)


@pytest.mark.parametrize(
    ("name", "column", "variable"),
    [("uidl", 2, "POP3_UIDL_FORMAT"), ("deletion", 1, "BACKEND_IMAP_DELETE")],
)
def test_every_choice_is_documented(name: str, column: int, variable: str) -> None:
    told = {row.split("|")[column].strip(" `") for row in rows(name)}
    assert told == {*next(setting.choices for setting in TABLE if setting.name == variable)}


def test_every_variable_named_anywhere_exists() -> None:
    known = {*(setting.name for setting in TABLE), *ALIASES}
    known |= {f"{name}_FILE" for name in known}
    prefixes = "POP3S?|TLS|SMTPS?|BACKEND|MAILDROP|RELAY|LOG|MAX|ALLOWED|DRAIN|ACCOUNTS|OAUTH2|SPOOL"
    prefixes += "|HISTORY|ADMIN|ALERT"
    pattern = rf"\b(?:{prefixes})_[A-Z0-9_]*[A-Z0-9]\b"
    for path in (*PAGES, MAP, ROOT / "Containerfile"):
        named = set(re.findall(pattern, path.read_text()))
        assert named - known == set(), path


def test_the_map_names_only_modules_that_exist() -> None:
    core = ROOT / "proxy" / "legacy_email_proxy"
    told = MAP.read_text() + text("how-it-works.md")
    for name in re.findall(r"`((?:smtp|pop3|accounts|settings|contracts|commands)/\w+)", told):
        assert (core / f"{name}.py").exists(), name


def test_the_help_fits_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(["--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    for module in cli.commands():
        assert module.__name__.rpartition(".")[2] in shown
        assert (module.__doc__ or "").splitlines()[0].endswith((".", ")."))
        module.add_arguments(argparse.ArgumentParser())
