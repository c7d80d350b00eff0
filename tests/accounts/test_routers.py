"""The routers in front of plugins in memory: each session gets its account, and nothing of another's."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from ipaddress import ip_network
from typing import cast

import anyio
import pytest

from legacy_email_proxy.accounts.maildrop import RoutedMaildrop
from legacy_email_proxy.accounts.pop_before_smtp import RecentLogins
from legacy_email_proxy.accounts.relay import RoutedRelay
from legacy_email_proxy.accounts.rules import Leg, Rule
from legacy_email_proxy.accounts.users import PasswordHash, Users
from legacy_email_proxy.contracts import (
    Client,
    Login,
    LoginRefused,
    Parameters,
    PipeliningTransaction,
    Recipient,
    Refused,
    Relay,
    RelayCapabilities,
    Secret,
)
from legacy_email_proxy.plugins import PluginContext
from legacy_email_proxy.relays.allow_list import Addresses, AllowListFilter
from legacy_email_proxy.relays.filtered import FilteredRelay
from legacy_email_proxy.replies import SMTP, pop3_error, smtp_reply
from legacy_email_proxy_plugins.filters.sender import SenderFilter
from pop3.maildrops import MemoryMaildrop, ReadyMaildrop
from smtp.relays import MemoryRelay

CLIENT = Client("10.0.0.7", "s1", port=25)
ONLY_SMTP = frozenset({Leg.SMTP})


def login(user: str, password: str) -> Login:
    return Login(user, Secret(password))


async def content(octets: bytes = b"Subject: x\r\n\r\nx\r\n") -> AsyncIterator[bytes]:
    yield octets


async def verdict(relay: Relay, sender: str, *recipients: str, client: Client = CLIENT) -> list[str]:
    """The replies to MAIL (if that was refused) or to each RCPT; the message is sent if one was accepted."""
    replies = []
    try:
        async with relay.transaction(client, sender, {}) as transaction:
            for recipient in recipients:
                try:
                    await transaction.add_recipient(recipient, {})
                    replies.append("250")
                except Refused as refused:
                    replies.append(str(smtp_reply(refused)))
            if "250" in replies:
                await transaction.send(content())
    except Refused as refused:
        return [str(smtp_reply(refused))]
    return replies


def relays(*names: str) -> dict[str, MemoryRelay]:
    return {name: MemoryRelay() for name in names}


def delivered(relay: MemoryRelay) -> list[tuple[str, ...]]:
    return [tuple(message.forward_paths) for message in relay.delivered]


async def test_each_sender_has_its_account() -> None:
    each = relays("a", "b")
    rules = [Rule("b", senders=Addresses.parse(["@b.example"])), Rule("a", networks=(ip_network("10.0.0.0/8"),))]
    router = RoutedRelay(each, rules, RecentLogins())
    assert await verdict(router, "x@b.example", "to@x") == ["250"]
    assert await verdict(router, "x@a.example", "to@x", "too@x") == ["250", "250"]
    assert delivered(each["a"]) == [("to@x", "too@x")]
    assert delivered(each["b"]) == [("to@x",)]
    stranger = replace(CLIENT, address="192.0.2.1")
    assert await verdict(router, "x@a.example", "to@x", client=stranger) == [str(SMTP.NO_ACCOUNT)]


async def test_the_smtp_login_and_the_port_choose_too() -> None:
    each = relays("a", "b", "c")
    rules = [Rule("a", users=frozenset({"ann"})), Rule("b", ports=frozenset({2525})), Rule("c")]
    router = RoutedRelay(each, rules, RecentLogins())
    for client in (replace(CLIENT, login="ann", port=2525), replace(CLIENT, login="bob", port=2525), CLIENT):
        await verdict(router, "x@y", "to@x", client=client)
    assert [len(relay.delivered) for relay in each.values()] == [1, 1, 1]


async def test_a_recipient_that_goes_another_way_needs_another_message() -> None:
    each = relays("partner", "rest")
    rules = [Rule("partner", recipients=Addresses.parse(["@partner.example"])), Rule("rest")]
    router = RoutedRelay(each, rules, RecentLogins())
    assert await verdict(router, "x@y", "a@z", "b@partner.example", "c@z") == ["250", str(SMTP.ANOTHER_MESSAGE), "250"]
    assert str(SMTP.ANOTHER_MESSAGE).startswith("452 4.5.3 ")
    assert (delivered(each["rest"]), delivered(each["partner"])) == ([("a@z", "c@z")], [])
    assert await verdict(router, "x@y", "b@partner.example") == ["250"]
    assert delivered(each["partner"]) == [("b@partner.example",)]
    assert [(relay.entered, relay.left) for relay in each.values()] == [(1, 1), (1, 1)]


@pytest.mark.parametrize("groups", [True, False])
async def test_recipients_that_came_together_stay_together(groups: bool) -> None:
    each = relays("partner", "rest")
    each["rest"].groups = groups
    context = PluginContext("x", {"SMTP_ALLOWED_SENDERS": None, "SMTP_ALLOWED_RECIPIENTS": ["@z"]})
    rest = FilteredRelay(each["rest"], {"allowed": AllowListFilter(context)})
    rules = [Rule("partner", recipients=Addresses.parse(["@partner.example"])), Rule("rest")]
    router = RoutedRelay({"partner": each["partner"], "rest": rest}, rules, RecentLogins())
    paths = ["a@z", "b@partner.example", "c@not.allowed", "refuse-450@z", "d@z"]
    async with router.transaction(CLIENT, "x@y", {}) as transaction:
        pipelining = cast(PipeliningTransaction, transaction)
        verdicts = await pipelining.add_recipients([*map(Recipient, paths)], content_follows=True)
        assert [refused and refused.code for refused in verdicts] == [None, 452, 550, 450, None]
        await transaction.send(content())
    asked = ("a@z", "refuse-450@z", "d@z")
    assert each["rest"].asked == ([(*asked, "content_follows=True")] if groups else [*asked])
    assert delivered(each["rest"]) == [("a@z", "d@z")]


async def test_a_group_that_goes_nowhere_opens_nothing() -> None:
    each = relays("partner")
    router = RoutedRelay(each, [Rule("partner", recipients=Addresses.parse(["@partner.example"]))], RecentLogins())
    async with router.transaction(CLIENT, "x@y", {}) as transaction:
        pipelining = cast(PipeliningTransaction, transaction)
        verdicts = await pipelining.add_recipients([Recipient("a@z"), Recipient("b@z")], content_follows=True)
    assert [str(smtp_reply(refused)) for refused in verdicts if refused] == [str(SMTP.NO_ACCOUNT)] * 2
    assert each["partner"].entered == 0


async def test_no_account_for_this_recipient() -> None:
    each = relays("partner")
    router = RoutedRelay(each, [Rule("partner", recipients=Addresses.parse(["@partner.example"]))], RecentLogins())
    assert await verdict(router, "x@y", "a@z", "b@partner.example") == [str(SMTP.NO_ACCOUNT), "250"]
    assert await verdict(router, "x@y", "a@z") == [str(SMTP.NO_ACCOUNT)]
    assert (each["partner"].entered, each["partner"].left) == (1, 1)


async def test_the_backends_verdict_passes() -> None:
    router = RoutedRelay(relays("a"), [Rule("a")], RecentLogins())
    assert (await verdict(router, "refuse-553@x", "to@x"))[0].startswith("553 5.9.9 the backend says")
    later = RoutedRelay(
        relays("a"), [Rule("a", recipients=Addresses.parse(["@x"])), Rule("a", ports=frozenset({1}))], RecentLogins()
    )
    # Opened at the first recipient, the verdict on the sender comes there.
    assert (await verdict(later, "refuse-553@x", "to@x"))[0].startswith("553 5.9.9 the backend says")


async def test_what_is_offered_is_what_any_account_has() -> None:
    each = relays("a", "b")
    router = RoutedRelay(each, [], RecentLogins())
    each["a"].max_octets, each["b"].max_octets = 30, 20
    assert router.capabilities() == RelayCapabilities(30)
    each["b"].max_octets, each["b"].smtputf8, each["a"].dsn = None, True, True
    assert router.capabilities() == RelayCapabilities(None, smtputf8=True, dsn=True)
    assert RoutedRelay({}, [], RecentLogins()).capabilities() == RelayCapabilities()


UTF8 = {"SMTPUTF8": None}


@pytest.mark.parametrize("by_recipient", [False, True])
@pytest.mark.parametrize(
    ("parameters", "octets", "small", "large"),
    [
        ({"SIZE": "5000"}, 100, str(SMTP.TOO_BIG), "250"),
        ({"SIZE": "1000"}, 100, "250", "250"),
        ({}, 1001, str(SMTP.TOO_BIG), "250"),
        ({"SIZE": "10"}, 1001, str(SMTP.TOO_BIG), "250"),
        ({}, 1000, "250", "250"),
        (UTF8, 100, str(SMTP.NO_SMTPUTF8), "250"),
    ],
)
async def test_the_chosen_account_judges(
    parameters: Parameters, octets: int, small: str, large: str, by_recipient: bool
) -> None:
    """Another one that takes less is none of this message's business."""
    each = relays("small", "large")
    each["small"].max_octets, each["large"].smtputf8 = 1000, True
    addresses = Addresses.parse(["@small.example"])
    condition = Rule("small", recipients=addresses) if by_recipient else Rule("small", senders=addresses)
    router = RoutedRelay(each, [condition, Rule("large")], RecentLogins())
    replies = {}
    for name in each:
        path = f"x@{name}.example"
        try:
            async with router.transaction(CLIENT, path, parameters) as transaction:
                await transaction.add_recipient(path, {"NOTIFY": "NEVER"})
                await transaction.send(content(b"x" * octets))
            replies[name] = "250"
        except Refused as refused:
            replies[name] = str(smtp_reply(refused))
    assert replies == {"small": small, "large": large}
    (message,) = each["large"].delivered
    assert (message.parameters, message.recipient_parameters) == (parameters, [{"NOTIFY": "NEVER"}])
    assert [relay.entered for relay in each.values()] == [relay.left for relay in each.values()]


