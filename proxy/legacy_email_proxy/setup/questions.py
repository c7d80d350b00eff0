"""The questions, in their order. What an answer makes necessary is asked by the plugins themselves: set-up builds the
service again and again, and asks for each setting that is reported missing, in the words of the report.
"""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import anyio

from ..contracts import Finding, SettingsMistake
from ..settings import LEGS, PROFILES, Leg, read
from .asking import Asker
from .draft import SETTINGS, Draft, is_secret
from .files import ambiguous
from .trying import Way, for_trials, missing, search

__all__ = ("DEVICES", "MAILDROP", "RELAY", "Given", "NoWay", "ask", "ask_missing", "is_open", "mailbox")

MAILDROP, RELAY = LEGS
DEVICES = (
    ("sends", "it only sends mail (most scanners, panels and printers)"),
    ("both", "it sends and reads"),
    ("reads", "it only reads"),
)
_CLOSED = {"sends": "MAILDROP_PLUGIN", "reads": "RELAY_PLUGIN"}
_PASSWORD, _NOTHING = "password", "none"
_USUAL = {"microsoft365": "client_credentials", "microsoft365-graph": "client_credentials", "outlook": "device_code"}
"""How one logs in where a password is no good; everywhere else a password is the shortest way."""
_LOGINS = {
    _PASSWORD: "with a password, or an app password",
    "client_credentials": "OAuth2, as an application that an administrator registers (client_credentials)",
    "device_code": "OAuth2, the mailbox's owner consents once, with a code to type in (device_code)",
    "authorization_code": "OAuth2, the mailbox's owner consents once, in a browser (authorization_code)",
    "jwt_bearer": "OAuth2, with a service account's key (jwt_bearer)",
    "refresh_token": "OAuth2, with a refresh token that is there already (refresh_token)",
    _NOTHING: "not at all: the server takes mail from this address",
}
_CONSENTS = ("device_code", "authorization_code")
_OPTIONS = {
    "BACKEND_SMTP_HOST": "--smtp-host", "BACKEND_IMAP_HOST": "--imap-host", "GRAPH_MAILBOX": "--user",
    "BACKEND_SMTP_USER": "--user", "BACKEND_IMAP_USER": "--user",
    "BACKEND_SMTP_PASS": "--password-file", "BACKEND_IMAP_PASS": "--password-file",
}  # fmt: skip


@dataclass(frozen=True)
class Given:
    """What options have answered."""

    device: str | None = None
    provider: str | None = None
    login: str | None = None
    user: str | None = None
    password_file: Path | None = None
    smtp_host: str | None = None
    imap_host: str | None = None
    untested: bool = False


class NoWay(Exception):
    """No way to the server was found, and nobody can be asked for another name."""

    def __init__(self, failed: Mapping[Way, Finding]) -> None:
        super().__init__()
        self.failed = failed


def ask(asker: Asker, given: Given, draft: Draft) -> Given:
    """All questions about device, provider and account; the answers go into ``draft``.

    Returns what options still answer in another round: nothing, as they were wrong then.
    """
    device = _device(asker, given, draft)
    provider = _provider(asker, given, draft)
    for variable in _CLOSED.values():
        if draft.get(variable) == "none":
            draft.drop(variable)
    if device != "sends" and PROFILES[provider].get("MAILDROP_PLUGIN") == "none":
        raise SettingsMistake(f"--device: {provider} has no mailbox to read, so a device can only send")
    if device in _CLOSED:
        draft.put(_CLOSED[device], "none")
    login = _login(asker, given, draft, provider)
    for leg in (RELAY, MAILDROP):
        if is_open(draft, leg) and not _graph(draft, leg):
            _server(asker, given, draft, leg)
    _account(asker, given, draft, login)
    if is_open(draft, RELAY) and asker.interactive and "SMTP_AUTH" not in draft.set_by_hand:
        insists = asker.yes("Does the device insist on a user and a password?", default=draft.get("SMTP_AUTH") == "any")
        draft.put("SMTP_AUTH", "any" if insists else "")
    return Given(untested=given.untested)


