"""Attacks of the machine itself: its log reader, signals, database, disk, name server and local users."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from abuse.crowd import Crowd
from abuse.scene import Attack, Scene
from realservers.postgres import Postgres
from realservers.processes import require, wait_until

ADDRESS = "127.0.0.11"
MAIL = b"EHLO x\r\nMAIL FROM:<a@example.test>\r\nRCPT TO:<b@example.test>\r\nDATA\r\nSubject: %b\r\n\r\nx\r\n.\r\n"
PATIENCE_SECONDS = 60
"""An old device hangs up after about so long, and sends again."""


def log_reader(scene: Scene) -> None:
    """Standard error is a pipe that nobody reads: once it is full, a write to it waits for ever."""
    with Crowd() as crowd:
        for _ in range(scene.size(12, 6)):
            peers = crowd.connect(scene.ports["smtp"], ADDRESS, 100)
            crowd.talk(peers, (b"", 1), (b"QUIT\r\n", 1), seconds=1.5)


def sighup(scene: Scene) -> None:
    """SIGHUP in the first quarter of a second: what has no handler yet ends the process.

    Time counts from when the interpreter runs. Before our first module is loaded nobody can do anything about it, so
    what comes in the first tenth of a second is only noted.
    """
    died = []
    for milliseconds in (25, 50, 100, 150, 200, 250)[:: scene.size(1, 2)]:
        process = scene.start()
        wait_until(lambda pid=process.pid: _catches_sigint(pid), "the interpreter runs", 20)  # type: ignore[misc]
        time.sleep(milliseconds / 1000)
        process.send_signal(signal.SIGHUP)
        with suppress(subprocess.TimeoutExpired):
            process.wait(2)
            died.append(milliseconds)
        if process.poll() is None:
            process.terminate()
            process.wait(20)
    if died:
        scene.note(f"SIGHUP after {', '.join(map(str, died))} ms ended it")
    if any(milliseconds >= 100 for milliseconds in died):
        scene.bad("SIGHUP ended it")


def _catches_sigint(pid: int) -> bool:
    """Python's first handler of its own is there."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) & (1 << (signal.SIGINT - 1)))


def socket_garbage(scene: Scene) -> None:
    """Garbage on the spool's socket, which every local user with the same uid can reach."""
    path = next(each for each in (scene.folder / "state").rglob("*") if each.is_socket())
    garbage = (
        b"",
        b"\n",
        b"\0" * 1000,
        b"\xff\xfe\n",
        b"{}\n",
        b"[]\n",
        b'{"command": 1}\n',
        b"x" * 300_000,
        b"{" * 5000 + b"\n",
    )
    for octets in garbage * scene.size(20, 4):
        with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(0.2)
            client.connect(str(path))
            client.sendall(octets)
            with suppress(OSError):
                client.recv(1000)


def _stopped_store(scene: Scene, stop: Callable[[], None], go_on: Callable[[], None]) -> None:
    """Send while the store is stopped, and compare what was answered with what the provider gets afterwards."""
    seconds = scene.size(75, 6)
    with Crowd() as crowd:
        stop()
        began = time.monotonic()
        try:
            peers = crowd.connect(scene.ports["smtp"], ADDRESS, 5)
            for number, peer in enumerate(peers):
                crowd.say(MAIL % b"stopped %d" % number, [peer])
            answered = crowd.pump(seconds, lambda: all(p.closed or _final(p.tail) for p in peers))
            took = time.monotonic() - began
            crowd.pump(max(0, seconds - took))
        finally:
            go_on()
        refused = [number for number, peer in enumerate(peers) if _final(peer.tail)[:1] in (b"4", b"5")]
        scene.note(f"answered after {took:.0f} s: {len(refused)} refused" if answered else f"no answer in {took:.0f} s")
        if not answered and seconds > PATIENCE_SECONDS:
            scene.bad(f"a device waited {took:.0f} s without an answer")
        crowd.pump(3, lambda: all(peer.closed or _final(peer.tail) for peer in peers))
        refused = [number for number, peer in enumerate(peers) if _final(peer.tail)[:1] in (b"4", b"5")]
        time.sleep(2)
        subjects = scene.counted()["subjects"]
        doubled = [number for number in refused if f"stopped {number}" in subjects]
        if doubled:
            scene.bad(f"{len(doubled)} messages were refused and delivered all the same")


