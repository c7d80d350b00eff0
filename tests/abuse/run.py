"""Attacks the command and prints the table: `python tests/abuse/run.py [NAME …] [--small] [--json] [--rivals]`."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from abuse.attacks import ATTACKS
from abuse.measure import Row, table
from abuse.rivals import RivalScene
from abuse.scene import Scene


def attacked(name: str, *, small: bool, rival: bool = False) -> Row:
    """One attack, with all that it needs started and stopped; on the rival in our place, if that is wanted."""
    kind = RivalScene if rival else Scene
    with kind(ATTACKS[name], small=small) as scene:
        return scene.attacked()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which attacks; without one, all")
    parser.add_argument("--small", action="store_true", help="the numbers of CI")
    parser.add_argument("--json", action="store_true", help="one object per line instead of the table")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--rivals", action="store_true", help="attack Dovecot's POP3 and Postfix's SMTP instead")
    wanted = parser.parse_args()
    if wanted.list:
        for name, attack in ATTACKS.items():
            print(f"{name:18} {inspect.getdoc(attack.run)}")
        return 0
    if unknown := set(wanted.names) - set(ATTACKS):
        parser.error(f"no such attack: {', '.join(sorted(unknown))}")
    rows = []
    for name in wanted.names or ATTACKS:
        if wanted.rivals and not ATTACKS[name].rival:
            continue
        began = time.monotonic()
        rows.append(attacked(name, small=wanted.small, rival=wanted.rivals))
        said = f"{name}: {rows[-1].verdict} after {time.monotonic() - began:.0f} s" + "".join(
            f"; {fault}" for fault in rows[-1].faults
        )
        print(said, file=sys.stderr, flush=True)
        if wanted.json:
            print(json.dumps(rows[-1].as_json()), flush=True)
    if not wanted.json:
        print(table(rows))
    return int(any(row.faults for row in rows))


if __name__ == "__main__":
    sys.exit(main())
