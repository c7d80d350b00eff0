"""Ask what is needed, try each answer, and write the settings."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from ..build import compose
from ..contracts import Failure, SettingsMistake
from ..settings import PROFILES, read, unknown_variables
from ..setup import email_oauth2_proxy, m365proxy, postfix
from ..setup.asking import Asker, Stopped
from ..setup.draft import SETTINGS, Draft, is_secret
from ..setup.files import NewFile, ambiguous, read_env, rendered, write
from ..setup.instructions import in_image, instructions, obstacle
from ..setup.microsoft365 import WAYS, script
from ..setup.questions import DEVICES, MAILDROP, RELAY, Given, NoWay, ask, ask_missing, is_open, mailbox
from ..setup.trying import awaiting_consent, for_trials, missing, refused_sender
from .authorize import Terminal
from .check import doubt, probe
from .report import Report
from .trial import Trial, send

__all__ = ("add_arguments", "run")

_OUTPUT = "mail-proxy.env"
_IMPORTS: Mapping[str, Callable[[Path], Draft]] = {
    "email-oauth2-proxy": email_oauth2_proxy.read_config,
    "m365proxy": m365proxy.read_config,
    "postfix": postfix.read_config,
}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNTRIED = "nothing was written; --untested writes what is not tried"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Each option is the answer to a question; what is not answered is asked at a terminal."""
    parser.add_argument(
        "what", nargs="?", choices=["microsoft365"],
        help="only print what an administrator of Microsoft 365 has to do, as clicks and as a PowerShell script",
    )  # fmt: skip
    answers = parser.add_argument_group("answers")
    answers.add_argument("--device", metavar="DOES", help="what the device does: sends, both or reads")
    answers.add_argument("--provider", metavar="NAME", help=f"one of {', '.join(PROFILES)}")
    answers.add_argument("--login", metavar="HOW", help="password, none, or a grant of OAuth2 such as device_code")
    answers.add_argument("--user", metavar="USER", help="the login there, mostly the mailbox's address")
    answers.add_argument("--password-file", type=Path, metavar="FILE", help="the file that holds the password")
    answers.add_argument("--smtp-host", metavar="HOST[:PORT]", help="the provider's SMTP server; the port is found")
    answers.add_argument("--imap-host", metavar="HOST[:PORT]", help="the provider's IMAP server")
    answers.add_argument("--sender", metavar="ADDRESS", help="the sender that the device uses; is it taken?")
    answers.add_argument("--send", metavar="ADDRESS", help="send a test message there")
    answers.add_argument(
        "--set", action="append", default=[], metavar="VARIABLE=VALUE", dest="sets", help="any other setting"
    )
    parser.add_argument(
        "--from", nargs=2, metavar=("PROGRAM", "FILE"), dest="imported",
        help=f"take over the configuration of {', '.join(_IMPORTS)} (its main.cf)",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"the env file to write ({_OUTPUT})")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    parser.add_argument("--no-questions", action="store_true", help="ask nothing, also at a terminal")
    parser.add_argument("--untested", action="store_true", help="connect nowhere, write the answers as they are")
    parser.epilog = """\
examples:
  %(prog)s
  %(prog)s --provider gmail --user scanner@firm.example
  %(prog)s --from postfix /etc/postfix/main.cf
  %(prog)s microsoft365 --user scanner@firm.example
"""


def run(options: argparse.Namespace) -> int:
    """Exit status 0: written. 1: a trial failed, or stopped. 2: an answer is missing or wrong. 130: Ctrl-C."""
    # The findings say what a plugin would log.
    logging.getLogger("legacy_email_proxy").setLevel(logging.CRITICAL)
    asker = Asker(interactive=not options.no_questions and sys.stdin.isatty() and sys.stdout.isatty())
    try:
        return _print_script(asker, options) if options.what else _set_up(asker, options)
    except Stopped:
        print("Stopped: nothing was written.", file=sys.stderr)
        return 1
    except NoWay as no_way:
        for way, finding in no_way.failed.items():
            print(f"FAILED   {way}: {finding.text}{f' -> {finding.advice}' if finding.advice else ''}")
        print(f"legacy-email-proxy: {_UNTRIED}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped: nothing was written.", file=sys.stderr, flush=True)
        # A thread may be waiting for a server, and the interpreter would wait for that thread.
        os._exit(130)


def _print_script(asker: Asker, options: argparse.Namespace) -> int:
    provider = options.provider or "microsoft365"
    if provider not in WAYS:
        raise SettingsMistake(f"--provider: {provider!r} is none of Microsoft's ways: {', '.join(WAYS)}")
    device = asker.choice("What does the device do?", "--device", DEVICES, given=options.device or "sends", default="")
    user = asker.text("The mailbox's address", "--user", given=options.user, wrong=_no_address)
    print(script(provider, user, device=device))
    return 0