async def test_pop_before_smtp() -> None:
    now = 0.0
    recent = RecentLogins(lambda: now)
    users = Users({"ann": PasswordHash.of("secret")})
    maildrops = RoutedMaildrop(
        {"a": MemoryMaildrop(), "reading": MemoryMaildrop()},
        [Rule("a", ports=frozenset({25})), Rule("reading")],
        recent,
        users,
    )
    each = relays("a")
    router = RoutedRelay(each, [Rule("", within_seconds=600, legs=ONLY_SMTP)], recent)
    assert await verdict(router, "x@y", "to@x") == [str(SMTP.NO_ACCOUNT)]
    with pytest.raises(LoginRefused):
        async with maildrops.open(CLIENT, login("ann", "wrong")):
            pass
    assert await verdict(router, "x@y", "to@x") == [str(SMTP.NO_ACCOUNT)]
    for port in (25, 110):
        async with maildrops.open(replace(CLIENT, port=port), login("ann", "secret")):
            now += 300
    # The later login was to an account that can not send.
    assert await verdict(router, "x@y", "to@x") == ["250"]
    assert await verdict(router, "x@y", "to@x", client=replace(CLIENT, address="10.0.0.8")) == [str(SMTP.NO_ACCOUNT)]
    now += 1
    assert await verdict(router, "x@y", "to@x") == [str(SMTP.NO_ACCOUNT)]


