"""The fake Graph server is judged by a rival, too (PyPI: m365proxy): its own functions send, list and read here.

It is no dependency of the tests: it wants much that nothing else here needs. What it does to delete a message has no
token in it, so that is refused here, as it would be by Microsoft.
"""

from __future__ import annotations

from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from graph.support import SENDER, serving
from realservers.certificates import Certificates

REASON = "m365proxy, from PyPI, is not installed"
helper: Any = pytest.importorskip("m365proxy.helpers.graph_helper", reason=REASON, exc_type=ImportError)
pop3: Any = pytest.importorskip("m365proxy.core.pop3", reason=REASON, exc_type=ImportError)
smtp: Any = pytest.importorskip("m365proxy.core.smtp", reason=REASON, exc_type=ImportError)


async def test_it_sends_and_reads(certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def token() -> str:
        return "the-token"

    async def available() -> bool:
        return True

    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = SENDER, "one@x.example", "meter"
    message.set_content("42\n")
    message.add_attachment(b"pdf", "application", "pdf", filename="a.pdf")
    async with serving(certificates) as fake:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
        monkeypatch.delenv("HTTPS_PROXY", raising=False)
        monkeypatch.setattr(helper, "GRAPH_BASE", fake.url)
        monkeypatch.setattr(helper, "get_access_token", token)
        monkeypatch.setattr(helper, "is_graph_available", available)
        assert await smtp.send_mail(SENDER, ["one@x.example"], message)
        for number in range(60):
            fake.mailbox.add(b"Subject: %d\r\n\r\nx\r\n" % number)
        listed = await pop3.list_messages(SENDER)
        assert len(listed) == 60
        assert await pop3.get_message_raw(SENDER, listed[59]["id"]) == b"Subject: 59\r\n\r\nx\r\n"
        (sent,) = fake.mailbox.sent
    assert sent.recipients == ("one@x.example",)
    assert [each["name"] for each in sent.message["attachments"]] == ["a.pdf"]