def mailbox(draft: Draft) -> str:
    """The address of the mailbox; ``""`` where the login is no address."""
    names = ("GRAPH_MAILBOX", "BACKEND_SMTP_USER", "BACKEND_IMAP_USER")
    return next((user for name in names if "@" in (user := draft.get(name))), "")


def _device(asker: Asker, given: Given, draft: Draft) -> str:
    former = next((name for name, variable in _CLOSED.items() if draft.get(variable) == "none"), "")
    default = former or ("both" if draft.has("BACKEND_IMAP_USER") else "sends")
    return asker.choice("What does the device do?", "--device", DEVICES, given=given.device, default=default)


def _provider(asker: Asker, given: Given, draft: Draft) -> str:
    def wrong(answer: str) -> str:
        if answer in PROFILES:
            return ""
        near = difflib.get_close_matches(answer, list(PROFILES), n=1)
        meant = f", did you mean {near[0]}?" if near else ""
        return f"there is no provider {answer!r}{meant}; one of {', '.join(PROFILES)}"

    former = draft.get("PROVIDER") or "generic"
    if given.provider is None:
        known = f"Providers that are known: {', '.join(PROFILES)} (any other; you name its servers)"
        asker.say("", *textwrap.wrap(known, 78, break_on_hyphens=False, subsequent_indent="  "))
    default = former if asker.interactive or draft.values or given.smtp_host or given.imap_host else ""
    provider = asker.text("Which provider", "--provider", given=given.provider, default=default, wrong=wrong)
    if provider != former:
        own = {name: draft.values[name] for name in draft.set_by_hand if name in draft.values}
        draft.drop_backends()
        draft.values.update(own)
        draft.put("PROVIDER", "" if provider == "generic" else provider)
    return provider


def is_open(draft: Draft, leg: Leg) -> bool:
    """Whether devices can use this leg."""
    return bool(read(draft.environment())[leg.plugin] != "none")


def _graph(draft: Draft, leg: Leg) -> bool:
    settings = read(for_trials(draft))
    return bool(settings[leg.plugin] == "graph")


def _open_legs(draft: Draft) -> list[Leg]:
    return [leg for leg in LEGS if is_open(draft, leg)]


def _login(asker: Asker, given: Given, draft: Draft, provider: str) -> str:
    graph = all(_graph(draft, leg) for leg in _open_legs(draft))
    grants = _fitting_grants(draft)
    names = [*([] if graph else [_PASSWORD]), *grants]
    if not graph and is_open(draft, RELAY) and not is_open(draft, MAILDROP):
        names.append(_NOTHING)
    former = draft.get("OAUTH2_GRANT") or (
        _PASSWORD if draft.has("BACKEND_SMTP_USER") or draft.has("BACKEND_IMAP_USER") else ""
    )
    default = next(name for name in (former, _USUAL.get(provider, _PASSWORD), *names) if name in names)
    choices = [(name, _LOGINS[name]) for name in names]
    login = asker.choice("How does the proxy log in there?", "--login", choices, given=given.login, default=default)
    variables = [f"{leg.prefix}_CREDENTIALS" for leg in _open_legs(draft) if not _graph(draft, leg)]
    if login not in grants:
        own = [name for name in draft.values if name.startswith("OAUTH2_") and name not in draft.set_by_hand]
        draft.drop(*(name.removesuffix("_FILE") if name not in SETTINGS else name for name in own))
    draft.put("OAUTH2_GRANT", login if login in grants else "")
    for variable in variables:
        draft.put(variable, "oauth2" if login in grants else "")
    return login


