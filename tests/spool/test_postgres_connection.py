"""What libpq and a server say when there is no connection: told to the operator, without what nobody may read."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from legacy_email_proxy_plugins.spool.postgres_connection import PostgresConnection, conninfo
from legacy_email_proxy_plugins.spool.store import Interrupted
from realservers.postgres import Postgres

SECRETS = ["s3cret/p@ss w#rd", "password", "12345", "pg", "port", "s3crét", "it's a \\ 'quote'"]


@contextmanager
def server_that_repeats() -> Iterator[int]:
    """Asks for the password in the clear, and repeats it in its refusal. Gives its port."""

    def serve() -> None:
        with listener.accept()[0] as connection, connection.makefile("rb") as said:
            (octets,) = struct.unpack("!i", said.read(4))
            if octets == 8:  # whether it speaks TLS, or GSSAPI
                said.read(4)
                connection.sendall(b"N")
                (octets,) = struct.unpack("!i", said.read(4))
            said.read(octets - 4)
            connection.sendall(b"R" + struct.pack("!ii", 8, 3))
            said.read(1)
            (octets,) = struct.unpack("!i", said.read(4))
            given = said.read(octets - 4).rstrip(b"\0")
            words = b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed: no user has " + given + b"\0\0"
            connection.sendall(b"E" + struct.pack("!i", len(words) + 4) + words)

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join()


def connecting(url: str) -> tuple[PostgresConnection, str]:
    """What is said of a connection that can not be made."""
    connection = PostgresConnection(conninfo(url), lambda _: None, "SPOOL_URL")
    with pytest.raises(Interrupted) as caught:
        connection.connect()
    with pytest.raises(Interrupted) as again:
        connection.connect()
    assert str(again.value) == str(caught.value)
    return connection, str(caught.value)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("where", ["URL", "keywords", "environment"])
def test_a_server_that_repeats_the_password(secret: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with server_that_repeats() as port:
        url = f"postgresql://proxy:{quote(secret, safe='')}@127.0.0.1:{port}/spool?sslmode=disable"
        if where == "keywords":
            escaped = secret.replace("\\", "\\\\").replace("'", "\\'")
            url = f"host=127.0.0.1 port={port} user=proxy dbname=spool sslmode=disable password='{escaped}'"
        if where == "environment":
            monkeypatch.setenv("PGPASSWORD", secret)
            url = f"postgresql://proxy@127.0.0.1:{port}/spool?sslmode=disable"
        connection, said = connecting(url)
    words = said.removeprefix("no connection to PostgreSQL: ").replace(f"port {port}", "")
    assert secret not in words
    assert "authentication failed: no user has ***" in words
    assert connection.needs_somebody


SECRET = "s3cret-W0rd"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:{}@127.0.0.1:1/db",
        "postgresql://u:{}@no-such-host.invalid/db",
        "postgresql://127.0.0.1:1/db?password={}",
        "postgresql://u:x@127.0.0.1:1/db?sslmode={}",
        "postgresql://u:x@127.0.0.1:1/db?connect_timeout=1&keepalives={}",
        "postgresql://u:x@127.0.0.1:1/db?channel_binding={}",
        "postgresql://u:x@127.0.0.1:1/db?sslmode=verify-full&sslrootcert={}",
        "postgresql://u:x@127.0.0.1:1/db?passfile={}",
        "postgresql://u:x@127.0.0.1:1/db?service={}",
        "host=127.0.0.1 port=1 user=u dbname=db password={}",
        "host=127.0.0.1 port=1 passfile={}",
        "service={}",
    ],
)
def test_libpq_on_its_own(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "service"))
    _, said = connecting(url.format(SECRET))
    assert SECRET.lower() not in said.lower()
    assert "s3cret" not in said.lower()


def test_what_helps_is_said(postgres: Postgres) -> None:
    connection, said = connecting("postgresql://u:x@no-such-host.invalid/db")
    assert "no-such-host.invalid" in said
    assert not connection.needs_somebody
    url = f"postgresql://postgres:require@127.0.0.1:{postgres.port}/nowhere"
    connection, said = connecting(url)
    assert 'database "nowhere" does not exist' in said
    assert connection.needs_somebody
    _, said = connecting(f"{postgres.url('postgres')}?sslmode=require")
    assert "server does not support SSL, but SSL was required" in said
    _, said = connecting(f"{postgres.url('postgres')}?options=-cwork_mem%3D{SECRET}")
    assert "invalid value for parameter" in said
    assert "s3cret" not in said
