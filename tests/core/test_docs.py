"""README says what the code does: tables, commands and names are read from both and compared."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from legacy_email_proxy import cli
from legacy_email_proxy.contracts import Setting
from legacy_email_proxy.settings import TABLE

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


def test_every_command_is_documented() -> None:
    for module in cli._COMMANDS:
        name = module.__name__.rpartition(".")[2]
        assert re.search(rf"`… {name}`|`legacy-email-proxy` or `… {name}`", README), name


def test_every_variable_named_anywhere_exists() -> None:
    known = {setting.name for setting in TABLE}
    known |= {f"{name}_FILE" for name in known}
    pattern = r"\b(?:POP3|SMTP|BACKEND|MAILDROP|RELAY|LOG|MAX|ALLOWED|DRAIN)_[A-Z0-9_]*[A-Z0-9]\b"
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
    for name in re.findall(r"`((?:smtp|pop3|settings|contracts|commands)/\w+)", MAP):
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