def _fitting_grants(draft: Draft) -> list[str]:
    """The OAuth2 grants that open mail at this provider, as the plugin itself judges."""
    found = []
    for grant in SETTINGS["OAUTH2_GRANT"].choices:
        environ = {"OAUTH2_PROVIDER": read(draft.environment())["OAUTH2_PROVIDER"], "OAUTH2_GRANT": grant}
        environ |= {"MAILDROP_PLUGIN": "none", "RELAY_PLUGIN": "graph", "GRAPH_MAILBOX": "nobody@firm.example"}
        if not any(line.startswith("OAUTH2_GRANT:") for line in missing(environ)):
            found.append(grant)
    return found


def _server(asker: Asker, given: Given, draft: Draft, leg: Leg) -> None:
    """Its name; then the port and the kind of TLS are found by trying, unless they are known."""
    host_variable, port_variable = f"{leg.prefix}_HOST", f"{leg.prefix}_PORT"
    named = given.smtp_host if leg is RELAY else given.imap_host
    profile = PROFILES[draft.get("PROVIDER") or "generic"]
    if named is None and (host_variable in profile or host_variable in draft.set_by_hand):
        return
    kind = leg.prefix.removeprefix("BACKEND_")
    option, question = _OPTIONS[host_variable], f"Name of the provider's {kind} server (HOST or HOST:PORT)"
    former = draft.get(host_variable)
    former += f":{draft.get(port_variable)}" if former and draft.get(port_variable) else ""
    while True:
        answer = asker.text(question, option, given=named, default=former, wrong=_no_host)
        host, port = _host_and_port(answer)
        draft.put(host_variable, host)
        if f"{leg.prefix}_USE_SSL" in draft.set_by_hand:
            # Somebody knows that there is no TLS, or which kind.
            draft.put(port_variable, str(port or leg.starttls_ports[-1]))
            return
        if way := _way(asker, given, draft, leg, host, port):
            draft.drop(port_variable, f"{leg.prefix}_USE_SSL", leg.starttls)
            draft.put(port_variable, str(way.port))
            if way.starttls:
                draft.put(leg.starttls, "true")
            return
        named, former = None, answer


def _way(asker: Asker, given: Given, draft: Draft, leg: Leg, host: str, port: int | None) -> Way | None:
    if given.untested:
        implicit = port in (None, leg.implicit_port)
        return Way(port or leg.implicit_port, not implicit)
    asker.say(f"  trying {host} …")
    way, failed = anyio.run(search, leg, host, port, draft)
    if way is not None:
        asker.say(f"  found: {host}, {way}, the certificate is good")
        return way
    if not asker.interactive:
        raise NoWay(failed)
    for tried, finding in failed.items():
        asker.say(f"  {tried}: {finding.text}", *([f"    -> {finding.advice}"] if finding.advice else []))
    ca_file = f"{leg.prefix}_CA_FILE"
    if any(ca_file in finding.advice for finding in failed.values()):
        question = "File with the CA that signed its certificate, in PEM (Enter: none, another server)"
        if answer := asker.text(question, f"--set {ca_file}=FILE", optional=True, wrong=_no_file):
            draft.put(ca_file, str(Path(answer).absolute()))
            return _way(asker, given, draft, leg, host, port)
    return None


def _no_file(answer: str) -> str:
    if not Path(answer).is_file():
        return f"there is no file {answer!r}"
    return ambiguous(str(Path(answer).absolute()))


def _host_and_port(answer: str) -> tuple[str, int | None]:
    host, colon, port = answer.rpartition(":")
    # An IPv6 address in brackets may stand alone.
    if not colon or answer.endswith("]"):
        return answer.strip("[]"), None
    return host.strip("[]"), int(port)


def _no_host(answer: str) -> str:
    if "/" in answer or "@" in answer:
        return "write the server's name alone, HOST or HOST:PORT"
    host, colon, port = answer.rpartition(":")
    if colon and not answer.endswith("]") and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        return f"{port!r} is no port; write HOST or HOST:PORT"
    return "there must be no blank in it" if " " in answer or not (host or port) else ""


