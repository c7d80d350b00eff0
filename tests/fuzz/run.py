"""`python tests/fuzz/run.py SECONDS [TARGET]`: Atheris on one target or on all, one for each processor at a time.

Atheris makes octets and keeps those that reach new branches of our code. It wants `pip install atheris`, whose wheels
are for some Pythons and machines only; without it this says so and is no failure. What a target fails on becomes a file
of its corpus, named `crash-…`; mend the code, give the file a name that says what it is, and pytest reads it for ever.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).parents[1]
MAX_OCTETS = 4096


def fuzz(name: str, seconds: int) -> None:
    """In a process of its own: Atheris ends it."""
    import atheris

    with atheris.instrument_imports(include=["legacy_email_proxy", "legacy_email_proxy_plugins"]):
        from fuzz.targets import CORPUS, TARGETS
    from fuzz.target import cuts_for

    run, kept = TARGETS[name].run, CORPUS / name
    kept.mkdir(parents=True, exist_ok=True)

    def one_input(octets: bytes) -> None:
        run(octets, cuts_for(octets))

    with tempfile.TemporaryDirectory() as folder:
        words = Path(folder) / "words"
        words.write_text("".join(f'"{_quoted(word)}"\n' for word in TARGETS[name].words if len(word) <= 64))
        grown = Path(folder) / "grown"
        grown.mkdir()
        options = [
            *(
                f"-max_total_time={seconds}",
                f"-max_len={MAX_OCTETS}",
                "-timeout=60",
                "-rss_limit_mb=1024",
                "-verbosity=0",
            ),
            *("-print_final_stats=1", f"-dict={words}", f"-artifact_prefix={kept}/", str(grown), str(kept)),
        ]
        atheris.Setup([sys.argv[0], *options], one_input, internal_libfuzzer=True)
        atheris.Fuzz()


def _quoted(word: bytes) -> str:
    return "".join(f"\\x{octet:02x}" for octet in word)


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--one"]:
        fuzz(arguments[1], int(arguments[2]))
        return 0
    if importlib.util.find_spec("atheris") is None:
        print("Atheris is not installed here, so nothing is fuzzed; pytest has tried the targets with hypothesis")
        return 0
    from fuzz.targets import TARGETS

    with ThreadPoolExecutor(os.cpu_count()) as both:
        outcomes = list(both.map(lambda name: tried(name, arguments[0]), arguments[1:] or TARGETS))
    return 0 if all(outcomes) else 1


def tried(name: str, seconds: str) -> bool:
    """One target in a process of its own; whether nothing was found."""
    command = [sys.executable, __file__, "--one", name, seconds]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    said = done.stdout + done.stderr
    inputs = [line.split()[-1] for line in said.splitlines() if "number_of_executed_units" in line]
    print(f"{name:16} {inputs[0] if inputs else '?':>8} inputs: {'FAILED' if done.returncode else 'nothing found'}")
    if done.returncode:
        print(said[-4000:])
    return done.returncode == 0


if __name__ == "__main__":
    sys.path.insert(0, str(TESTS))
    sys.exit(main(sys.argv[1:]))
