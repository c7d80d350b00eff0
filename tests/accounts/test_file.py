"""The accounts file: every mistake is one line that says where it stands."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path

import pytest

from legacy_email_proxy import plugins
from legacy_email_proxy.accounts.file import Lines, read_accounts
from legacy_email_proxy.accounts.users import PasswordHash
from legacy_email_proxy.build import Composition, compose
from legacy_email_proxy.contracts import Client, Filter, Refused, Secret, SettingsMistake
from legacy_email_proxy.plugins import PluginContext
from legacy_email_proxy.relays.allow_list import AllowListFilter
from legacy_email_proxy.relays.filtered import FilteredRelay
from legacy_email_proxy.smtp.headers import HeaderOptions
from legacy_email_proxy.smtp.rewriting import Rewriting
from legacy_email_proxy_plugins.imap.maildrop import IMAPMaildrop
from smtp.relays import MemoryRelay

load = EntryPoint.load
context = ssl.create_default_context

HASH = str(PasswordHash.of("secret of ann"))
ENVIRON = {
    "BACKEND_IMAP_HOST": "imap.example",
    "BACKEND_IMAP_USER": "u",
    "BACKEND_IMAP_PASS": "hunter2",
    "BACKEND_SMTP_HOST": "smtp.example",
    "POP3_LOGIN": "accounts",
}
GOOD = f"""\
[accounts.a]
BACKEND_IMAP_FOLDER = "Scans"

[accounts.b]
PROVIDER = "gmail"
BACKEND_IMAP_USER = "b"
BACKEND_IMAP_PASS = "b's"

[users]
ann = "{HASH}"

[[rules]]
user = "ann"
account = "b"

[[rules]]
account = "a"
"""


def mistakes(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    """What is wrong with this file, without the folder's name."""
    file = tmp_path / "accounts.toml"
    file.write_text(text)
    try:
        compose({**ENVIRON, **(environ or {}), "ACCOUNTS_FILE": str(file)})
    except SettingsMistake as mistake:
        return [line.replace(f"{tmp_path}{os.sep}", "") for line in mistake.lines]
    return []


async def test_a_good_file(tmp_path: Path) -> None:
    file = tmp_path / "accounts.toml"
    file.write_text(GOOD)
    composition = compose({**ENVIRON, "ACCOUNTS_FILE": str(file)})
    a, b = composition.accounts
    assert (a.name, a.settings["BACKEND_IMAP_FOLDER"], a.settings["BACKEND_IMAP_HOST"]) == (
        "a",
        "Scans",
        "imap.example",
    )
    assert a.settings["BACKEND_IMAP_PASS"] == Secret("hunter2")
    assert a.settings.origins["BACKEND_IMAP_FOLDER"] == f"{file}:2"
    assert (b.settings["BACKEND_IMAP_HOST"], b.settings["BACKEND_IMAP_USER"]) == ("imap.gmail.com", "b")
    assert a.maildrop is not b.maildrop
    assert [rule.place for rule in composition.rules] == [f"{file}:12", f"{file}:16"]


