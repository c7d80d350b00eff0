"""Restarts two proxies in turn behind HAProxy while devices send and fetch: `python tests/bench/rolling.py`.

Prints what became of each message, and how long devices waited. `--rounds`, `--clients` and `--pause` say how much is
done. Exit status 1: a message was lost or came twice, or a device was not served in the end.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from interop.rolling import Rolling
from realservers.certificates import Certificates
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix
from realservers.postgres import Postgres

WARM_UP_SECONDS = 5.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often both are restarted")
    parser.add_argument("--clients", type=int, default=50, help="half of them send, half of them fetch")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between a device's sessions, on average")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        certificates = Certificates.write(Path(folder))
        with (
            Dovecot.start(certificates.good) as dovecot,
            Postfix.start(certificates.good, dovecot) as postfix,
            # As a site has it: a commit is on the disk.
            Postgres.start({"fsync": "on"}) as postgres,
            Rolling(dovecot, postfix, postgres, mailboxes=10) as rolling,
        ):
            half = options.clients // 2
            rolling.begin(options.clients - half, half, options.pause)
            time.sleep(WARM_UP_SECONDS)
            took = [rolling.restart(name) for _ in range(options.rounds) for name in ("one", "two")]
            rolling.settle()
    rows = [
        ("devices", f"{options.clients}"),
        ("restarts", f"{len(took)}, each {min(took):.1f} to {max(took):.1f} s"),
        *rolling.found.rows(),
    ]
    width = max(len(what) for what, _ in rows)
    for what, figure in rows:
        print(f"{what:<{width}}  {figure}")
    found = rolling.found
    return 1 if found.lost or found.doubled or found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
