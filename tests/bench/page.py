"""Measures the operator's page, `python tests/bench/page.py [--quick]`: how long each page takes, at a large site.

A hundred accounts, ten thousand messages in the spool and a hundred thousand rows of history, in the running command.
Every page is asked for five times. A time is from the request to the last octet, over loopback; it ends with status 1
if the median of a page is over 200 ms.
"""

from __future__ import annotations

import argparse
import http.client
import smtplib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench import history
from interop.proxy import Proxy, running
from legacy_email_proxy.history.database import FILE_NAME, open_to_write
from legacy_email_proxy.history.events import Writing
from legacy_email_proxy.history.facts import Event

TARGET_MS = 200
ROUNDS = 5
SENDERS = 8
DAYS = 13
PAGES = (
    "/overview",
    "/overview?period=fortnight",
    "/devices",
    "/devices/192.168.1.7",
    "/messages",
    "/messages?verdict=trouble",
    "/messages?verdict=refused",
    "/messages?device=192.168.1.7&verdict=relayed",
    "/messages?recipient=person13@firm.example",
    "/messages?recipient=@nowhere.example",
    "/messages?sender=nobody@firm.example",
    "/messages?account=a7",
    "/messages/50",
    "/spool",
    "/spool?state=queued",
    "/spool?state=dead",
    "/spool?address=nobody",
    "/spool?address=person1",
    "/spool?account=a7",
    "/spool/message/500",
    "/accounts",
    "/accounts/of/a7",
    "/settings",
)


def write_history(path: Path, rows: int) -> None:
    now = time.time()
    count = rows * 10 // 11  # a refusal for every tenth message
    with closing(open_to_write(path)) as connection:
        writing = Writing(connection)
        for batch in history.messages(count):
            age = DAYS * 86400 / (count * history.SECONDS_APART)
            writing.write([Event(now - (history.NOW - each.time) * age, each.words, each.facts) for each in batch])


def accounts_file(path: Path, count: int) -> None:
    path.write_text(
        "".join(
            f'[accounts.a{number}]\nBACKEND_SMTP_USER = "user{number}"\nBACKEND_SMTP_PASS = "x"\n'
            for number in range(count)
        )
        + "".join(f'[[rules]]\nsender = "a{number}@firm.example"\naccount = "a{number}"\n' for number in range(count))
        + '[[rules]]\naccount = "a0"\n'
    )


def fill_spool(proxy: Proxy, count: int, accounts: int) -> None:
    def send(first: int) -> None:
        with smtplib.SMTP(*proxy.smtp, timeout=100, source_address=(f"127.0.2.{first + 1}", 0)) as device:
            for number in range(first, count, SENDERS):
                sender, recipient = f"a{number % accounts}@firm.example", f"person{number % 500}@example.test"
                device.sendmail(sender, [recipient], b"Subject: a scan\r\n\r\nx\r\n")

    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(send, range(SENDERS)))


def asked(proxy: Proxy, pages: Sequence[str]) -> Iterator[tuple[str, int, list[float]]]:
    with closing(http.client.HTTPConnection(*proxy.place("admin"), timeout=100)) as connection:
        for page in pages:
            taken = []
            octets = 0
            for _ in range(ROUNDS):
                began = time.perf_counter()
                connection.request("GET", page)
                answer = connection.getresponse()
                octets = len(answer.read())
                taken.append((time.perf_counter() - began) * 1e3)
                if answer.status != 200:
                    raise SystemExit(f"{page}: status {answer.status}")
            yield page, octets, taken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, to see that it works")
    part = 10 if parser.parse_args().quick else 1
    accounts = 100 // part
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        write_history(state / FILE_NAME, 100_000 // part)
        accounts_file(Path(folder) / "accounts.toml", accounts)
        # Nobody answers there, so all mail stays in the spool.
        variables = {
            "ACCOUNTS_FILE": f"{folder}/accounts.toml", "STATE_DIR": str(state), "ADMIN_BIND_PORT": "0",
            "RELAY_PLUGIN": "spool", "MAILDROP_PLUGIN": "none",
            "BACKEND_SMTP_HOST": "127.0.0.1", "BACKEND_SMTP_PORT": "1", "LOG_LEVEL": "info",
        }  # fmt: skip
        with running(variables) as proxy:
            fill_spool(proxy, 10_000 // part, accounts)
            rows = list(asked(proxy, PAGES))
    width = max(len(page) for page, _, _ in rows)
    print(f"| {'page':<{width}} | octets | median | worst | target |\n|{'-' * (width + 2)}|---|---|---|---|")
    for page, octets, taken in rows:
        median = statistics.median(taken)
        print(f"| {page:<{width}} | {octets:7,} | {median:5.0f} ms | {max(taken):5.0f} ms | {TARGET_MS} ms |")
    return int(any(statistics.median(taken) > TARGET_MS for _, _, taken in rows))


if __name__ == "__main__":
    sys.exit(main())