BAD = {
    "no TOML": ("[accounts.a\n", ["accounts.toml:1: expected ']' at the end of a table declaration"]),
    "a key twice": ("[accounts.a]\nX = 1\nX = 2\n", ["accounts.toml:3: cannot overwrite a value"]),
    "nothing in it": ("", ["accounts.toml:1: no account; each one is a table [accounts.NAME]"]),
    "other tables": (GOOD + "[rule]\nx = 1\n", ["accounts.toml:18: rule: no such table, did you mean 'rules'?"]),
    "another table within": (
        GOOD + "[acounts.c]\nx = 1\n",
        ["accounts.toml:18: acounts: no such table, did you mean 'accounts'?"],
    ),
    "a name": ('[accounts."a b"]\n[[rules]]\naccount = "a b"\n', ["accounts.toml:1: accounts.a b: a name is made of"]),
    "no table": ("accounts.a = 1\n", ["accounts.toml:1: accounts.a: must be a table"]),
    "no rules": ("[accounts.a]\n", ["accounts.toml:1: no rule, so nobody gets an account"]),
    "an unknown setting": (
        GOOD.replace("BACKEND_IMAP_FOLDER", "BACKEND_IMAP_FOLDR"),
        ["accounts.toml:2: BACKEND_IMAP_FOLDR: no such setting, did you mean BACKEND_IMAP_FOLDER?"],
    ),
    "a process's setting": (
        GOOD.replace('BACKEND_IMAP_FOLDER = "Scans"', "SMTP_BIND_PORT = 25"),
        ["accounts.toml:2: SMTP_BIND_PORT: is one for the whole process"],
    ),
    "a number for a text": (GOOD.replace('"Scans"', "5"), ["accounts.toml:2: BACKEND_IMAP_FOLDER: must be a text"]),
    "a flag for a number": (
        GOOD.replace('BACKEND_IMAP_FOLDER = "Scans"', "BACKEND_IMAP_PORT = true"),
        ["accounts.toml:2: BACKEND_IMAP_PORT: must be a number"],
    ),
    "a port that is none": (
        GOOD.replace('BACKEND_IMAP_FOLDER = "Scans"', "BACKEND_IMAP_PORT = 70000"),
        ["accounts.toml:2: BACKEND_IMAP_PORT: must be greater than or equal to 1"],
    ),
    "a list of numbers": (
        GOOD.replace('BACKEND_IMAP_FOLDER = "Scans"', "SMTP_ALLOWED_SENDERS = [1]"),
        ["accounts.toml:2: SMTP_ALLOWED_SENDERS: must be a list of texts"],
    ),
    "an address without a domain": (
        GOOD.replace('BACKEND_IMAP_FOLDER = "Scans"', 'SMTP_ALLOWED_SENDERS = "ann"'),
        ["accounts.toml:2: SMTP_ALLOWED_SENDERS: 'ann' is no address; write user@domain, or @ann for a whole domain"],
    ),
    "an empty value": (GOOD.replace('"Scans"', '""'), ["accounts.toml:2: BACKEND_IMAP_FOLDER: is empty"]),
    "no such provider": (GOOD.replace("gmail", "gmial"), ["accounts.toml:5: PROVIDER: must be one of: gmail, "]),
    "no password of its own": (
        GOOD.replace('BACKEND_IMAP_PASS = "b\'s"\n', ""),
        ["accounts.toml:4: accounts.b: BACKEND_IMAP_PASS: not set"],
    ),
    "no secret's file": (
        GOOD.replace('BACKEND_IMAP_PASS = "b\'s"', 'BACKEND_IMAP_PASS_FILE = "/not/there"'),
        ["accounts.toml:7: BACKEND_IMAP_PASS_FILE: can not read '/not/there': No such file"],
    ),
    "no such plugin": (
        GOOD.replace('BACKEND_IMAP_FOLDER = "Scans"', 'RELAY_PLUGIN = "smtp"'),
        ["accounts.toml:2: RELAY_PLUGIN: there is no relay plugin 'smtp', did you mean 'smtps'"],
    ),
    "no hash": (GOOD.replace(HASH, "ann's password"), ["accounts.toml:10: users.ann: that is no hash of a password"]),
    "no such user": (
        GOOD.replace('user = "ann"', 'user = "anne"'),
        ["accounts.toml:13: user: there is no user 'anne'"],
    ),
    "no such account": (
        GOOD.replace('account = "a"', 'account = "A"'),
        ["accounts.toml:17: account: there is no account 'A'"],
    ),
    "no account": (GOOD.replace('account = "a"', ""), ["accounts.toml:16: account: not set"]),
    "no such condition": (
        GOOD.replace('user = "ann"', 'users = "ann"'),
        ["accounts.toml:13: users: no such key, did you mean 'user'?"],
    ),
    "no network": (
        GOOD.replace('user = "ann"', 'network = ["10.0.0.1/8"]'),
        ["accounts.toml:13: network: 10.0.0.1/8 has host bits set"],
    ),
    "no port": (
        GOOD.replace('user = "ann"', "port = [0]"),
        ["accounts.toml:13: port: must be a number from 1 to 65535"],
    ),
    "an empty condition": (
        GOOD.replace('user = "ann"', "sender = []"),
        ["accounts.toml:13: sender: must be a text or"],
    ),
    "an account for nobody": (
        GOOD.replace('account = "a"', 'sender = "@x"\naccount = "b"'),
        ["accounts.toml:1: accounts.a: no rule leads to it"],
    ),
    "a rule twice": (
        GOOD + '[[rules]]\naccount = "b"\n',
        ["accounts.toml:18: never reached: the rule at accounts.toml:16 takes all of it"],
    ),
    "a rule without a leg": (
        GOOD.replace('BACKEND_IMAP_FOLDER = "Scans"', 'RELAY_PLUGIN = "none"').replace(
            "[[rules]]\nacc", '[[rules]]\nsender = "@x"\nacc'
        ),
        ["accounts.toml:1: accounts.a: no rule leads to it", "accounts.toml:16: leads nowhere: account a"],
    ),
    "a time that is none": (
        GOOD.replace('user = "ann"', "after_pop3_login_seconds = nan"),
        ["accounts.toml:13: after_pop3_login_seconds: must be a number above 0"],
    ),
    "a time that is no number": (
        GOOD.replace('user = "ann"', "after_pop3_login_seconds = true"),
        ["accounts.toml:13: after_pop3_login_seconds: must be a number above 0"],
    ),
    "something expected of nobody": (
        GOOD.replace('user = "ann"', 'user = "ann"\nexpect_seconds = 60'),
        ["accounts.toml:14: expect_seconds: needs `network`"],
    ),
    "something expected at once": (
        GOOD.replace('user = "ann"', 'network = "10.0.0.1"\nexpect_seconds = 0'),
        ["accounts.toml:14: expect_seconds: must be a number above 0"],
    ),
    "something expected of who can not send": (
        GOOD.replace("[accounts.b]", '[accounts.b]\nRELAY_PLUGIN = "none"').replace(
            'user = "ann"', 'network = "10.0.0.1"\nexpect_seconds = 60'
        ),
        ["accounts.toml:13: expect_seconds: nothing can be sent by this rule"],
    ),
    "all at once": (
        GOOD.replace('"Scans"', "5").replace('user = "ann"', 'usr = "ann"').replace(HASH, "x"),
        ["accounts.toml:2: BACKEND_IMAP_FOLDER: ", "accounts.toml:10: users.ann: ", "accounts.toml:13: usr: "],
    ),
}