def _final(tail: bytes) -> bytes:
    """The line after 354, or one that refuses earlier."""
    _, go_on, rest = tail.rpartition(b"\r\n354 ")
    lines = (rest if go_on else tail).split(b"\r\n")[1 if go_on else 0 : -1]
    return next((line for line in lines if go_on or line.startswith((b"4", b"5"))), b"")


def postgres_stopped(scene: Scene) -> None:
    """PostgreSQL is stopped (SIGSTOP) while devices send: it answers nothing, and closes nothing."""
    processes = [process for pid in scene.postgres.pids for process in _family(pid)]
    _stopped_store(scene, lambda: _signal(processes, signal.SIGSTOP), lambda: _signal(processes, signal.SIGCONT))


def _family(pid: int) -> list[psutil.Process]:
    leader = psutil.Process(pid)
    return [leader, *leader.children(recursive=True)]


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def with_postgres(scene: Scene) -> None:
    """A spool in a database of its own."""
    scene.postgres = scene.undo.enter_context(Postgres.start())
    scene.settings["SPOOL_URL"] = scene.postgres.new_database()


def disk_hung(scene: Scene) -> None:
    """The disk of the spool hangs: a sync does not return."""
    file = scene.folder / "hang"
    _stopped_store(scene, file.touch, lambda: file.unlink(missing_ok=True))


def hanging(scene: Scene) -> None:
    """The proxy gets a disk and a name server that can hang."""
    library = scene.folder / "hanging.so"
    source = Path(__file__).with_name("hanging.c")
    compiler = require("cc", "makes a disk that hangs")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    scene.settings |= {"LD_PRELOAD": str(library), "ABUSE_HANG": str(scene.folder / "hang")}


def dead_dns(scene: Scene) -> None:
    """Sixty clients of an account whose server's name nobody looks up, on both legs, beside another account's mail."""
    with Crowd() as crowd:
        smtp = crowd.connect(scene.ports["smtp"], ADDRESS, 60)
        pop3 = crowd.connect(scene.ports["pop3"], ADDRESS, 60)
        crowd.say(MAIL % b"dead", smtp)
        crowd.say(b"USER a\r\nPASS b\r\n", pop3)
        crowd.pump(scene.size(12, 5))


def two_accounts(scene: Scene) -> None:
    """One account for the attacker's address, whose name server is dead, and one for everybody else."""
    hanging(scene)
    file = scene.folder / "accounts.toml"
    file.write_text(
        '[accounts.dead]\nBACKEND_IMAP_HOST = "dead.example.test"\nBACKEND_SMTP_HOST = "dead.example.test"\n'
        'BACKEND_IMAP_USER = "x"\nBACKEND_IMAP_PASS = "y"\n'
        "[accounts.live]\n"
        f'[[rules]]\nnetwork = "{ADDRESS}"\naccount = "dead"\n[[rules]]\naccount = "live"\n'
    )
    file.chmod(0o600)
    # A name too, because a number needs no look-up.
    scene.settings |= {"ACCOUNTS_FILE": str(file), "BACKEND_IMAP_HOST": "localhost", "BACKEND_SMTP_HOST": "localhost"}


SPOOL = {"RELAY_PLUGIN": "spool"}
ATTACKS = (
    Attack("log-reader", log_reader, stalled_log=True),
    Attack("sighup", sighup, alone=True),
    Attack("spool-socket", socket_garbage, SPOOL),
    # Only one leg has a store; the other one, and stopping, must not notice.
    Attack("postgres-stopped", postgres_stopped, SPOOL, prepare=with_postgres, legs=("pop3",)),
    Attack("disk-hung", disk_hung, SPOOL, prepare=hanging, legs=("pop3",)),
    Attack("dead-dns", dead_dns, prepare=two_accounts),
)
