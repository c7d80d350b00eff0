"""README and the pages are short and linked, and what they tell to type or to write into a file is understood."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
from hatchling.builders.sdist import SdistBuilder

from container.containerfile import Containerfile
from legacy_email_proxy import cli
from legacy_email_proxy.build import Composition, compose
from legacy_email_proxy.replies import _POLICY, _UNEXPECTED, SMTP, Reply
from legacy_email_proxy.settings import TABLE, read, unknown_variables
from legacy_email_proxy_plugins.findings import meaning_of
from oauth2.test_grants import RSA_KEY, pem
from pages import DOCS, GUIDE, MAP, PAGES, README, ROOT, Block, blocks, marked, prose, rows, text

WHOLE = "# mail-proxy.env\n"
"""With this line begins an env file that is complete; other blocks are lines to add to one."""

SETTINGS = {setting.name: setting for setting in TABLE}
ENV = list(blocks("env"))
ACCOUNTS = [block for block in blocks("toml") if "[accounts." in block.text]
SHELL = list(blocks("sh"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_short(page: Path) -> None:
    lines = PAGES[page].splitlines()
    assert len(lines) <= (200 if page == README else 250)
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, MAP, GUIDE], ids=lambda page: "/".join(page.parts[-2:]))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", prose(page.read_text(encoding="utf-8"))):
        if link.startswith("https://"):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_readme_leads_to_every_page() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in re.findall(r"\]\(([^)]+)\)", PAGES[README])}
    assert {MAP, GUIDE, *PAGES} - {README} <= linked


def test_each_fact_stands_once() -> None:
    """A table that was copied to a second page would be right on one of them only."""
    marks = [mark for page in PAGES.values() for mark in re.findall(r"^<!-- (\w+: \w+) -->$", page, re.MULTILINE)]
    assert sorted(mark for mark in marks if mark != "table: refusals") == sorted(set(marks) - {"table: refusals"})


def test_the_source_distribution_holds_the_pages() -> None:
    builder = SdistBuilder(str(ROOT))
    held = {Path(file.path) for file in builder.recurse_included_files()}
    assert held >= {*PAGES, MAP, GUIDE}


# What is to be written into files.


def variables(block: Block) -> dict[str, str]:
    """The block as podman reads it: lines that begin with # are nothing, and all behind the first = is the value."""
    lines = [line for line in block.text.splitlines() if not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def with_files(given: Mapping[str, str], folder: Path) -> dict[str, str]:
    """With files that are there in the place of those that the reader has to make."""
    made = {"STATE_DIR": str(folder / "state")}
    for name, value in given.items():
        if name.endswith("_FILE") and name.removesuffix("_FILE") in SETTINGS:
            file = folder / Path(value).name
            file.write_text(content_of(name.removesuffix("_FILE")))
            value = str(file)
        # What is to be made needs a folder above it that is there.
        made[name] = value.replace("/srv/mail/", f"{folder}/")
    return made


def content_of(name: str) -> str:
    if name == "OAUTH2_SERVICE_ACCOUNT":
        account = {"client_email": "a@b.example", "private_key": pem(RSA_KEY), "private_key_id": "1"}
        return json.dumps(account)
    return pem(RSA_KEY) if name == "OAUTH2_CLIENT_KEY" else "secret\n"


@pytest.mark.parametrize("block", ENV, ids=str)
def test_an_env_block_is_what_podman_takes_literally(block: Block) -> None:
    """Not one quote or comment behind a value: they would be a part of it."""
    for line in block.text.removeprefix(WHOLE).splitlines():
        assert re.fullmatch(r"[A-Z][A-Z0-9_]*=(?! )[^'\"#]+(?<! )", line), line
        assert line.partition("=")[0].removesuffix("_FILE") in SETTINGS or line.partition("=")[0] in SETTINGS, line
        # One variable on each line.
        assert not re.search(r" [A-Z][A-Z0-9_]+=", line), line


@pytest.mark.parametrize("block", ENV, ids=str)
def test_an_env_block_has_no_mistake(block: Block, tmp_path: Path) -> None:
    given = with_files(variables(block), tmp_path)
    assert unknown_variables(given) == []
    assert read(given).mistakes == ()


@pytest.mark.parametrize("block", [block for block in ENV if block.text.startswith(WHOLE)], ids=str)
def test_a_service_can_be_made_of_a_whole_env_file(block: Block, tmp_path: Path) -> None:
    given = with_files(variables(block), tmp_path)
    if "ACCOUNTS_FILE" in given:
        (accounts,) = [each for each in ACCOUNTS if each.page == block.page]
        composition = of_accounts(accounts, given, tmp_path)
        assert composition.users is not None
    else:
        composition = compose(given)
    assert (composition.maildrop is None) == (composition.settings["MAILDROP_PLUGIN"] == "none")
    assert composition.relay is not None


def of_accounts(block: Block, given: Mapping[str, str], folder: Path) -> Composition:
    file = folder / "accounts.toml"
    accounts = block.text
    for path in set(re.findall(r'_FILE = "([^"]+)"', accounts)):
        secret = folder / Path(path).name
        secret.write_text("secret\n")
        accounts = accounts.replace(f'"{path}"', f'"{secret}"')
    file.write_text(accounts)
    return compose({**given, "ACCOUNTS_FILE": str(file)})


@pytest.mark.parametrize("block", ACCOUNTS, ids=str)
def test_an_accounts_file_has_no_mistake(block: Block, tmp_path: Path) -> None:
    composition = of_accounts(block, {"POP3_LOGIN": "accounts", "SMTP_AUTH": "accounts"}, tmp_path)
    named = re.findall(r"^\[accounts[.](\w+)\]$", block.text, re.MULTILINE)
    assert [account.name for account in composition.accounts] == named
    assert [rule.account for rule in composition.rules] == re.findall(r'^account = "(\w+)"$', block.text, re.MULTILINE)


# What is to be typed.

PROGRAM = "legacy-email-proxy"
COMMANDS = {module.__name__.rpartition(".")[2] for module in cli.commands()}


def lines_of(block: Block) -> list[list[str]]:
    """Each command's words."""
    joined = block.text.replace("\\\n", " ")
    return [shlex.split(part) for line in joined.splitlines() for part in re.split(r"&&|;|\|", line) if part.strip()]


def calls() -> list[list[str]]:
    """The arguments of every call of ours, in blocks and in the text."""
    found = []
    for words in (words for block in SHELL for words in lines_of(block) if words[1:2] != ["build"]):
        places = [place for place, word in enumerate(words) if re.fullmatch(rf"([\w./-]+/)?{PROGRAM}", word)]
        found += [words[places[-1] + 1 :]] if places else []
    for page in PAGES.values():
        told = [shlex.split(each) for each in re.findall(rf"`{PROGRAM}((?:\s[^`…]*)?)`", prose(page))]
        # A command that is only named may need more than its name.
        found += [words for words in told if len(words) != 1]
        assert {words[0] for words in told if len(words) == 1} <= COMMANDS
    return found


def test_every_call_is_one_that_the_program_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def stand_in(module: ModuleType) -> None:
        def run(options: object) -> int:
            ran.append(module.__name__)
            return 0

        monkeypatch.setattr(module, "run", run)

    for module in cli.commands():
        stand_in(module)
    every = calls()
    assert len(every) > 15
    for arguments in every:
        assert cli.main(arguments) == 0, arguments
    assert {name.rpartition(".")[2] for name in ran} >= {"serve", "demo", "check", "spool", "password", "authorize"}


def runs() -> list[list[str]]:
    """The containers that serve."""
    starting = (["podman", "run"], ["docker", "run"])
    return [words for block in SHELL for words in lines_of(block) if words[:2] in starting and "-d" in words]


@pytest.mark.parametrize("words", runs(), ids=lambda words: words[0])
def test_a_container_has_no_more_rights_than_it_needs(words: list[str]) -> None:
    told = " ".join(words)
    assert "--read-only --cap-drop all --cap-add NET_BIND_SERVICE" in told
    folder = Containerfile.read(ROOT / "Containerfile").pairs("ENV")["STATE_DIR"]
    assert re.search(rf" -v [\w-]+:{folder} ", told)
    ports = [word for before, word in pairwise(words) if before == "-p"]
    # On a named address: behind a NAT nothing else keeps strangers out.
    assert {port.split(":", 1)[0] for port in ports} == {"192.168.1.10"}
    named = {port.rpartition(":")[2] for port in ports}
    assert named <= {SETTINGS["SMTP_BIND_PORT"].default, SETTINGS["POP3_BIND_PORT"].default}


def test_readmes_ways_bring_the_file_that_its_env_file_names() -> None:
    (env,) = [block for block in ENV if block.page == README]
    (named,) = [value for name, value in variables(env).items() if name.endswith("_FILE")]
    running = [words for words in lines_of(Block(README, "sh", marked("command", "run"))) if words[1] == "run"]
    assert len(running) == 2
    assert all(f"mail-password,target={named}" in words for words in running)
    (compose_file,) = [block for block in blocks("yaml") if block.page.name == "containers.md"]
    assert f"./mail-password:{named}:ro" in compose_file.text


# What others say.


def test_every_refusal_is_explained() -> None:
    """By the texts that the device reads, or by their numbers."""
    page = text("troubleshooting.md")
    own = [reply for reply in vars(SMTP).values() if isinstance(reply, Reply)]
    policies = [*_POLICY.values(), _UNEXPECTED]
    for reply in {*own, *(policy.smtp for policy in policies)}:
        # A command that is no good SMTP is one row.
        by_number = 500 <= reply.code <= 504 or reply.code in (553, 555)
        assert reply.code < 400 or by_number or f"`{reply.code} {reply.enhanced}" in page, reply
    for code in {policy.pop3_code for policy in policies} - {""}:
        assert f"-ERR [{code}]" in page, code


def test_every_text_that_is_told_is_one_that_devices_read() -> None:
    replies = [str(reply) for reply in vars(SMTP).values() if isinstance(reply, Reply)]
    policies = [*_POLICY.values(), _UNEXPECTED]
    replies += [str(policy.smtp) for policy in policies]
    replies += [
        f"-ERR [{each.pop3_code}] {each.pop3_text}" if each.pop3_code else f"-ERR {each.pop3_text}" for each in policies
    ]
    read_by_device = [line.split("|")[1] for line in text("troubleshooting.md").splitlines() if line.startswith("| ")]
    told = [each for cell in read_by_device for each in re.findall(r"`([45]\d\d [45][.][^`]*|-ERR [^`…]+)`", cell)]
    assert len(told) > 25
    for each in told:
        assert any(reply.startswith(each.removesuffix(" …")) for reply in replies), each


@pytest.mark.parametrize("name", ["microsoft365.md", "google.md"])
def test_a_refusal_means_what_check_says(name: str) -> None:
    for row in rows("refusals", DOCS / name):
        said, words = (cell.strip() for cell in row.strip("|").split("|"))
        meaning = meaning_of(said.strip("`"))
        assert meaning is not None, row
        assert words == meaning.words


def test_every_event_of_the_table_is_logged() -> None:
    sources = [*(ROOT / "proxy").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    named = [event for row in rows("events") for event in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert len(named) > 20
    assert [event for event in named if f'"{event}"' not in code] == []


def test_the_way_into_the_tests_names_every_folder() -> None:
    table = [line for line in (ROOT / "tests" / "README.md").read_text().splitlines() if line.startswith("| `")]
    told = [folder for line in table for folder in re.findall(r"`(\w+)/`", line.split("|")[1])]
    there = {path.name for path in (ROOT / "tests").glob("[!_.]*") if path.is_dir() and any(path.glob("[!_.]*"))}
    assert sorted(told) == sorted(there)
