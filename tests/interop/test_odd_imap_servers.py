"""A device that deletes without looking, the real service, and an IMAP server with habits of its own."""

from __future__ import annotations

import asyncio
import poplib

import pytest

from fakes.imap import Connection, FakeIMAPServer, Mailbox
from imap.support import PASSWORD, USER, server_tls
from imap.test_responses import SHAPES, every_line
from interop.proxy import running
from realservers.certificates import Certificates

MAIL = [b"Subject: %d\r\n\r\n.body %d\r\n" % (number, number) * (1 if number < 3 else 2000) for number in (1, 2, 3)]


def fetched(address: tuple[str, int]) -> list[bytes | str]:
    """What a device gets that asks for each message, deletes it whatever came, and leaves."""
    client, got = poplib.POP3(*address, timeout=30), list[bytes | str]()
    client.user("any")
    client.pass_("thing")
    for number in range(1, client.stat()[0] + 1):
        try:
            got.append(b"".join(line + b"\r\n" for line in client.retr(number)[1]))
        except poplib.error_proto as refused:
            got.append(refused.args[0].decode())
        client.dele(number)
    try:
        client.quit()
    except poplib.error_proto as refused:
        got.append(refused.args[0].decode())
    finally:
        client.close()
    return got


async def through_the_service(
    certificates: Certificates, server: FakeIMAPServer, **variables: str
) -> tuple[list[bytes | str], str]:
    def use() -> tuple[list[bytes | str], str]:
        with running(given) as proxy:
            got = fetched(proxy.pop3)
            proxy.stop()  # A thread writes the log, and may still have lines to write.
            return got, proxy.log

    given = variables | {
        "RELAY_PLUGIN": "none",
        "BACKEND_IMAP_HOST": "localhost",
        "BACKEND_IMAP_PORT": str(server.port),
        "BACKEND_IMAP_USER": USER,
        "BACKEND_IMAP_PASS": PASSWORD,
        "BACKEND_IMAP_CA_FILE": str(certificates.ca_file),
    }
    return await asyncio.to_thread(use)


@pytest.mark.parametrize("shape", ["mixed case", "two blanks", "no text", "a bracket in the text", "line feeds"])
async def test_every_message_arrives_in_any_shape(certificates: Certificates, shape: str) -> None:
    box = Mailbox.of(*MAIL)
    async with FakeIMAPServer({(USER, PASSWORD): box}, tls=server_tls(certificates.good)) as server:
        server.shape = every_line(SHAPES[shape])
        got, log = await through_the_service(certificates, server)
    assert got == MAIL, log
    assert box.messages == {}


async def test_nothing_in_place_of_a_message_and_an_odd_folder_elsewhere(certificates: Certificates) -> None:
    def nothing(_: Connection, command: str) -> bytes | None:
        return b"* 2 FETCH (UID 2 BODY[] {0}\r\n)\r\nTAG OK done\r\n" if " 2 " in command or ":" in command else None

    box = Mailbox.of(*MAIL)
    box.listed = (r'(\HasNoChildren) "/" INBOX', r'(\HasNoChildren) "/" "R&D"', r'(\Trash) "/" "Gelöscht"')
    async with FakeIMAPServer(
        {(USER, PASSWORD): box}, tls=server_tls(certificates.good), script={"BODY": nothing}, capabilities=("MOVE",)
    ) as server:
        got, log = await through_the_service(certificates, server, BACKEND_IMAP_DELETE="trash")
    assert [got[0], got[2]] == [MAIL[0], MAIL[2]]
    assert str(got[1]).startswith("-ERR"), got
    assert str(got[3]).startswith("-ERR"), "the client must know that one is left"
    assert list(box.messages) == [2], "the only copy of what the device never got"
    assert box.folders == {"Gelöscht": [MAIL[0], MAIL[2]]}
    assert "UID 2" in log
