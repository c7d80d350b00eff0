"""Works the command for so long and accounts for every message: `python tests/soak/run.py MINUTES [--seed N]`."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from realservers.certificates import Certificates
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix
from realservers.postgres import Postgres
from realservers.server import Server
from soak.growth import Growth
from soak.proxies import three
from soak.readers import Reader
from soak.report import Report
from soak.senders import SECONDS, sending
from soak.troubles import Troubles

QUICK_POSTFIX = {
    "queue_run_delay": "2s",
    "minimal_backoff_time": "2s",
    "maximal_backoff_time": "5s",
    "service_throttle_time": "1s",
}
"""So that mail that waits for Dovecot does not wait five minutes."""
KINDS = ("small", "small", "pipelined", "large", "slow", "hangup", "garbage")
DRAIN_SECONDS = 180.0
HARVEST_SECONDS = 10.0


class Soak:
    """One run, with all that it needs started and stopped."""

    def __init__(self, minutes: float, seed: int, folder: Path) -> None:
        self._seconds = minutes * 60
        self._seed = seed
        self._folder = folder
        self._undo = ExitStack()
        self._clients: list[threading.Thread] = []
        self._died: list[str] = []

    def run(self) -> Report:
        with self._undo:
            certificates = Certificates.write(self._folder)
            self._dovecot = self._undo.enter_context(Dovecot.start(certificates.good))
            postfix = self._undo.enter_context(Postfix.start(certificates.good, self._dovecot, settings=QUICK_POSTFIX))
            postgres = self._undo.enter_context(Postgres.start())
            self._proxies = three(self._folder, self._dovecot, postfix, postgres)
            for proxy in self._proxies:
                proxy.start()
                self._undo.callback(proxy.discard)
            return self._work({"Dovecot": self._dovecot, "Postfix": postfix, "PostgreSQL": postgres})

    def _work(self, servers: dict[str, Server]) -> Report:
        troubles = Troubles(
            servers, self._proxies, random.Random(self._seed), seconds=self._seconds, folder=self._folder
        )
        growth = {proxy.name: Growth(proxy, min(2.0, self._seconds / 100)) for proxy in self._proxies}
        for each in growth.values():
            each.start()
        self._start_clients()
        troubles.start()
        self._undo.callback(troubles.stop)  # also where the run is interrupted: what it kills must not come back later
        began = time.monotonic()
        while time.monotonic() < began + self._seconds and not (troubles.failed or self._died):
            time.sleep(min(HARVEST_SECONDS, self._seconds / 10))
            self._harvest()
        troubles.stop()
        for proxy in self._proxies:
            proxy.road.ended.set()
        for each in growth.values():
            each.stop()
        deadline = time.monotonic() + SECONDS + 30
        for thread in self._clients:
            thread.join(max(0.1, deadline - time.monotonic()))
            if thread.is_alive():
                self._died.append(f"the client {thread.name} did not end")
        drained = self._drain()
        for proxy in self._proxies:
            proxy.stop()
        self._harvest()
        return Report(
            seed=self._seed,
            seconds=self._seconds,
            drained=drained,
            proxies=self._proxies,
            troubles=troubles.made,
            slopes={name: each.slopes(self._seconds) for name, each in growth.items()},
            faults=[*troubles.failed, *self._died],
            files=self._dovecot.files,
        )

    def _start_clients(self) -> None:
        for number, proxy in enumerate(self._proxies):
            for position, kind in enumerate(KINDS):
                # An address of its own for each: what one does badly is not held against another.
                source = f"127.0.{number + 1}.{position + 1}"
                chance = random.Random(f"{self._seed} {proxy.name} {position}")
                self._client(f"{proxy.name} {kind}", lambda a=(proxy.road, kind, source, chance): sending(*a))  # type: ignore[misc]
            for mailbox in proxy.mailboxes:
                chance = random.Random(f"{self._seed} {mailbox.user}")
                self._client(mailbox.user, Reader(proxy.road, mailbox, self._dovecot, chance).reading)

    def _client(self, name: str, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except Exception as error:  # in silence it would look like an idle client
                self._died.append(f"the client {name} failed: {type(error).__name__} {error}")

        self._clients.append(threading.Thread(target=guarded, name=name, daemon=True))
        self._clients[-1].start()

    def _harvest(self) -> None:
        for proxy in self._proxies:
            proxy.ledger.harvest(self._dovecot.files(proxy.sink.name))

    def _drain(self) -> float:
        """All servers are back and nobody sends: wait until what was accepted has arrived, and nothing more comes."""
        began = time.monotonic()
        before: Counter[str] = Counter()
        while time.monotonic() < began + DRAIN_SECONDS:
            self._harvest()
            now = sum((proxy.ledger.count() for proxy in self._proxies), Counter())
            if now == before and not now["lost"]:
                break
            before = now
            time.sleep(8)  # longer than a message waits for its next try
        return time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", type=float, metavar="MINUTES", help="how long the clients work")
    seed = random.randrange(1_000_000)
    parser.add_argument("--seed", type=int, default=seed, help="decides what goes wrong, and when")
    parser.add_argument("--folder", type=Path, help="where the logs are kept; without it they are removed at the end")
    wanted = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # nothing of the run is left running
    print(f"seed {wanted.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        folder = wanted.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        report = Soak(wanted.minutes, wanted.seed, folder).run()
    print(report)
    return int(bool(report.faults))


if __name__ == "__main__":
    sys.exit(main())
