"""Finding, loading and judging plugins."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from legacy_email_proxy import plugins
from legacy_email_proxy.contracts import Finding, Message, RelayCapabilities, Setting, WholeMessageRelay


class Good(WholeMessageRelay):
    async def deliver(self, message: Message) -> None:
        """Nothing."""


class Unfinished(WholeMessageRelay):
    pass


class NotAsync(WholeMessageRelay):
    async def deliver(self, message: Message) -> None:
        """Nothing."""

    def probe(self) -> Sequence[Finding]:  # type: ignore[override]
        return ()


class WrongArguments(Good):
    @asynccontextmanager
    async def transaction(self, client: object) -> AsyncIterator[None]:  # type: ignore[override]
        yield


class NoCapabilities:
    def __init__(self, context: object) -> None:
        """Nothing."""

    def transaction(self, client: object, reverse_path: str, parameters: object) -> None:
        """Nothing."""

    async def probe(self) -> None:
        """Nothing."""

    async def aclose(self) -> None:
        """Nothing."""


class WrongConstructor(Good):
    def __init__(self) -> None:
        """Nothing."""


class AsyncCapabilities(Good):
    async def capabilities(self) -> RelayCapabilities:  # type: ignore[override]
        return RelayCapabilities()


class NoContextManager(Good):
    async def transaction(self, *arguments: object) -> AsyncIterator[None]:  # type: ignore[override]
        yield


class CommaForgotten(Good):
    settings = Setting("ACME_PATH", "path", None, "Where.")


class UnknownType(Good):
    settings = (Setting("ACME_PATH", "int", None, "Where."),)  # type: ignore[arg-type]


class ListOfChoices(Good):
    settings = (Setting("ACME_PATH", "text", None, "Where.", choices=["a"]),)  # type: ignore[arg-type]


class TupleAsDefault(Good):
    settings = (Setting("ACME_TAGS", "list", ("a",), "Which."),)  # type: ignore[arg-type]


class WrongDefault(Good):
    settings = (Setting("ACME_PORT", "integer", "smtp", "Where."),)


class DefaultThatIsNoChoice(Good):
    settings = (Setting("ACME_MODE", "text", "c", "How.", choices=("a", "b")),)


class TextAsMinimum(Good):
    settings = (Setting("ACME_PORT", "integer", "25", "Where.", minimum="1"),)  # type: ignore[arg-type]


class MinimumOfAText(Good):
    settings = (Setting("ACME_MODE", "text", None, "How.", minimum=1),)


class NoSentence(Good):
    settings = (Setting("ACME_PORT", "integer", "25", None),)  # type: ignore[arg-type]


class StartNotAsync(Good):
    def start(self) -> None:
        """Nothing."""


class StartWithArguments(Good):
    async def start(self, group: object) -> None:
        """Nothing."""


class AdministerWithoutNumbers(Good):
    async def administer(self, action: str) -> AsyncIterator[bytes]:
        yield b""


class AdministerWithoutListed(Good):
    async def administer(self, action: str, numbers: Sequence[int], by: str = "") -> AsyncIterator[bytes]:
        yield b""


class Starting(Good):
    async def start(self) -> None:
        """Nothing."""


class Vault:
    def __init__(self, context: object) -> None:
        """Nothing."""

    async def secret(self, account: object) -> None:
        """Nothing."""

    async def refused(self, account: object, secret: object) -> bool:
        return False

    async def probe(self) -> Sequence[Finding]:
        return ()

    async def aclose(self) -> None:
        """Nothing."""


class AuthorizeWithoutListen(Vault):
    async def authorize(self, dialogue: object) -> None:
        """Nothing."""

    async def status(self) -> None:
        """Nothing."""


class VaultStartNotAsync(Vault):
    def start(self) -> None:
        """Nothing."""


class AuthorizeWithoutStatus(Vault):
    async def authorize(self, dialogue: object, *, listen: bool) -> None:
        """Nothing."""


class BackUpWithoutRestore(Good):
    async def back_up(self, folder: object) -> None:
        """Nothing."""


def function(context: object) -> None:
    """Not a class."""


def found(
    name: str, distribution: str = "acme-mail", target: str | None = None, group: str = plugins.RELAY
) -> plugins.Found:
    point = EntryPoint(name, target or f"core.test_plugins:{name}", group)
    return plugins.Found(group, name, distribution, "1.2", point)


@pytest.mark.parametrize(("name", "group"), [("Good", "relay"), ("Starting", "relay"), ("Vault", "credentials")])
def test_a_good_one(name: str, group: str) -> None:
    assert plugins.load(found(name, group=f"legacy_email_proxy.{group}")).__name__ == name


BROKEN = {
    "Unfinished": "deliver not written",
    "NotAsync": "probe() must be async",
    "AsyncCapabilities": "capabilities() must not be async",
    "WrongArguments": "transaction() must take (self, client, reverse_path, parameters)",
    "NoCapabilities": "no method capabilities()",
    "WrongConstructor": "its constructor must take exactly one argument, the context",
    "NoContextManager": "transaction() must return a context manager; is @asynccontextmanager missing?",
    "CommaForgotten": "settings must be a tuple of Setting",
    "UnknownType": "setting ACME_PATH has the type 'int', which is none of text, secret, ",
    "ListOfChoices": "setting ACME_PATH has choices that are no tuple",
    "TupleAsDefault": "setting ACME_TAGS has the default ('a',); write it as a user would write the variable",
    "WrongDefault": "setting ACME_PORT: not a valid integer (given: 'smtp'), which is its default",
    "DefaultThatIsNoChoice": "setting ACME_MODE: must be one of: a, b (given: 'c'), which is its default",
    "TextAsMinimum": "setting ACME_PORT has a minimum or maximum that is no number, or is no number itself",
    "MinimumOfAText": "setting ACME_MODE has a minimum or maximum that is no number, or is no number itself",
    "NoSentence": "setting 'ACME_PORT' has a name or a sentence that is no text",
    "StartNotAsync": "start() must be async",
    "StartWithArguments": "start() must take (self)",
    "AdministerWithoutNumbers": "administer() must take (self, action, numbers, by='')",
    "AdministerWithoutListed": "no method listed(); no method counted()",
    "BackUpWithoutRestore": "no method restore()",
    "function": "is not a class",
    "Missing": "can not be imported: AttributeError: ",
}


@pytest.mark.fault("D13")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_one_is_named_with_its_distribution_and_reason(name: str) -> None:
    with pytest.raises(plugins.PluginError) as error:
        plugins.load(found(name))
    assert f"plugin {name} (acme-mail 1.2) " in str(error.value)
    assert BROKEN[name] in str(error.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("AuthorizeWithoutListen", "authorize() must take (self, dialogue, *, listen)"),
        ("AuthorizeWithoutStatus", "no method status()"),
        ("VaultStartNotAsync", "start() must be async"),
    ],
)
def test_what_a_plugin_is_besides_it_is_wholly(name: str, words: str) -> None:
    with pytest.raises(plugins.PluginError) as error:
        plugins.load(found(name, group=plugins.CREDENTIALS))
    assert words in str(error.value)


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(
        plugins.PluginError, match=r"\(acme-mail 1\.2\) can not be imported: ModuleNotFoundError: No mod"
    ):
        plugins.load(found("x", target="no_such_module:X"))


def test_two_distributions_with_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [found("smtps", "acme-mail"), found("smtps", "legacy-email-proxy")]
    monkeypatch.setattr(plugins, "available", lambda group: both)
    with pytest.raises(plugins.PluginError, match=r"provided twice; write acme-mail:smtps or legacy-email-proxy:smtps"):
        plugins.find(plugins.RELAY, "smtps")
    assert plugins.find(plugins.RELAY, "acme-mail:smtps") is both[0]


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(plugins.PluginError) as error:
        plugins.find(plugins.MAILDROP, "imapp")
    said = "there is no maildrop plugin 'imapp', did you mean 'imap' (installed: graph, imap, maildir"
    assert said in str(error.value)


@pytest.mark.parametrize("group", plugins.GROUPS)
def test_every_built_in_keeps_its_contract(group: str) -> None:
    ours: list[Any] = [one for one in plugins.available(group) if one.distribution == "legacy-email-proxy"]
    assert ours
    for one in ours:
        plugins.load(one)
