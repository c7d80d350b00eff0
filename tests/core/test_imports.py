"""The layering: who may import whom, read from the source."""

from __future__ import annotations

import ast
import functools
import importlib
import pkgutil
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import legacy_email_proxy
import legacy_email_proxy_plugins

ROOT = Path(__file__).parents[2]
CORE = ROOT / "proxy" / "legacy_email_proxy"
PLUGINS = ROOT / "plugins" / "legacy_email_proxy_plugins"
CONTRACTS = "legacy_email_proxy.contracts"
IO = {"anyio", "asyncio", "socket", "ssl", "threading", "selectors"}
SANS_IO = [
    *("replies", "access", "sasl", "pop3.wire", "pop3.commands", "pop3.listing", "pop3.session", "pop3.options"),
    *("pop3.authorization", "pop3.requests", "pop3.header_line"),
    *("smtp.content", "smtp.arguments", "smtp.headers", "smtp.long_lines", "smtp.rewriting"),
    *("smtp.authentication", "smtp.mending", "smtp.signatures", "contracts.header"),
    *("accounts.file", "accounts.settings", "accounts.pop_before_smtp"),
    *("accounts.rules", "relays.allow_list", "alerts.conditions"),
]
# Each room stands above those that it may import from; `contracts` imports nothing of ours.
MAY_IMPORT = {
    "contracts": set(),
    "replies": {"contracts"},
    "access": {"contracts"},
    "advice": {"contracts", "replies"},
    "log": {"contracts", "replies", "log_writer"},
    "log_writer": set(),
    "descriptors": set(),
    "event_loop": set(),
    "heaps": set(),
    "signals": set(),
    "service_manager": {"contracts", "log"},
    "proxy_protocol": {"log"},
    "listeners": {"contracts", "log", "access", "proxy_protocol"},
    "tls": {"contracts"},
    "sasl": {"contracts"},
    "settings": {"contracts"},
    "guessing": {"contracts", "log", "access"},
    "history": {"log", "settings"},
    "relays": {"contracts", "replies", "log", "smtp"},
    "plugins": {"contracts", "settings", "relays"},
    "loop_watch": {"log", "plugins"},
    "testing": {"contracts", "plugins", "settings"},
    "pop3": {"contracts", "replies", "advice", "log", "access", "tls", "sasl", "listeners"},
    "smtp": {"contracts", "replies", "advice", "log", "access", "tls", "sasl", "listeners"},
    "accounts": {"contracts", "replies", "log", "access", "settings", "relays", "smtp", "guessing"},
    "build": {"contracts", "access", "event_loop", "plugins", "settings", "tls", "accounts", "relays", "guessing"},
    "reloading": {"contracts", "build"},
    "admin": {
        *("contracts", "log", "access", "replies", "guessing", "settings", "tls", "history", "build", "relays"),
        *("reloading", "listeners"),
    },
    "alerts": {
        *("contracts", "log", "access", "replies", "settings", "accounts", "plugins", "relays", "build", "admin"),
    },
    "service": {
        *("contracts", "log", "access", "tls", "build", "reloading", "listeners", "descriptors", "admin", "alerts"),
        *("relays", "pop3", "smtp", "signals", "loop_watch", "service_manager"),
    },
    "units": {"contracts", "settings", "build", "listeners"},
    "demo": {"contracts", "history"},
    "setup": {"contracts", "settings", "build"},
}
PAGE = {f"legacy_email_proxy.admin.page.{path.stem}" for path in (CORE / "admin" / "page").glob("*.py")}
TOP = {"", "__main__", "cli", "commands"}


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@functools.cache
def imports(name: str, path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, wherever in it."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names if _is_module(f"{base}.{alias.name}"))
    return found


def _is_module(name: str) -> bool:
    paths = [ROOT / source / Path(*name.split(".")) for source in ("proxy", "plugins")]
    return any(path.with_suffix(".py").exists() or (path / "__init__.py").exists() for path in paths)


def room(module: str) -> str:
    """``legacy_email_proxy.pop3.wire`` → ``pop3``; the package itself, which is only a version, → ``""``."""
    return module.split(".")[1] if "." in module else ""


ALL = [*modules(CORE), *modules(PLUGINS)]


def test_core_never_imports_plugins() -> None:
    for name, path in modules(CORE):
        assert not any(found.startswith("legacy_email_proxy_plugins") for found in imports(name, path)), name


def test_plugins_import_only_the_contracts() -> None:
    for name, path in modules(PLUGINS):
        ours = {found for found in imports(name, path) if found.split(".")[0] == "legacy_email_proxy"}
        assert ours <= {CONTRACTS}, name


def test_rooms() -> None:
    for name, path in modules(CORE):
        here = room(name)
        assert here in {*MAY_IMPORT, *TOP}, f"{name} stands nowhere in the order of rooms"
        if here not in TOP:
            there = {room(found) for found in imports(name, path) if found.split(".")[0] == "legacy_email_proxy"}
            assert there - {here, ""} <= MAY_IMPORT[here], name


def test_no_modules_import_each_other() -> None:
    """Nor do three or more in a circle; what is imported late, or for types only, counts as well."""
    names = {name for name, _ in ALL}
    # A package stands in the imports of its own modules because `from . import other` names it.
    graph = {
        name: {found for found in imports(name, path) & names if not name.startswith(f"{found}.")} for name, path in ALL
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_demo_is_reached_from_its_command_only() -> None:
    reaching = {name for name, path in ALL if any(room(found) == "demo" for found in imports(name, path))}
    assert {name for name in reaching if room(name) != "demo"} <= {
        "legacy_email_proxy.commands.demo",
        "legacy_email_proxy.cli",  # imports commands.demo, not the package
    }


@pytest.mark.parametrize("module", SANS_IO)
def test_protocol_logic_is_sans_io(module: str) -> None:
    name = f"legacy_email_proxy.{module}"
    found = imports(name, CORE.joinpath(*module.split(".")).with_suffix(".py"))
    assert not {one.split(".")[0] for one in found} & IO


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("imapclient", {"legacy_email_proxy_plugins.imap.imapclient_adapter"}),
        (
            "imaplib",
            {"legacy_email_proxy_plugins.imap.imapclient_adapter", "legacy_email_proxy_plugins.imap.connection"},
        ),
        ("aiosmtpd", {"legacy_email_proxy.smtp.aiosmtpd_adapter", "legacy_email_proxy.smtp.handler"}),
        ("environs", {"legacy_email_proxy.settings.reader"}),
        ("httpx2", {"legacy_email_proxy_plugins.https", "legacy_email_proxy.alerts.channels"}),
        ("jwt", {"legacy_email_proxy_plugins.oauth2.assertions"}),
        ("uvicorn", {"legacy_email_proxy.admin.connections"}),
        ("starlette", {"legacy_email_proxy.admin.http", "legacy_email_proxy.admin.connections", *PAGE}),
        ("jinja2", {"legacy_email_proxy.admin.page.rendering"}),
        ("prometheus_client", {"legacy_email_proxy.admin.metrics"}),
        ("scramp", {"legacy_email_proxy_plugins.sasl"}),
    ],
)
def test_one_module_knows_a_library(library: str, allowed: set[str]) -> None:
    users = {name for name, path in ALL if library in {found.split(".")[0] for found in imports(name, path)}}
    assert {name for name in users if room(name) != "demo"} <= allowed


def test_modules_are_of_readable_length() -> None:
    long = {name: lines for name, path in ALL if (lines := len(path.read_text().splitlines())) > 450}
    assert not long


def test_every_module_says_why_it_exists() -> None:
    assert [name for name, path in ALL if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_all_lists_name_what_exists() -> None:
    for package in (legacy_email_proxy, legacy_email_proxy_plugins):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name.endswith("__main__"):
                continue
            module = importlib.import_module(found.name)
            names = getattr(module, "__all__", ())
            assert isinstance(names, tuple), found.name
            assert [name for name in names if not hasattr(module, name)] == [], found.name
            assert list(names) == sorted(set(names), key=names.index), found.name


def test_packages_on_disk_are_packages_in_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    on_disk = {
        str(path.parent.relative_to(ROOT))
        for source in ("proxy", "plugins")
        for path in (ROOT / source).glob("*/__init__.py")
    }
    assert listed == on_disk
    assert all((ROOT / package / "py.typed").exists() for package in listed)
