"""The fake Graph server is judged by a client that we did not write (PyPI: O365): what that client does works here too.

Only then does it mean something that our plugins get along with the fake.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from fakes.graph import FakeGraph
from graph.support import CLIENT, SENDER, context, send, serving
from legacy_email_proxy_plugins.graph import GraphMaildrop, GraphRelay
from realservers.certificates import Certificates

if not os.environ.get("NOTHING_MAY_BE_MISSING"):
    pytest.importorskip("O365", reason="O365, from PyPI, is not installed")


def used(fake: FakeGraph, certificates: Certificates, work: Callable[[Any], None]) -> Callable[[], None]:
    """``work`` with O365's mailbox, for a thread."""
    from O365 import Account, MSGraphProtocol
    from O365.connection import Connection

    class Protocol(MSGraphProtocol):  # type: ignore[misc]
        _protocol_url = f"https://localhost:{fake.port}/"

    def run() -> None:
        connection = Connection(("id", "secret"), verify_ssl=str(certificates.ca_file), requests_delay=0)
        connection.session = connection.get_session()
        connection.naive_session = connection.get_naive_session()
        # Neither a proxy nor a CA file of this machine.
        connection.session.trust_env = connection.naive_session.trust_env = False
        connection.session.headers["Authorization"] = "Bearer the-token"
        account = Account(("id", "secret"), protocol=Protocol(timezone="UTC"))
        account.con = connection
        try:
            work(account.mailbox(SENDER))
        finally:
            connection.session.close()
            connection.naive_session.close()

    return run


async def test_it_sends_and_uploads(certificates: Certificates, tmp_path: Path) -> None:
    large = os.urandom(7_000_000)
    (tmp_path / "scan.pdf").write_bytes(large)

    def work(mailbox: Any) -> None:
        small = mailbox.new_message()
        small.to.add("one@x.example")
        small.bcc.add("two@x.example")
        small.subject, small.body = "small", "<p>hello"
        assert small.send(save_to_sent_folder=False)
        message = mailbox.new_message()
        message.to.add("one@x.example")
        message.subject = "large"
        assert message.save_draft()
        message.attachments.add([str(tmp_path / "scan.pdf")])
        assert message.save_draft()
        assert message.send()

    async with serving(certificates) as fake:
        await anyio.to_thread.run_sync(used(fake, certificates, work))
        small, sent = fake.mailbox.sent
        assert small.recipients == ("one@x.example", "two@x.example")
        (attachment,) = sent.attachments
        assert [attachment.name, attachment.octets == large] == ["scan.pdf", True]
        assert len(fake.mailbox.held("sentitems")) == 1


async def test_it_reads_what_we_read(certificates: Certificates, tmp_path: Path) -> None:
    found: dict[str, bytes] = {}

    def work(mailbox: Any) -> None:
        for message in list(mailbox.inbox_folder().get_messages(limit=None, batch=7)):
            found[message.subject] = message.get_mime_content()
            if message.subject == "3":
                assert message.move("archive")
            elif message.subject == "4":
                assert message.delete()

    async with serving(certificates) as fake:
        for number in range(20):
            fake.mailbox.add(b"Subject: %d\r\n\r\nbody\r\n" % number)
        await anyio.to_thread.run_sync(used(fake, certificates, work))
        assert found == {str(number): b"Subject: %d\r\n\r\nbody\r\n" % number for number in range(20)}
        maildrop = GraphMaildrop(context(GraphMaildrop, fake, certificates, tmp_path))
        async with maildrop.open(CLIENT, None) as session:
            ours = [b"".join([piece async for piece in session.retrieve(each.unique_id)]) for each in session.entries]
        await maildrop.aclose()
    assert ours == [octets for subject, octets in found.items() if subject not in ("3", "4")]


async def test_it_reads_what_we_sent(certificates: Certificates, tmp_path: Path) -> None:
    found: list[tuple[str, bytes]] = []

    def work(mailbox: Any) -> None:
        for message in mailbox.sent_folder().get_messages():
            found.append((message.subject, message.get_mime_content()))

    content = b"Subject: meter\r\nTo: one@example.test\r\n\r\n42\r\n"
    async with serving(certificates) as fake:
        relay = GraphRelay(context(GraphRelay, fake, certificates, tmp_path))
        await send(relay, content)
        await relay.aclose()
        await anyio.to_thread.run_sync(used(fake, certificates, work))
    assert found == [("meter", content)]
