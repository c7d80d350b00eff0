"""Settings: read from variables and files, all mistakes at once, in words an operator can act on."""

from __future__ import annotations

import os
from ipaddress import ip_network
from pathlib import Path
from typing import get_args

import pytest

from legacy_email_proxy.contracts import Secret, Setting, SettingType
from legacy_email_proxy.settings import TABLE, TYPES, read, unknown_variables

FIXED_BY_THE_USER = {
    "POP3_BIND_ADDR": ("0.0.0.0",),
    "POP3_BIND_PORT": 110,
    "SMTP_BIND_ADDR": ("0.0.0.0",),
    "SMTP_BIND_PORT": 25,
    "BACKEND_IMAP_HOST": None,
    "BACKEND_IMAP_PORT": 993,
    "BACKEND_IMAP_USER": None,
    "BACKEND_IMAP_PASS": None,
    "BACKEND_IMAP_USE_SSL": True,
    "BACKEND_IMAP_USE_STARTTLS": False,
    "BACKEND_SMTP_HOST": None,
    "BACKEND_SMTP_PORT": 465,
    "BACKEND_SMTP_USER": None,
    "BACKEND_SMTP_PASS": None,
    "BACKEND_SMTP_USE_SSL": True,
    "BACKEND_SMTP_USE_TLS": False,
}


def test_defaults() -> None:
    settings = read({})
    assert settings.mistakes == ()
    assert {name: settings[name] for name in FIXED_BY_THE_USER} == FIXED_BY_THE_USER
    assert set(settings.origins.values()) == {"default"}
    assert ip_network("192.168.0.0/16") in settings["ALLOWED_NETWORKS"]
    assert not any(network.is_global for network in settings["ALLOWED_NETWORKS"])


@pytest.mark.fault("A1", "C32")
def test_silence_is_borne_as_long_as_the_rfcs_ask() -> None:
    settings = read({})
    # RFC 5321 §4.5.3.2.7 and RFC 1939 §3.
    assert (settings["SMTP_IDLE_SECONDS"], settings["POP3_IDLE_SECONDS"]) == (300, 600)


def test_each_type_has_its_row() -> None:
    assert set(TYPES) == set(get_args(SettingType))


def test_each_variable_is_declared_once() -> None:
    names = [setting.name for setting in TABLE]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("setting", TABLE, ids=lambda setting: setting.name)
def test_every_variable_can_come_from_a_file(setting: Setting, tmp_path: Path) -> None:
    values = {"integer": "70000", "flag": "true", "seconds": "3", "days": "30", "networks": "10.0.0.0/8"}
    values["date"] = "2027-03-31"
    value = values.get(setting.type, "x,y")
    value = setting.choices[-1] if setting.choices else "443" if setting.maximum else value
    file = tmp_path / "value"
    file.write_text(value + "\n")
    settings = read({f"{setting.name}_FILE": str(file)})
    assert settings.mistakes == ()
    assert settings.origins[setting.name] == f"file {file}"
    assert settings[setting.name] == read({setting.name: value})[setting.name]
    assert settings[setting.name] is not None


@pytest.mark.parametrize("setting", TABLE, ids=lambda setting: setting.name)
def test_an_empty_variable_is_unset(setting: Setting) -> None:
    settings = read({setting.name: "", f"{setting.name}_FILE": ""})
    assert settings.mistakes == ()
    assert settings[setting.name] == read({})[setting.name]
    assert settings.origins[setting.name] == "default"