@pytest.mark.parametrize("case", BAD)
async def test_one_line_for_each_mistake(case: str, tmp_path: Path) -> None:
    text, expected = BAD[case]
    found = mistakes(tmp_path, text)
    assert len(found) == len(expected), found
    for line, beginning in zip(found, expected, strict=True):
        assert line.startswith(beginning), found
        assert "\n" not in line
        assert "hunter2" not in line
        assert "ann's password" not in line


NONE = 'MAILDROP_PLUGIN = "none"'
BETWEEN = {
    "a closed listener": (GOOD, {"RELAY_PLUGIN": "none"}, []),
    "an account opens what is closed": (
        GOOD.replace('BACKEND_IMAP_FOLDER = "Scans"', 'RELAY_PLUGIN = "smtps"'),
        {"RELAY_PLUGIN": "none"},
        ["accounts.toml:2: RELAY_PLUGIN: the SMTP listener is closed"],
    ),
    "a leg that nobody has": (
        f'[accounts.a]\n{NONE}\n[[rules]]\naccount = "a"\n',
        {"POP3_LOGIN": "any"},
        ["MAILDROP_PLUGIN: no account has this leg"],
    ),
    "nobody could log in": ('[accounts.a]\n[[rules]]\naccount = "a"\n', {}, ["POP3_LOGIN: `accounts` needs users"]),
    "the environment's mistake, once": (
        GOOD,
        {"LOG_LEVEL": "loud", "BACKEND_IMAP_PORT": "x"},
        ["BACKEND_IMAP_PORT: ", "LOG_LEVEL: "],
    ),
    "no password is asked for": (
        GOOD.replace('user = "ann"', "after_pop3_login_seconds = 60"),
        {"POP3_LOGIN": "any"},
        ["accounts.toml:12: after_pop3_login_seconds: nobody proves a password by POP3"],
    ),
}