async def test_local_passwords_stay_here() -> None:
    each = {"a": MemoryMaildrop(), "b": MemoryMaildrop()}
    users = Users({name: PasswordHash.of(f"{name}'s") for name in ("ann", "bob", "eve")})
    rules = [Rule("a", users=frozenset({"ann"})), Rule("b", users=frozenset({"bob"}))]
    router = RoutedMaildrop(each, rules, RecentLogins(), users)
    async with router.open(CLIENT, login("ann", "ann's")):
        pass
    assert (each["a"].logins, each["b"].logins) == ([None], [])
    refused = [login("ann", "bob's"), login("nobody", "ann's"), login("eve", "eve's"), login("", ""), None]
    told = set()
    for given in refused:
        with pytest.raises(LoginRefused) as raised:
            async with router.open(CLIENT, given):
                pass
        told.add(pop3_error(raised.value))
    assert told == {"-ERR [AUTH] user name or password is wrong"}
    assert (each["a"].logins, each["b"].logins) == ([None], [])


async def test_a_backends_login_goes_on_as_it_came() -> None:
    each = {"a": MemoryMaildrop(), "b": MemoryMaildrop()}
    router = RoutedMaildrop(each, [Rule("b", ports=frozenset({25})), Rule("a")], RecentLogins(), None)
    async with router.open(CLIENT, login("me", "mine")):
        pass
    assert (each["a"].logins, each["b"].logins) == ([], [login("me", "mine")])