def _set_up(asker: Asker, options: argparse.Namespace) -> int:
    output = (options.output or Path(_OUTPUT)).absolute()
    former = read_env(output) if output.exists() else {}
    _check_output(asker, options, output)
    if former.get("ACCOUNTS_FILE") and not options.imported:
        advice = "change that one by hand, or name another file with --output"
        raise SettingsMistake(f"--output: {str(output)!r} has several accounts, in {former['ACCOUNTS_FILE']}; {advice}")
    draft = _imported(options) if options.imported else Draft(dict(former))
    _set(draft, options.sets)
    asker.say(
        "Set-up of the Legacy Email Proxy. Enter takes what stands in [ ]. Ctrl-C ends it, and nothing is written."
    )
    if former and not options.imported:
        asker.say(f"{output} is there: its values are taken where you only press Enter.")
    given = Given(
        options.device, options.provider, options.login, options.user, options.password_file,
        options.smtp_host, options.imap_host, options.untested,
    )  # fmt: skip
    while True:
        if not options.imported:
            given = ask(asker, given, draft)
        if not draft.accounts:
            ask_missing(asker, draft)
        with _environment(draft) as environ:
            if options.untested or anyio.run(_tried, asker, environ, backend="asyncio"):
                break
        if not asker.interactive:
            print(f"legacy-email-proxy: {_UNTRIED}", file=sys.stderr)
            return 1
        if options.imported or not asker.yes("Go through the questions again?", default=True):
            _although(asker)
            break
    sender = ""
    if is_open(draft, RELAY) and not draft.accounts:
        sender = _sender(asker, options, draft)
    if is_open(draft, RELAY) and not _test_message(asker, options, draft, sender):
        return 1
    if not options.imported:
        _ports(asker, draft)
    files = _write(asker, options, draft, output, former)
    asker.say("")
    print(instructions(draft, files, sender=sender))
    return 0


def _although(asker: Asker) -> None:
    if not asker.yes("Write the files although that failed?", default=False):
        raise Stopped


def _check_output(asker: Asker, options: argparse.Namespace, output: Path) -> None:
    """Find out before the questions what would make them useless."""
    if not output.parent.is_dir():
        raise SettingsMistake(f"--output: there is no folder {str(output.parent)!r}")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise SettingsMistake(f"--output: you may not write into {str(output.parent)!r}")
    if output.exists() and not options.overwrite and not asker.interactive:
        raise SettingsMistake(f"--output: {str(output)!r} is there; --overwrite replaces it")
    if words := ambiguous(str(output)):
        raise SettingsMistake(f"--output: {words}")
    if options.password_file is not None:
        if not options.password_file.is_file():
            raise SettingsMistake(f"--password-file: there is no file {str(options.password_file)!r}")
        if words := ambiguous(str(options.password_file.absolute())):
            raise SettingsMistake(f"--password-file: {words}")


def _imported(options: argparse.Namespace) -> Draft:
    program, file = options.imported
    if program not in _IMPORTS:
        raise SettingsMistake(f"--from: {program!r} is none of {', '.join(_IMPORTS)}")
    for option in ("device", "provider", "login", "user", "password_file", "smtp_host", "imap_host"):
        if getattr(options, option) is not None:
            raise SettingsMistake(
                f"--{option.replace('_', '-')}: not together with --from; change a setting with --set"
            )
    return _IMPORTS[program](Path(file))


def _set(draft: Draft, sets: list[str]) -> None:
    for pair in sets:
        name, equals, text = pair.partition("=")
        if not equals or not _VARIABLE.fullmatch(name):
            raise SettingsMistake(f"--set: {name!r} is no VARIABLE=VALUE")
        stem = name.removesuffix("_FILE") if name not in SETTINGS else name
        for _, meant in unknown_variables({name: text}):
            raise SettingsMistake(f"--set: {name} is no setting, did you mean {meant}?")
        if is_secret(stem) and stem == name:
            raise SettingsMistake(f"--set: {name} is a secret, and others see the command line; set {name}_FILE=FILE")
        if text and (name != stem or SETTINGS.get(name, SETTINGS["PROVIDER"]).type == "path"):
            # The service may be started in another folder.
            text = str(Path(text).absolute())
            if words := ambiguous(text):
                raise SettingsMistake(f"--set: {name}: {words}")
        if name != stem:
            draft.put_file(stem, text)
        else:
            draft.put(name, text)
        if mistakes := [line for line in read({name: text}).mistakes if line.startswith(f"{stem}")]:
            raise SettingsMistake(*(f"--set: {line}" for line in mistakes))
        draft.set_by_hand |= {name}


@contextmanager
def _environment(draft: Draft) -> Iterator[dict[str, str]]:
    """The variables for trials; an accounts file is in a temporary folder meanwhile."""
    if not draft.accounts:
        yield for_trials(draft)
        return
    with tempfile.TemporaryDirectory(prefix="setup-") as folder:
        plain = Draft(draft.values, {name: _without_spool(each) for name, each in draft.accounts.items()}, draft.rules)
        output = Path(folder) / "trial.env"
        write(rendered(plain, output))
        environ = for_trials(draft, ACCOUNTS_FILE=str(output.with_suffix(".toml")))
        if lines := missing(environ):
            raise SettingsMistake(*(line.replace(f"{folder}/", "") for line in lines))
        yield environ


