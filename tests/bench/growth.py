"""How cost grows: `python tests/bench/growth.py [SUBJECT …] [--quick]`, one table of all subjects.

Each piece of work is done at several sizes, in a process of its own each time, and what is told is the CPU time and the
memory *for each unit*. Where that stays the same or gets less, the cost is linear or better. Where it grows from the
last size but one to the last by more than half, the table says so. It is CPU time, as others may use the machine too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.command import interpreter
from bench.growth_work import SIZES, WORK, Cost

_MORE_THAN_LINEAR = 1.5
_SECONDS = 3600


def measured(subject: str, size: int) -> list[Cost]:
    """In a new process, so that nothing is warm and no memory was used before."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", subject, str(size)],
        stdout=subprocess.PIPE, text=True, timeout=_SECONDS, check=True,
    )  # fmt: skip
    return [Cost(*each) for each in json.loads(done.stdout.splitlines()[-1])]


def rows(subject: str, sizes: Sequence[int]) -> list[tuple[str, ...]]:
    found: dict[str, list[tuple[int, Cost]]] = {}
    for size in sizes:
        for cost in measured(subject, size):
            found.setdefault(cost.step, []).append((size, cost))
        print(f"  {subject}: {size:,} done", file=sys.stderr, flush=True)
    return [
        (subject, step, *(_cell(size, cost) for size, cost in costs), _judged(costs)) for step, costs in found.items()
    ]


def _cell(size: int, cost: Cost) -> str:
    memory = "" if cost.octets is None else f", {max(cost.octets, 0) / 1024 / size:.3g} KiB"
    return f"{size:,}: {cost.seconds / size * 1e6:.3g} µs{memory}"


def _judged(costs: Sequence[tuple[int, Cost]]) -> str:
    *_, (before, less), (size, more) = costs
    growth = (more.seconds / size) / max(less.seconds / before, 1e-9)
    return "linear" if growth <= _MORE_THAN_LINEAR else f"× {growth:.1f} a unit"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=", ".join(WORK))
    parser.add_argument("--quick", action="store_true", help="without the largest size of each")
    parser.add_argument("--one", nargs=2, metavar=("SUBJECT", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        subject, size = options.one
        print(json.dumps([tuple(each) for each in WORK[subject](int(size))]))
        return 0
    if unknown := set(options.subjects) - set(WORK):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(WORK)}")
    table: list[tuple[str, ...]] = []
    for subject in options.subjects or WORK:
        table += rows(subject, SIZES[subject][: -1 if options.quick else None])
    print(f"\n{interpreter()}\n\n| what | step | CPU and memory for each unit | growth |\n|---|---|---|---|")
    for what, step, *cells, judged in table:
        print(f"| {what} | {step} | {' · '.join(cells)} | {judged} |")
    return int(any(each[-1] != "linear" for each in table))


if __name__ == "__main__":
    sys.exit(main())