async def test_what_a_maildrop_has_at_hand_its_account_has() -> None:
    each = {"ready": ReadyMaildrop(), "a": MemoryMaildrop()}
    for account in each:
        async with RoutedMaildrop(each, [Rule(account)], RecentLogins(), None).open(CLIENT, None) as session:
            assert hasattr(session, "at_hand") == (account == "ready")
            if hasattr(session, "at_hand"):
                assert session.at_hand("a", None) == each["ready"].messages["a"]


async def test_an_unknown_user_costs_a_hash_too(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    fits = PasswordHash.fits

    def noted(kept: PasswordHash, password: str) -> bool:
        tried.append(password)
        return fits(kept, password)

    monkeypatch.setattr(PasswordHash, "fits", noted)
    users = Users({"ann": PasswordHash.of("secret")})
    assert [await users.verify(login(name, "secret")) for name in ("nobody", "ann", "Ann")] == [False, True, False]
    assert tried == ["secret"] * 3


@pytest.mark.parametrize("password", ["", " pä ss ", "\udcff\udc80", "x" * 1000])
def test_hashes(password: str) -> None:
    kept = PasswordHash.of(password)
    assert PasswordHash.parse(str(kept)) == kept != PasswordHash.of(password)
    assert kept.fits(password)
    assert not kept.fits(password + "x")
    assert base64.b64encode(kept.key).decode()[:10] not in repr(kept)


def test_a_hash_is_the_one_that_other_programs_make() -> None:
    # RFC 7914 §12 has one with these costs: P = "pleaseletmein", S = "SodiumChloride", 64 octets of which we keep 32.
    assert PasswordHash(b"SodiumChloride", bytes.fromhex(
        "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2"
    )).fits("pleaseletmein")  # fmt: skip


@pytest.mark.parametrize("text", ["", "secret", "$scrypt$ln=1,r=8,p=1$AAAA$AAAA", "{PLAIN}x", "$2b$12$" + "x" * 53])
def test_no_hash(text: str) -> None:
    with pytest.raises(ValueError, match="that is no hash of a password") as raised:
        PasswordHash.parse(text)
    assert not text or text not in str(raised.value)


GUARDED = [
    ({"SMTP_ALLOWED_SENDERS": ["@firm.example", "<>"]}, "X@Firm.example", ["250", "250"]),
    ({"SMTP_ALLOWED_SENDERS": ["@firm.example", "<>"]}, "", ["250", "250"]),
    ({"SMTP_ALLOWED_SENDERS": ["@firm.example"]}, "", [str(SMTP.SENDER_NOT_ALLOWED)]),
    ({"SMTP_ALLOWED_SENDERS": ["a@firm.example"]}, "b@firm.example", [str(SMTP.SENDER_NOT_ALLOWED)]),
    ({"SMTP_ALLOWED_RECIPIENTS": ["a@z", "@partner.example"]}, "x", ["250", str(SMTP.RECIPIENT_NOT_ALLOWED)]),
]


@pytest.mark.parametrize(("settings", "sender", "replies"), GUARDED)
async def test_the_guard(settings: dict[str, list[str]], sender: str, replies: list[str]) -> None:
    relay = MemoryRelay()
    context = PluginContext("x", {"SMTP_ALLOWED_SENDERS": None, "SMTP_ALLOWED_RECIPIENTS": None} | settings)
    guard = FilteredRelay(relay, {"allowed": AllowListFilter(context)})
    assert await verdict(guard, sender, "A@z", "b@z") == replies
    assert len(relay.delivered) == ("250" in replies)
    assert relay.entered == relay.left


async def test_an_accounts_own_filters_run_once_it_is_chosen() -> None:
    context = PluginContext("x", {"SMTP_SENDER": "a@x", "SMTP_SENDER_REWRITE": "both", "SMTP_SENDER_REPLY_TO": False})
    each = relays("a", "b")
    rules = [Rule("a", senders=Addresses.parse(["scan@y"])), Rule("b")]
    router = RoutedRelay(
        {"a": FilteredRelay(each["a"], {"sender": SenderFilter(context)}), "b": each["b"]}, rules, RecentLogins()
    )
    for sender in ("scan@y", "other@y"):
        assert await verdict(router, sender, "to@z") == ["250"]
    [mine], [others] = each["a"].delivered, each["b"].delivered
    assert (mine.reverse_path, others.reverse_path) == ("a@x", "other@y")
    assert b'From: "scan@y" <a@x>\r\n' in mine.content
    assert others.content == b"Subject: x\r\n\r\nx\r\n"


async def test_one_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryRelay):
        async def probe(self) -> tuple[()]:
            raise OSError("no")

        async def aclose(self) -> None:
            raise OSError("no")

    closed: list[str] = []

    class Slow(MemoryRelay):
        async def aclose(self) -> None:
            await anyio.lowlevel.checkpoint()
            closed.append("slow")

    router = RoutedRelay({"broken": Broken(), "slow": Slow()}, [], RecentLogins())
    assert [finding.text for finding in await router.probe()] == [
        "broken: the plugin's own probe failed: OSError: no"
    ]  # fmt: skip
    async with AsyncExitStack() as stack:
        stack.push_async_callback(router.aclose)
    assert closed == ["slow"]
    assert "plugin not closed cleanly" in caplog.text


async def test_a_password_that_was_proven_is_known_again_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    users = Users({"ann": PasswordHash.of("secret"), "bob": PasswordHash.of("other")})
    hashed: list[str] = []
    fits = PasswordHash.fits

    def counted(self: PasswordHash, password: str) -> bool:
        hashed.append(password)
        return fits(self, password)

    monkeypatch.setattr(PasswordHash, "fits", counted)
    assert not await users.verify(login("ann", "wrong"))
    for _ in range(3):
        assert await users.verify(login("ann", "secret"))
    # Each of these takes as long as any wrong password.
    for user, password in (("ann", "wrong"), ("ann", ""), ("bob", "secret"), ("eve", "secret"), ("eve", "")):
        assert not await users.verify(login(user, password))
    assert hashed == ["wrong", "secret", "wrong", "", "secret", "secret", ""]
    # What is not UTF-8 arrives as surrogates.
    assert not await users.verify(login("ann", "\udcff"))
