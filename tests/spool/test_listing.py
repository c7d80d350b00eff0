"""What an operator finds in the spool: by state, account and address, in parts, and counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from interop.proxy import run
from legacy_email_proxy.contracts import QueueFilter, Refused, Unreachable
from spool import support
from spool.support import Backend, listed, operate, raises, send, spool_to, spooling, until_states
from waiting import until

pytestmark = pytest.mark.usefixtures("store")

MANY = 4100
"""More than are looked through in two parts."""


def down() -> Backend:
    return Backend(sender=raises([Unreachable("away")] * 10_000))


def numbers(items: Sequence[Any]) -> list[int]:
    return [item["number"] for item in items]


async def found(spool: Any, **wanted: Any) -> list[int]:
    return numbers(await listed(spool, QueueFilter(**wanted)))


def fill(tmp_path: Path, count: int) -> None:
    """So many held messages of the account "a", each to a recipient of its own, from number 11 on."""
    columns, values = support.store.message_columns
    support.store.execute(
        tmp_path,
        "INSERT INTO message (number, account, state, received, since, due, client, reverse_path, parameters, octets"
        f"{columns}) VALUES (?, 'a', 'held', 0, 0, 0, ?, 'scan@example.test', '{{}}', 5{values})",
        *((number, json.dumps(["192.0.2.1", "s", "", "", 0])) for number in range(11, 11 + count)),
    )
    support.store.execute(
        tmp_path,
        "INSERT INTO recipient (message, number, forward_path, parameters) VALUES (?, 0, ?, '{}')",
        *((number, f"r{number}@example.test") for number in range(11, 11 + count)),
    )


async def test_by_state_account_and_address(tmp_path: Path) -> None:
    async with spooling(down(), tmp_path, "north") as spool:
        south = spool_to(down(), tmp_path, "south")
        await south.start()
        await send(spool, "Bob@Example.test", "100%@example.test")
        await send(spool, "1001@example.test", reverse_path="fax_1@example.test")
        await send(south, "faxx1@example.test")
        await operate(spool, "hold", 2)
        assert await found(spool) == [1, 2, 3]
        assert await found(spool, account="south") == await found(south, account="south") == [3]
        assert await found(spool, account="") == []
        assert await found(spool, states=("held",)) == [2]
        assert await found(spool, states=("held", "queued"), account="north") == [1, 2]
        assert await found(spool, address="bob@EXAMPLE") == [1]
        # What would stand for any text in SQL stands for itself.
        assert await found(spool, address="100%@") == [1]
        assert await found(spool, address="fax_1") == [2]
        assert await found(spool, address="'; --") == []
        assert await found(spool, after=1) == [2, 3]
        assert await found(spool, after=1, limit=1) == [2]
        assert await found(spool, limit=0) == []
        counts = [(one["account"], one["state"], one["messages"]) for one in await spool.counted()]
        assert sorted(counts) == [("north", "held", 1), ("north", "queued", 1), ("south", "queued", 1)]
        await south.aclose()


async def test_more_than_one_part(tmp_path: Path) -> None:
    async with spooling(down(), tmp_path, "a"):
        pass  # the tables are there now
    fill(tmp_path, MANY)
    async with spooling(down(), tmp_path, "a") as spool:
        everything = list(range(11, 11 + MANY))
        assert await found(spool) == everything
        assert await found(spool, limit=2500) == everything[:2500]
        assert await found(spool, after=everything[1999], limit=3) == everything[2000:2003]
        assert await found(spool, address=f"r{everything[-1]}@") == everything[-1:]
        assert [one["messages"] for one in await spool.counted()] == [MANY]


async def test_what_can_not_be_read_is_listed_too(tmp_path: Path) -> None:
    async with spooling(down(), tmp_path) as spool:
        for _ in range(3):
            await send(spool)
        await operate(spool, "hold", 1, 2, 3)
    support.store.execute(tmp_path, "UPDATE message SET client = 'x' WHERE number = 2")
    async with spooling(down(), tmp_path) as spool:
        first, second, third = await listed(spool)
        assert (first["state"], third["state"]) == ("held", "held")
        assert (second["number"], second["state"]) == (2, "set aside")
        assert second["reason"].startswith("its record makes no sense")


async def test_mail_that_leaves_meanwhile_is_left_out(tmp_path: Path) -> None:
    async with spooling(down(), tmp_path) as spool:
        for _ in range(250):
            await send(spool)
        seen = []
        async for item in spool.listed(QueueFilter()):
            seen.append(item["number"])
            if item["number"] == 1:
                await operate(spool, "drop", *range(150, 251))
        assert seen == list(range(1, 150))


async def test_an_export_leaves_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with spooling(down(), tmp_path) as spool:
        await send(spool)
        assert (
            b"".join([each async for each in spool.administer("export", [1], "user eve") if isinstance(each, bytes)])
            == support.CONTENT
        )

        def told() -> list[Any]:
            return [each.__dict__["facts"] for each in caplog.records if each.message == "done by the operator"]

        await until(told)
        (facts,) = told()
        assert (facts["action"], facts["by"], facts["message"]) == ("export", "user eve", 1)


@pytest.mark.long
async def test_the_command(tmp_path: Path) -> None:
    variables = {
        "STATE_DIR": str(tmp_path), "MAILDROP_PLUGIN": "none", "RELAY_PLUGIN": "spool", "BACKEND_SMTP_HOST": "x.test",
        **support.store.variables,
    }  # fmt: skip
    async with spooling(Backend(recipient=raises([Refused(550, "5.1.1", "no")])), tmp_path) as spool:
        await send(spool, "one@example.test", reverse_path="")
        await until_states(spool, "dead")
    lines = run("spool", "count", **variables).stdout.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("     1  dead, the oldest since 2")
    assert "one@example.test" in run("spool", "list", "--state", "dead", "--address", "ONE@", **variables).stdout
    assert run("spool", "list", "--state", "queued", **variables).stdout == ""
    done = run("spool", "list", "1", **variables)
    assert (done.returncode, done.stderr) == (
        2,
        "legacy-email-proxy: spool list: it takes no numbers; `spool show` does\n",
    )