def _without_spool(values: Mapping[str, str]) -> dict[str, str]:
    return {**values, "RELAY_PLUGIN": "smtps"} if values.get("RELAY_PLUGIN") == "spool" else dict(values)


async def _tried(asker: Asker, environ: Mapping[str, str]) -> bool:
    """Whether all works, as ``check`` finds it; a consent that is due is given before that, if somebody is there."""
    waiting = await awaiting_consent(environ)
    try:
        for account, plugin in waiting.items():
            named = f" {account}" if account else ""
            if not asker.interactive:
                print(f"not tried: first run `legacy-email-proxy authorize{named}`, then `legacy-email-proxy check`")
                continue
            print(f"\nThe owner's consent{f' for account{named}' if named else ''}:")
            try:
                await plugin.authorize(Terminal(), listen=False)
            except Failure as failure:
                print(f"FAILED   {failure}")
                return False
    finally:
        for plugin in waiting.values():
            await plugin.aclose()
    if waiting and not asker.interactive:
        return True
    composition = await anyio.to_thread.run_sync(compose, environ)
    report = Report(as_json=False)
    asker.say("")
    doubt(composition, report, environ)
    try:
        await probe(composition, report)
    finally:
        for one in composition.credentials:
            await one.aclose()
    return not report.bad


def _no_address(text: str) -> str:
    good = "@" in text and text.isprintable() and not set(" <>,") & set(text)
    return "" if good else f"{text!r} is no address; write one like scan@firm.example"


def _sender(asker: Asker, options: argparse.Namespace, draft: Draft) -> str:
    """The device's sender address; where the provider does not take it, the proxy is to write the mailbox's instead."""
    own = mailbox(draft)
    if draft.has("SMTP_SENDER"):
        return own
    question = "The sender address that the device uses"
    sender = asker.text(question, "--sender", given=options.sender, default=own, optional=True, wrong=_no_address)
    if not sender or not own or sender.casefold() == own.casefold() or options.untested:
        return sender
    words = anyio.run(refused_sender, for_trials(draft), sender, own, backend="asyncio")
    if words:
        draft.put("SMTP_SENDER", own)
        print(f"{sender} is refused as sender ({words}), so SMTP_SENDER={own} is set: all mail goes out as {own}")
    return sender


def _test_message(asker: Asker, options: argparse.Namespace, draft: Draft, sender: str) -> bool:
    """Whether a test message arrived, or none is wanted."""
    if options.untested:
        return True
    question = "Send a test message to which address (Enter: none)"
    own, given, failed = mailbox(draft), options.send, False
    while recipient := asker.text(question, "--send", given=given, optional=True, wrong=_no_address):
        sent = partial(_sent, draft, recipient, sender)
        if sent():
            return True
        if own and sender.casefold() != own.casefold() and not draft.has("SMTP_SENDER"):
            print(f"once more, with SMTP_SENDER={own}: the provider may take no other sender")
            draft.put("SMTP_SENDER", own)
            if sent():
                return True
            draft.drop("SMTP_SENDER")
        if not asker.interactive:
            print(f"legacy-email-proxy: {_UNTRIED}", file=sys.stderr)
            return False
        # The address may have been wrong.
        given, failed = None, True
    if failed:
        _although(asker)
    return True


def _sent(draft: Draft, recipient: str, sender: str) -> bool:
    report = Report(as_json=False)
    with _environment(draft) as environ:
        trial = Trial(recipient, sender or None, "127.0.0.1", "", 0)
        for finding in anyio.run(send, trial, environ, backend="asyncio"):
            report.add("send", finding)
    return not report.bad


def _ports(asker: Asker, draft: Draft) -> None:
    """Ask for another port where this user could not open the usual one."""
    if in_image():
        return
    for leg, name in ((RELAY, "SMTP_BIND_PORT"), (MAILDROP, "POP3_BIND_PORT")):
        if not is_open(draft, leg) or name in draft.set_by_hand:
            continue
        port = str(read(draft.environment())[name])
        if (words := obstacle(int(port))) and asker.interactive:
            asker.say("", f"{words[0].upper()}{words[1:]}.")
            answer = asker.text("Port for the device", f"--set {name}=PORT", default=port, wrong=_no_port)
            draft.put(name, answer if answer != SETTINGS[name].default else "")


def _no_port(answer: str) -> str:
    return "" if answer.isascii() and answer.isdigit() and 0 < int(answer[:6]) < 65536 else f"{answer!r} is no port"


def _write(
    asker: Asker, options: argparse.Namespace, draft: Draft, output: Path, former: Mapping[str, str]
) -> list[NewFile]:
    files = rendered(draft, output)
    ours = {output, *(Path(text) for name, text in former.items() if name.endswith("_FILE"))}
    for each in files:
        if each.path.exists() and not options.overwrite:
            known = each.path in ours
            if not asker.interactive and not known:
                raise SettingsMistake(f"--output: {str(each.path)!r} is there, too; --overwrite replaces it")
            if (each.path == output or not known) and not asker.yes(f"Replace {each.path}?", default=known):
                raise Stopped
    write(files)
    return files
