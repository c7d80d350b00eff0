"""A site's distribution, built and installed as a site would do it, swaps the relay and the maildrop."""

from __future__ import annotations

import poplib
import shutil
import smtplib
import subprocess
import sys
from pathlib import Path

import pytest

from interop.proxy import Proxy, clean_environment, run, running

SOURCE = Path(__file__).parents[1] / "site_plugin"
REASON = "ImportError: libacme.so.3: cannot open shared object file"
MESSAGE = b"Subject: meter\r\n\r\n.42\r\n"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution's own tree, as if it lay in a repository of the site."""
    ignored = shutil.ignore_patterns("conftest.py", "__pycache__")
    return shutil.copytree(SOURCE, tmp_path_factory.mktemp("acme") / "source", ignore=ignored)


@pytest.fixture(scope="module")
def installed(source: Path) -> dict[str, str]:
    """The variable that puts it beside our project, which is installed where these tests run."""
    target = source.parent / "site-packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    # No network: hatchling is one of the test dependencies, and our project is there already.
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--target", target, source], check=True, timeout=50)
    return {"PYTHONPATH": str(target)}


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    """The plugins, named, and their settings."""
    for name in ("archive", "notices"):
        (tmp_path / name).mkdir()
    return {
        "RELAY_PLUGIN": "archive",
        "MAILDROP_PLUGIN": "notices",
        "ACME_ARCHIVE_PATH": str(tmp_path / "archive"),
        "ACME_NOTICES_PATH": str(tmp_path / "notices"),
        "SMTP_ADD_RECEIVED": "false",
        "SMTP_ADD_MISSING": "false",
        "STATE_DIR": str(tmp_path / "state"),
    }


@pytest.mark.long
def test_its_own_tests_with_our_contract_suite_pass(source: Path, installed: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "tests"]
    environment = clean_environment(**installed)
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "failed" not in done.stdout


def test_registry_loads_by_name_and_only_what_is_named(installed: dict[str, str]) -> None:
    program = """
import sys
from legacy_email_proxy import plugins
for group, name in ((plugins.RELAY, "archive"), (plugins.MAILDROP, "notices"), (plugins.RELAY, "acme-mail:archive")):
    found = plugins.find(group, name)
    print(found, plugins.load(found).__name__)
print("acme_mail.broken" in sys.modules)
print(*(found.name for found in plugins.available(plugins.RELAY)))
"""
    environment = clean_environment(**installed)
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=30, check=True
    )
    *loaded, broken_too, names = done.stdout.splitlines()
    assert loaded == [
        "archive (acme-mail 1.2.0) ArchiveRelay",
        "notices (acme-mail 1.2.0) NoticesMaildrop",
        "archive (acme-mail 1.2.0) ArchiveRelay",
    ]
    assert broken_too == "False"
    assert {"archive", "broken", "smtps", "maildir"} <= {*names.split()}


def test_broken_plugin_that_is_named_stops_the_start(installed: dict[str, str], folders: dict[str, str]) -> None:
    done = run(**{**installed, **folders, "RELAY_PLUGIN": "broken"})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "RELAY_PLUGIN: " in line
    assert "broken (acme-mail 1.2.0)" in line
    assert REASON in line


def test_missing_setting_of_the_plugin_stops_the_start(installed: dict[str, str], folders: dict[str, str]) -> None:
    done = run(**{**installed, **folders, "ACME_NOTICES_PATH": ""})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "ACME_NOTICES_PATH: not set" in line


def test_commands_tell_of_it(installed: dict[str, str], folders: dict[str, str]) -> None:
    listed = run("plugins", **installed, **folders).stdout
    for name, version in (("archive", "1.2.0"), ("notices", "1.2.0"), ("broken", "1.2.0")):
        assert any({name, "acme-mail", version} <= {*line.split()} for line in listed.splitlines()), listed
    settings = run("settings", **installed, **folders).stdout
    assert folders["ACME_ARCHIVE_PATH"] in settings
    checked = run("check", **installed, **folders)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"0 notices in {folders['ACME_NOTICES_PATH']}" in checked.stdout


def test_mail_goes_in_by_smtp_and_out_by_pop3(installed: dict[str, str], folders: dict[str, str]) -> None:
    archive, notices = Path(folders["ACME_ARCHIVE_PATH"]), Path(folders["ACME_NOTICES_PATH"])
    with running({**installed, **folders}) as proxy:
        assert send(proxy) == {}
        (filed,) = archive.iterdir()
        assert filed.suffix == ".eml"
        assert filed.read_bytes() == MESSAGE
        shutil.copy(filed, notices)
        shutil.copy(filed, notices / "kept.eml")
        assert fetch_and_delete(proxy) == MESSAGE
        assert [file.name for file in notices.iterdir()] == ["kept.eml"]


def test_it_delivers_what_the_spool_has_stored(installed: dict[str, str], folders: dict[str, str]) -> None:
    archive = Path(folders["ACME_ARCHIVE_PATH"])
    with running({**installed, **folders, "RELAY_PLUGIN": "spool", "SPOOL_RELAY": "archive"}) as proxy:
        assert send(proxy) == {}
        proxy.wait_for("message delivered")
        assert [file.read_bytes() for file in archive.iterdir()] == [MESSAGE]


def test_a_filter_of_the_site(installed: dict[str, str], folders: dict[str, str]) -> None:
    filters = {"SMTP_FILTERS": "devices", "SMTP_SENDER": "all@acme.example", "SMTP_SENDER_REPLY_TO": "true"}
    with running({**installed, **folders, **filters}) as proxy:
        assert " filters=devices,sender" in proxy.lines(" started ")[0]
        refused = send(proxy, "archive@acme.example", "elsewhere@example.org")
        assert refused == {"elsewhere@example.org": (550, b"5.7.1 Devices write to acme.example only")}
        assert "filter devices: 550 5.7.1" in proxy.wait_for("smtp recipient refused")[0]
    (filed,) = Path(folders["ACME_ARCHIVE_PATH"]).iterdir()
    assert filed.read_bytes() == (
        b"Subject: meter\r\n"
        b"From: Acme's devices <all@acme.example>\r\n"
        b"X-Device: 127.0.0.1\r\n"
        b"Reply-To: devices@acme.example\r\n\r\n.42\r\n"
    )
    checked = run("check", **installed, **folders, **filters).stdout
    assert "filter devices: loaded" in checked
    assert "filter sender: all mail comes from all@acme.example" in checked


def test_a_broken_filter_that_is_named_stops_the_start(installed: dict[str, str], folders: dict[str, str]) -> None:
    done = run(**{**installed, **folders, "SMTP_FILTERS": "devices,broken"})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "SMTP_FILTERS: " in line
    assert "broken (acme-mail 1.2.0)" in line
    assert REASON in line


def send(proxy: Proxy, *readers: str) -> dict[str, tuple[int, bytes]]:
    with smtplib.SMTP(*proxy.smtp, timeout=50) as device:
        return device.sendmail("device@acme.example", readers or ["archive@acme.example"], MESSAGE)


def fetch_and_delete(proxy: Proxy) -> bytes:
    device = poplib.POP3(*proxy.pop3, timeout=50)
    device.user("anybody")
    device.pass_("anything")
    assert device.stat() == (2, 2 * len(MESSAGE))
    lines = device.retr(1)[1]
    device.dele(1)
    device.quit()
    return b"".join(line + b"\r\n" for line in lines)