@pytest.mark.parametrize("case", BETWEEN)
async def test_between_the_file_and_the_environment(case: str, tmp_path: Path) -> None:
    text, environ, expected = BETWEEN[case]
    found = sorted(mistakes(tmp_path, text, environ))
    assert len(found) == len(expected), found
    assert all(line.startswith(beginning) for line, beginning in zip(found, expected, strict=True)), found


async def test_a_file_as_some_editors_write_it(tmp_path: Path) -> None:
    file = tmp_path / "accounts.toml"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    composition = compose({**ENVIRON, "ACCOUNTS_FILE": str(file)})
    assert composition.accounts[0].settings.origins["BACKEND_IMAP_FOLDER"] == f"{file}:2"


async def test_no_file(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(SettingsMistake) as raised:
            compose({**ENVIRON, "ACCOUNTS_FILE": str(path)})
        assert [line for line in raised.value.lines if words in line] == list(raised.value.lines)
    with pytest.raises(SettingsMistake, match="POP3_LOGIN: `accounts` needs users"):
        compose(ENVIRON)
    (tmp_path / "latin").write_bytes(b"\xff")
    with pytest.raises(SettingsMistake, match="is not UTF-8 text"):
        read_accounts(tmp_path / "latin")


FOREIGN = [
    ('BACKEND_IMAP_USER = "x"', ("imap.example", "x", None)),
    ('BACKEND_IMAP_HOST = "other.example"', ("other.example", None, None)),
    ('PROVIDER = "gmail"', ("imap.gmail.com", None, None)),
    ('BACKEND_IMAP_PASS = "own"', ("imap.example", "u", Secret("own"))),
    ('BACKEND_IMAP_FOLDER = "x"', ("imap.example", "u", Secret("hunter2"))),
]


@pytest.mark.parametrize(("line", "expected"), FOREIGN)
async def test_no_password_goes_where_it_is_not_known(line: str, expected: tuple[object, ...], tmp_path: Path) -> None:
    from legacy_email_proxy.build import choose

    file = tmp_path / "accounts.toml"
    file.write_text(f'[accounts.a]\n{line}\n[[rules]]\naccount = "a"\n')
    for name, text in (("BACKEND_IMAP_PASS", "hunter2"), ("BACKEND_IMAP_PASS_FILE", str(tmp_path / "secret"))):
        (tmp_path / "secret").write_text("hunter2\n")
        environ = {**ENVIRON, "BACKEND_IMAP_PASS": "", name: text, "ACCOUNTS_FILE": str(file)}
        [account] = choose(environ).accounts
        assert tuple(account.settings[f"BACKEND_IMAP_{what}"] for what in ("HOST", "USER", "PASS")) == expected


def test_lines() -> None:
    lines = Lines(
        'x.y = 1\n[a."b c"] # comment\n  k = """\nk2\n"""\n"q=" = 2\n[[r]]\nk = 1\n[[r]]\n\nk = 2\ni = { z = 1 }\n'
    )
    expected = {
        ("x", "y"): 1,
        ("x",): 1,
        ("a", "b c"): 2,
        ("a", "b c", "k"): 3,
        ("r", 0): 7,
        ("r", 0, "k"): 8,
        ("r", 1): 9,
        ("r", 1, "k"): 11,
        ("r", 1, "i", "z"): 12,
        ("nothing",): 1,
    }
    assert {key: lines.of(*key) for key in expected} == expected


GUARD = "allowed"


def filters_of(relay: object) -> list[str]:
    """Names of the filters that are an account's own, in their order."""
    assert isinstance(relay, FilteredRelay)
    return list(relay._filters)


@pytest.mark.computes
async def test_filters_of_the_process_and_of_an_account(tmp_path: Path) -> None:
    file = tmp_path / "accounts.toml"
    file.write_text(GOOD.replace('BACKEND_IMAP_FOLDER = "Scans"', 'SMTP_SENDER = "a@x"\nSMTP_ALLOWED_SENDERS = "@x"'))
    given = ENVIRON | {"ACCOUNTS_FILE": str(file)}
    composition = compose(given)
    assert composition.filters == {}
    a, b = composition.accounts
    assert filters_of(a.relay) == [GUARD, "sender"]
    assert filters_of(b.relay) == []
    # One that a setting of the account switches on is each account's own, also where the environment names it.
    composition = compose(given | {"SMTP_FILTERS": "sender", "SMTP_SENDER": "b@x"})
    assert composition.filters == {}
    assert [filters_of(account.relay) for account in composition.accounts] == [[GUARD, "sender"], ["sender"]]
    # Without a file all are, the guard first.
    plain = compose(ENVIRON | {"POP3_LOGIN": "any", "SMTP_SENDER": "a@x", "SMTP_ALLOWED_SENDERS": "@x"})
    assert list(plain.filters) == [GUARD, "sender"]
    assert not isinstance(plain.relay, FilteredRelay)
    assert compose(ENVIRON | {"POP3_LOGIN": "any"}).filters == {}
    # Nothing to do: nothing stands in front of the relay.
    a, _ = compose(ENVIRON | {"ACCOUNTS_FILE": str(file), "SMTP_ADD_MISSING": "false"}).accounts
    assert filters_of(a.relay) == [GUARD, "sender"]
    file.write_text(GOOD)
    a, _ = compose(ENVIRON | {"ACCOUNTS_FILE": str(file), "SMTP_ADD_MISSING": "false"}).accounts
    assert not isinstance(a.relay, FilteredRelay)


class SitesFilter(Filter):
    """A filter of a site, under whatever name."""


async def gives(filters: Mapping[str, Filter], sender: str) -> str:
    return (await Rewriting(filters=dict(filters)).mail(Client("192.0.2.1", "s1"), sender, {})).reverse_path


@pytest.mark.computes
@pytest.mark.parametrize("name", ["allowed", "built-in allowed", "a"])
async def test_no_filter_takes_the_guards_place(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def found(group: str) -> list[EntryPoint]:
        ours = [EntryPoint(name, f"{__name__}:SitesFilter", group)] if group == plugins.FILTER else []
        return [*entry_points(group=group), *ours]

    monkeypatch.setattr(plugins, "entry_points", found)
    monkeypatch.setattr(EntryPoint, "load", lambda self: SitesFilter if self.name == name else load(self))
    given = ENVIRON | {"SMTP_FILTERS": name, "SMTP_ALLOWED_SENDERS": "@x"}
    plain = compose(given | {"POP3_LOGIN": "any"})
    assert [type(one) for one in plain.filters.values()] == [AllowListFilter, SitesFilter]
    assert await gives(plain.filters, "a@x") == "a@x"
    with pytest.raises(Refused, match="not in SMTP_ALLOWED_SENDERS"):
        await gives(plain.filters, "a@y")
    file = tmp_path / "accounts.toml"
    file.write_text(GOOD)
    composition = compose(given | {"ACCOUNTS_FILE": str(file)})
    assert [type(one) for one in composition.filters.values()] == [SitesFilter]
    for account in composition.accounts:
        assert isinstance(account.relay, FilteredRelay)
        assert [type(one) for one in account.relay._filters.values()] == [AllowListFilter]


@pytest.mark.computes
@pytest.mark.parametrize("rewrite", ["both", "envelope", "header"])
@pytest.mark.parametrize("named", [True, False])
async def test_one_rule_for_the_sender_with_accounts_and_without(tmp_path: Path, rewrite: str, named: bool) -> None:
    """The account's own address wins, and a From that the device left out is the sender's as it goes on."""
    file = tmp_path / "accounts.toml"
    file.write_text(GOOD.replace('BACKEND_IMAP_FOLDER = "Scans"', 'SMTP_SENDER = "own@x"'))
    given = ENVIRON | {"SMTP_SENDER_REWRITE": rewrite} | ({"SMTP_FILTERS": "sender"} if named else {})
    plain = compose(given | {"POP3_LOGIN": "any", "SMTP_SENDER": "own@x"})
    routed = compose(given | {"ACCOUNTS_FILE": str(file), "SMTP_SENDER": "environment@x"})
    wanted = [await sent_by(plain, plain.filters), await sent_by(routed, routed.filters)]
    assert wanted[0] == wanted[1]
    path, content = wanted[0]
    assert path == ("dev@y" if rewrite == "header" else "own@x")
    author = b'From: "dev@y" <own@x>' if rewrite == "header" else b"From: own@x"
    assert (author in content) or rewrite != "envelope"
    assert content.count(b"From:") == 1
    assert b"own@x" in content


async def sent_by(composition: Composition, filters: Mapping[str, Filter]) -> tuple[str, bytes]:
    """The envelope's sender and the content of a message without From, as the first account's relay gets them."""
    options = replace(HeaderOptions.from_settings(composition.settings, "proxy.example"), received=False)
    rewriting = Rewriting(options, dict(filters))
    relay, last = MemoryRelay(), composition.accounts[0].relay
    if isinstance(last, FilteredRelay):
        last._relay = relay
    else:
        last = relay
    client = Client("192.0.2.1", "s1")

    async def pieces() -> AsyncIterator[bytes]:
        yield b"Date: x\r\nMessage-ID: x\r\n\r\nbody\r\n"

    mail = await rewriting.mail(client, "dev@y", {})
    async with last.transaction(client, mail.reverse_path, {}) as transaction:
        await transaction.add_recipient("b@z", {})
        await transaction.send(rewriting.content(mail, ["b@z"], "ESMTP", pieces()))
    (delivered,) = relay.delivered
    # Where it stands is no matter: on top, or behind the other fields.
    return delivered.reverse_path, b"\r\n".join(sorted(delivered.content.split(b"\r\n")))


async def test_each_account_keeps_its_state_apart(tmp_path: Path) -> None:
    settings = {"STATE_DIR": tmp_path}
    names = ["", "a", "b"]
    contexts = [PluginContext("maildrop.imap", settings, name) for name in names]
    assert [context.state_dir.name for context in contexts] == ["maildrop.imap", "maildrop.imap.a", "maildrop.imap.b"]
    assert contexts[1].logger.name == "legacy_email_proxy.maildrop.imap.a"
    file = tmp_path / "accounts.toml"
    file.write_text(GOOD)
    seen = [account.maildrop for account in compose({**ENVIRON, "ACCOUNTS_FILE": str(file)}).accounts]
    given = [one._context for one in seen if isinstance(one, IMAPMaildrop)]
    assert [context.account for context in given if isinstance(context, PluginContext)] == ["a", "b"]


def test_what_many_accounts_have_in_common_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def looked_up(group: str) -> EntryPoints:
        asked.append(group)
        return entry_points(group=group)

    def trusting(cafile: Path | None) -> ssl.SSLContext:
        asked.append("CAs")
        return context(cafile=cafile)

    monkeypatch.setattr(plugins, "entry_points", looked_up)
    monkeypatch.setattr(ssl, "create_default_context", trusting)
    accounts = [f"[accounts.a{number}]\nBACKEND_IMAP_USER = 'u{number}'" for number in range(20)]
    rules = [f"[[rules]]\naccount = 'a{number}'\nnetwork = '10.0.{number}.0/24'" for number in range(20)]
    password = "BACKEND_IMAP_PASS = 'p'"
    (tmp_path / "accounts.toml").write_text("\n".join([*(f"{each}\n{password}" for each in accounts), *rules]))
    environ = {**ENVIRON, "POP3_LOGIN": "any", "ACCOUNTS_FILE": str(tmp_path / "accounts.toml")}
    composition = compose(environ)
    assert sorted(asked) == ["CAs", plugins.CREDENTIALS, plugins.MAILDROP, plugins.RELAY]
    # A reload sees new files and new plugins.
    compose(environ, composition)
    assert len(asked) == 8


def test_mail_servers_are_not_offered_what_an_http_client_sets() -> None:
    """It sets ALPN in the context that it is given, and some mail servers refuse who offers that."""
    settings = {"BACKEND_IMAP_CA_FILE": None, "BACKEND_SMTP_CA_FILE": None, "OAUTH2_CA_FILE": None}
    given = PluginContext("relay.smtps", settings)
    assert given.tls("BACKEND_SMTP_CA_FILE") is given.of(plugins.MAILDROP, "x").tls("BACKEND_IMAP_CA_FILE")
    assert given.tls("BACKEND_SMTP_CA_FILE") is not given.tls("OAUTH2_CA_FILE")