def _account(asker: Asker, given: Given, draft: Draft, login: str) -> None:
    legs = _open_legs(draft)
    users = [*dict.fromkeys("GRAPH_MAILBOX" if _graph(draft, leg) else f"{leg.prefix}_USER" for leg in legs)]
    secrets = [f"{leg.prefix}_PASS" for leg in legs if not _graph(draft, leg)]
    if login == _NOTHING:
        draft.drop(*users, *secrets)
        return
    former = next((user for name in users if (user := draft.get(name))), "")
    question = "The mailbox's address" if users == ["GRAPH_MAILBOX"] else "Login there, mostly the mailbox's address"
    for name in users:
        if name not in draft.set_by_hand or given.user is not None:
            user = asker.text(question, "--user", given=given.user, default=former)
            draft.put(name, user)
            former, given = user, replace(given, user=user)
    if login == _PASSWORD:
        _password(asker, given, draft, secrets)
        return
    draft.drop(*(name for name in secrets if name not in draft.set_by_hand))
    _application(asker, draft, login)


def _password(asker: Asker, given: Given, draft: Draft, secrets: list[str]) -> None:
    if given.password_file is not None:
        for name in secrets:
            draft.put_file(name, str(given.password_file.absolute()))
        return
    if all(f"{name}_FILE" in draft.set_by_hand for name in secrets):
        return
    known = all(draft.has(name) for name in secrets)
    if answer := asker.secret("Password", "--password-file", known=known):
        for name in secrets:
            draft.put(name, answer)


def _application(asker: Asker, draft: Draft, login: str) -> None:
    """What is of use and may be missing: nobody can tell from here whether the application has it."""
    provider = str(read(draft.environment())["OAUTH2_PROVIDER"])
    if login not in _CONSENTS:
        return
    if not draft.has("OAUTH2_CLIENT_SECRET") and not draft.has("OAUTH2_CLIENT_KEY"):
        secret = asker.secret("The application's client secret", _option("OAUTH2_CLIENT_SECRET"), optional=True)
        draft.put("OAUTH2_CLIENT_SECRET", secret)
    if provider.startswith("microsoft365") and not draft.has("OAUTH2_TENANT"):
        question = "Directory (tenant) ID (Enter: the application is for any organisation)"
        draft.put("OAUTH2_TENANT", asker.text(question, _option("OAUTH2_TENANT"), optional=True))


def ask_missing(asker: Asker, draft: Draft) -> None:
    """Ask for each setting that is still missing, as the plugins report it. Raises :class:`SettingsMistake`."""
    while lines := missing(for_trials(draft)):
        wanted = [name for line in lines if (name := line.partition(":")[0]) in SETTINGS and "not set" in line]
        if not wanted:
            raise SettingsMistake(*lines)
        name = next((each for each in wanted if not is_secret(each)), wanted[0])
        line = next(line for line in lines if line.startswith(f"{name}:"))
        if not asker.interactive:
            raise SettingsMistake(*(f"{_option(each.partition(':')[0])}: {each}" for each in lines))
        asker.say("", f"  {line}")
        _ask_setting(asker, draft, name)


def _ask_setting(asker: Asker, draft: Draft, name: str) -> None:
    if SETTINGS[name].type == "document":
        path = asker.text(f"{name}: the file that holds it", _option(name), wrong=_no_file)
        draft.put_file(name, str(Path(path).absolute()))
    elif is_secret(name):
        draft.put(name, asker.secret(name, _option(name)))
    else:
        draft.put(name, asker.text(name, _option(name), wrong=partial(_unreadable, name)))


def _unreadable(name: str, answer: str) -> str:
    lines = [line for line in read({name: answer}).mistakes if line.startswith(f"{name}:")]
    return lines[0].partition(": ")[2] if lines else ""


def _option(name: str) -> str:
    return _OPTIONS.get(name) or (f"--set {name}_FILE=FILE" if is_secret(name) else f"--set {name}=VALUE")
