"""What POP3 clients deleted and the server still has: hidden at all proxies of one database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from anyio.to_thread import run_sync

from imap.support import CLIENT, pair
from imap.test_deletion import NO_KEYWORD, delete, files, mailbox, shown
from legacy_email_proxy import plugins
from legacy_email_proxy.contracts import Failure, Level, Secret
from legacy_email_proxy_plugins.imap import IMAPMaildrop
from realservers.certificates import Certificates
from realservers.postgres import Postgres


def another(maildrop: IMAPMaildrop, folder: Path) -> IMAPMaildrop:
    """The same account at another proxy: with a STATE_DIR and a connection to the database of its own."""
    plugins._states.clear()
    made = IMAPMaildrop(plugins.PluginContext("maildrop.imap", {**maildrop._context.settings, "STATE_DIR": folder}))
    made._server, made._accounts = maildrop._server, maildrop._accounts
    return made


async def test_hidden_at_one_proxy_is_hidden_at_all(
    certificates: Certificates, tmp_path: Path, postgres: Postgres
) -> None:
    box = mailbox(permanent_flags=NO_KEYWORD)
    given: dict[str, Any] = {"BACKEND_IMAP_DELETE": "keep", "STATE_URL": Secret(postgres.new_database())}
    async with pair(certificates.good, mailbox=box, STATE_DIR=tmp_path / "one", **given) as (ours, _):
        theirs = another(ours, tmp_path / "two")
        await delete(ours, 1, 3)
        assert await shown(theirs) == [2, 4, 5]
        await delete(theirs, 5)
        assert await shown(ours) == await shown(theirs) == [2, 4]
        assert not files(tmp_path / "one")
        assert not [finding for finding in await ours.probe() if finding.level is Level.BAD]
        box.uidvalidity += 1
        async with ours.open(CLIENT, None) as session:
            assert len(session.entries) == 5


async def test_what_a_proxy_alone_had_hidden_stays_hidden(
    certificates: Certificates, tmp_path: Path, postgres: Postgres
) -> None:
    box = mailbox(permanent_flags=NO_KEYWORD)
    async with pair(
        certificates.good, mailbox=box, STATE_DIR=tmp_path, BACKEND_IMAP_DELETE="keep"
    ) as (alone, _):  # fmt: skip
        await delete(alone, 1)
        sharing = another(alone, tmp_path)
        sharing._shared = plugins.shared_state({"STATE_URL": Secret(postgres.new_database())})
        assert await shown(sharing) == [2, 3, 4, 5]
        await delete(sharing, 3)
        assert await shown(sharing) == [2, 4, 5]


async def test_without_the_database_nothing_deleted_is_shown_again(certificates: Certificates) -> None:
    with Postgres.start() as database:
        given: dict[str, Any] = {"BACKEND_IMAP_DELETE": "keep", "STATE_URL": Secret(database.new_database())}
        async with pair(certificates.good, mailbox=mailbox(permanent_flags=NO_KEYWORD), **given) as (maildrop, _):
            await delete(maildrop, 1)
            await run_sync(database.kill)
            with pytest.raises(Failure, match="PostgreSQL") as raised:
                await shown(maildrop)
            assert raised.value.look_at == "STATE_URL"
            await run_sync(database.start_again)