@pytest.mark.fault("D14")
@pytest.mark.parametrize(
    ("written", "read_back"),
    [
        (" p\u00e4 ss \r\n", " p\u00e4 ss "), ("a\n\n", "a"), ("a\r\n\r\n", "a"), ("a\r", "a"), ("a", "a"),
        ("\ufeffa\r\n", "a"), (" a ", " a "), ("a\ufeff", "a\ufeff"),
    ],
)  # fmt: skip
def test_what_editors_add_to_a_value_goes_and_nothing_else(written: str, read_back: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(written.encode())
    for given in ({"BACKEND_IMAP_PASS": written}, {"BACKEND_IMAP_PASS_FILE": str(tmp_path / "secret")}):
        settings = read(given)
        assert settings.mistakes == ()
        assert settings["BACKEND_IMAP_PASS"] == Secret(read_back)


def test_the_name_of_a_file_may_end_in_a_carriage_return_too(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a")
    assert read({"BACKEND_IMAP_PASS_FILE": f"{tmp_path}/secret\r"})["BACKEND_IMAP_PASS"] == Secret("a")


@pytest.mark.parametrize("value", ["\ufeff", "\r", "\n", "\r\n", "\ufeff\r\n"])
def test_a_line_end_alone_is_unset(value: str) -> None:
    assert read({"BACKEND_IMAP_USER": value})["BACKEND_IMAP_USER"] is None


@pytest.mark.parametrize(
    "name",
    [
        *("BACKEND_IMAP_HOST", "BACKEND_IMAP_USER", "BACKEND_IMAP_PASS", "BACKEND_IMAP_FOLDER"),
        *("BACKEND_SMTP_USER", "BACKEND_SMTP_PASS", "SMTP_FILTERS", "POP3_BIND_PORT", "STATE_DIR"),
    ],
)
@pytest.mark.parametrize("character", ["\0", "\t", "\n", "\r", "\x1b", "\x7f", "\x85"])
def test_a_control_character_in_a_value(name: str, character: str) -> None:
    settings = read({name: f"its{character}value"})
    what, why = (
        ("carriage return", ", as in files from another system") if character == "\r" else ("control character", "")
    )
    what = f"there is a {what} in it (U+{ord(character):04X}, character 4){why}; write it anew"
    assert settings.mistakes == (f"{name}: {what}",)
    assert settings[name] == read({})[name]


def test_a_control_character_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("user\nits secret\n")
    (mistake,) = read({"BACKEND_IMAP_PASS_FILE": str(tmp_path / "secret")}).mistakes
    assert "U+000A, character 5" in mistake
    assert "its secret" not in mistake


def test_a_key_has_lines() -> None:
    key = "-----BEGIN PRIVATE KEY-----\r\nabc\r\n-----END PRIVATE KEY-----"
    settings = read({"OAUTH2_CLIENT_KEY": f"{key}\n"})
    assert settings.mistakes == ()
    assert settings["OAUTH2_CLIENT_KEY"] == Secret(key)
    assert read({"OAUTH2_CLIENT_KEY": "a\x1bb"}).mistakes


def test_what_is_not_utf_8_in_the_environment() -> None:
    given = os.fsdecode(b"p\xe4ss")
    assert read({"BACKEND_IMAP_PASS": given}).mistakes == ("BACKEND_IMAP_PASS: it is not UTF-8 text",)


def test_lists() -> None:
    settings = read({"POP3_BIND_ADDR": "127.0.0.1, ::1", "ALLOWED_NETWORKS": "10.1.0.0/16,::1"})
    assert settings["POP3_BIND_ADDR"] == ("127.0.0.1", "::1")
    assert settings["ALLOWED_NETWORKS"] == (ip_network("10.1.0.0/16"), ip_network("::1/128"))


BAD = [
    ({"POP3_BIND_PORT": "x"}, "POP3_BIND_PORT: not a valid integer (given: 'x')"),
    ({"SMTP_BIND_PORT": "65536"}, "SMTP_BIND_PORT: must be greater than or equal to 0 and less than or equal to 65535"),
    ({"BACKEND_IMAP_USE_SSL": "perhaps"}, "BACKEND_IMAP_USE_SSL: not a valid boolean (given: 'perhaps')"),
    (
        {"BACKEND_IMAP_PORT": '"993"'},
        "BACKEND_IMAP_PORT: not a valid integer (given: '\"993\"'); the quotes are a part of the value, remove them",
    ),
    ({"BACKEND_SMTP_USE_TLS": "true", "BACKEND_SMTP_USE_STARTTLS": "false"}, "BACKEND_SMTP_USE_TLS: BACKEND_SMTP_USE"),
    ({"POP3_LOGIN": "none"}, "POP3_LOGIN: must be one of: any, backend"),
    ({"ALLOWED_NETWORKS": "10.0.0.1/8"}, "ALLOWED_NETWORKS: 10.0.0.1/8 has host bits set"),
    ({"ALLOWED_NETWORKS": "::ffff:10.0.0.0/104"}, "ALLOWED_NETWORKS: ::ffff:10.0.0.0/104: write an IPv4 network"),
    ({"STATE_DIR": "~nobody-at-all/x"}, "STATE_DIR: there is no such user's folder"),
    ({"ALLOWED_NETWORKS": ","}, "ALLOWED_NETWORKS: an empty list"),
    ({"ALLOWED_NETWORKS": "office"}, "ALLOWED_NETWORKS: 'office' does not appear to be an IPv4 or IPv6 network"),
    ({"SMTP_MAX_OCTETS": "-5"}, "SMTP_MAX_OCTETS: must be greater than or equal to 65536"),
    ({"DRAIN_SECONDS": "soon"}, "DRAIN_SECONDS: not a valid number (given: 'soon')"),
    ({"POP3_IDLE_SECONDS": "0"}, "POP3_IDLE_SECONDS: must be greater than or equal to 1"),
    ({"BACKEND_IMAP_PASS_FILE": "/not/there"}, "BACKEND_IMAP_PASS_FILE: can not read '/not/there': No such file"),
    # Not from the environment, but an accounts file can write it.
    ({"BACKEND_IMAP_PASS_FILE": "/a\0b"}, "BACKEND_IMAP_PASS_FILE: can not read '/a\\x00b': "),
    ({"BACKEND_IMAP_PASS_FILE": "/"}, "BACKEND_IMAP_PASS_FILE: can not read '/': Is a directory"),
    ({"BACKEND_IMAP_PASS": "a", "BACKEND_IMAP_PASS_FILE": "/etc/hostname"}, "BACKEND_IMAP_PASS: set twice"),
    ({"BACKEND_IMAP_USE_SSL": "1", "BACKEND_IMAP_USE_STARTTLS": "1"}, "BACKEND_IMAP_USE_STARTTLS: BACKEND_IMAP"),
    ({"BACKEND_SMTP_USE_SSL": "on", "BACKEND_SMTP_USE_TLS": "yes"}, "BACKEND_SMTP_USE_TLS: BACKEND_SMTP_USE_SSL and"),
]  # fmt: skip


@pytest.mark.fault("D14")
@pytest.mark.parametrize(("environ", "line"), BAD)
def test_one_line_per_mistake(environ: dict[str, str], line: str) -> None:
    mistakes = read(environ).mistakes
    assert len(mistakes) == 1
    assert mistakes[0].startswith(line)
    assert "\n" not in mistakes[0]


@pytest.mark.fault("D14")
def test_all_mistakes_at_once() -> None:
    together: dict[str, str] = {}
    for environ, _ in BAD[:4]:
        together |= environ
    assert len(read(together).mistakes) == 4


@pytest.mark.fault("D14")
def test_no_secret_in_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(b"hunter2\xff")
    for mistake in read({"BACKEND_IMAP_PASS_FILE": str(tmp_path / "broken"), "BACKEND_SMTP_PASS": "x"}).mistakes:
        assert "hunter2" not in mistake


@pytest.mark.parametrize("leg", [("IMAP", "STARTTLS"), ("SMTP", "TLS")])
def test_starttls_alone_switches_implicit_tls_off(leg: tuple[str, str]) -> None:
    implicit, upgrade = f"BACKEND_{leg[0]}_USE_SSL", f"BACKEND_{leg[0]}_USE_{leg[1]}"
    settings = read({upgrade: "true"})
    assert (settings[implicit], settings[upgrade]) == (False, True)
    assert settings.origins[implicit] == f"because of {upgrade}"
    assert read({implicit: "false"})[implicit] is False
    assert read({implicit: "false", upgrade: "true"}).mistakes == ()


def test_unknown_variables_that_look_like_ours() -> None:
    environ = {
        "BACKEND_IMAP_HSOT": "", "BACKEND_SMTP_PASSWORD": "", "BACKEND_SMTP_PASS_FLIE": "", "POP3_BINDPORT": "",
        "BACKEND_IMAP_PASS_FILE": "", "BACKEND_IMAP_CA_FILE": "", "BACKEND_IMAP_CA_FILE_FILE": "", "PATH": "",
        "SMTP_SERVER": "", "MAILDIR": "", "HOME": "", "POP3_PORT": "",
    }  # fmt: skip
    assert unknown_variables(environ) == [
        ("BACKEND_IMAP_HSOT", "BACKEND_IMAP_HOST"),
        ("BACKEND_SMTP_PASSWORD", "BACKEND_SMTP_PASS"),
        ("BACKEND_SMTP_PASS_FLIE", "BACKEND_SMTP_PASS"),
        ("POP3_BINDPORT", "POP3_BIND_PORT"),
    ]


@pytest.mark.parametrize("ending", ["", "_FILE"])
def test_starttls_of_the_smtp_leg_by_the_name_of_the_imap_leg(ending: str, tmp_path: Path) -> None:
    (tmp_path / "flag").write_text("true")
    given = {f"BACKEND_SMTP_USE_STARTTLS{ending}": str(tmp_path / "flag") if ending else "true"}
    settings = read(given)
    assert settings.mistakes == ()
    assert (settings["BACKEND_SMTP_USE_TLS"], settings["BACKEND_SMTP_USE_SSL"]) == (True, False)
    assert unknown_variables(given) == []
    assert read({"BACKEND_SMTP_USE_STARTTLS": "true", "BACKEND_SMTP_USE_TLS": "true"}).mistakes == ()


def test_state_dir_follows_the_users_state_folder() -> None:
    assert read({"XDG_STATE_HOME": "/x"})["STATE_DIR"] == Path("/x/legacy-email-proxy")
    assert read({"STATE_DIR": "/var/lib/y"})["STATE_DIR"] == Path("/var/lib/y")


def test_a_secret_shows_nothing() -> None:
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {secret:>20} {[secret]} {vars(type(secret))}"
    assert str(secret) == "***"
    assert secret.reveal() == "hunter2"
    assert secret == Secret("hunter2") != Secret("hunter3")
    assert secret.fingerprint() != Secret("hunter3").fingerprint()
    import pickle

    with pytest.raises(TypeError):
        pickle.dumps(secret)
