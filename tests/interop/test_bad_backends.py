"""What the device reads and what the log says when a backend is down, wrong, or not who it should be."""

from __future__ import annotations

import contextlib
import poplib
import re
import smtplib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from interop.proxy import Proxy, backends, run, running
from realservers.accounts import Account
from realservers.certificates import Certificates
from realservers.dovecot import Dovecot
from realservers.postfix import Postfix
from realservers.processes import free_ports, wait_until


@contextlib.contextmanager
def recorder(greeting: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A listener without TLS that says ``greeting`` and hangs up; it records what it was sent."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        stopping = threading.Event()

        def serve() -> None:
            while not stopping.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(1)
                    connection.sendall(greeting)
                    seen.append(connection.recv(65536))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], seen
        finally:
            stopping.set()
            thread.join()


def read(address: tuple[str, int]) -> str:
    """What PASS is answered."""
    client = poplib.POP3(*address, timeout=30)
    client.user("any")
    try:
        client.pass_("thing")
    except poplib.error_proto as refused:
        return str(refused.args[0], "ascii") if isinstance(refused.args[0], bytes) else str(refused)
    finally:
        client.close()
    return "+OK"


def send(address: tuple[str, int], recipient: str = "alice@example.test") -> str:
    """What the first command that is refused is answered."""
    with smtplib.SMTP(*address, timeout=30) as smtp:
        smtp.ehlo()
        steps: tuple[Callable[[], tuple[int, bytes]], ...] = (
            lambda: smtp.mail("scanner@example.test"),
            lambda: smtp.rcpt(recipient),
            lambda: smtp.data(b"Subject: x\r\n\r\nx\r\n"),
        )
        for step in steps:
            code, text = step()
            if code >= 400:
                break
        return f"{code} {text.decode()}"


CASES = {
    "down": ("[SYS/TEMP]", "451 4.4.1", "BACKEND_{}_HOST"),
    "no_such_host": ("[SYS/TEMP]", "451 4.4.1", "BACKEND_{}_HOST"),
    "wrong_password": ("[SYS/TEMP]", "451 4.7.0", "BACKEND_{}_PASS"),
    "wrong_ca": ("[SYS/TEMP]", "451 4.7.5", "BACKEND_{}_CA_FILE"),
}


def variables(case: str, good: dict[str, str], certificates: Certificates) -> dict[str, str]:
    changed = dict(good)
    for leg in ("IMAP", "SMTP"):
        match case:
            case "down":
                changed[f"BACKEND_{leg}_PORT"] = str(free_ports(1)[0])
            case "no_such_host":
                changed[f"BACKEND_{leg}_HOST"] = "does-not-exist.invalid"
            case "wrong_password":
                changed[f"BACKEND_{leg}_PASS"] = "not this"
            case "wrong_ca":
                changed[f"BACKEND_{leg}_CA_FILE"] = str(certificates.other_ca_file)
    return changed


def logged(proxy: Proxy, words: str, what: str) -> list[str]:
    """The lines with these words that name it, of which there is at least one."""

    def lines() -> list[str]:
        return [line for line in proxy.lines(words) if what in line]

    wait_until(lambda: bool(lines()), f"the log names {what}", 20)
    return lines()


@pytest.mark.parametrize("case", CASES)
def test_the_device_and_the_log(
    case: str, dovecot: Dovecot, postfix: Postfix, account: Account, certificates: Certificates
) -> None:
    code, reply, look_at = CASES[case]
    changed = variables(case, backends(dovecot, postfix, account), certificates)
    with running(changed) as proxy:
        assert f"-ERR {code}" in read(proxy.pop3)
        assert send(proxy.smtp).startswith(reply)
        for words, leg in (("pop3", "IMAP"), ("smtp", "SMTP")):
            assert len(logged(proxy, f" {words} ", look_at.format(leg))) == 1, proxy.log
        assert account.password not in proxy.log


@pytest.mark.parametrize("case", CASES)
def test_check_says_it_in_words(
    case: str, dovecot: Dovecot, postfix: Postfix, account: Account, certificates: Certificates
) -> None:
    changed = variables(case, backends(dovecot, postfix, account), certificates)
    done = run("check", **changed)
    assert done.returncode == 1, done.stdout + done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert {line.split()[1] for line in failed} == {"maildrop", "relay"}
    assert all(" -> " in line for line in failed), done.stdout
    assert done.stderr == ""


def test_check_of_good_backends(dovecot: Dovecot, postfix: Postfix, account: Account) -> None:
    dovecot.add_message(account.name, b"Subject: x\r\n\r\nx\r\n")
    done = run("check", **backends(dovecot, postfix, account))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not any(line.startswith("FAILED") for line in done.stdout.splitlines())
    assert "UIDPLUS" in done.stdout
    assert "1 message" in done.stdout
    assert "SIZE" in done.stdout or "octets" in done.stdout
    assert account.password not in done.stdout


@pytest.mark.parametrize("which", ["expired", "wrong_host", "other_ca"])
def test_a_certificate_that_does_not_verify(
    which: str, certificates: Certificates, dovecot: Dovecot, postfix: Postfix, account: Account
) -> None:
    certificate = getattr(certificates, which)
    with Dovecot.start(certificate) as bad_imap, Postfix.start(certificate, bad_imap) as bad_smtp:
        changed = backends(bad_imap, bad_smtp, account)
        for leg in ("IMAP", "SMTP"):
            changed[f"BACKEND_{leg}_CA_FILE"] = str(certificates.ca_file)
            changed[f"BACKEND_{leg}_HOST"] = "127.0.0.1"
        with running(changed) as proxy:
            assert "-ERR [SYS/TEMP]" in read(proxy.pop3)
            assert send(proxy.smtp).startswith("451 4.7.5")
        # Nothing was said to a server that could not prove who it is.
        assert bad_imap.logged(r"\(no auth attempts")
        assert not re.search(r"(?<!no )auth attempts|auth failed|Login:", bad_imap.log)
        assert "sasl_username" not in bad_smtp.log


@pytest.mark.parametrize("leg", ["IMAP", "SMTP"])
def test_nothing_is_sent_to_a_server_without_tls(
    leg: str, dovecot: Dovecot, postfix: Postfix, account: Account
) -> None:
    greeting = b"* OK ready\r\n" if leg == "IMAP" else b"220 ready\r\n"
    with recorder(greeting) as (port, seen):
        changed = backends(dovecot, postfix, account) | {f"BACKEND_{leg}_PORT": str(port)}
        with running(changed) as proxy:
            if leg == "IMAP":
                assert "-ERR [SYS/TEMP]" in read(proxy.pop3)
            else:
                assert send(proxy.smtp).startswith("451 4.7.5")
    assert seen
    assert all(octets[:1] in (b"\x16", b"") for octets in seen), seen


def test_the_start_needs_no_backend(
    dovecot: Dovecot, postfix: Postfix, account: Account, certificates: Certificates
) -> None:
    down = variables("down", backends(dovecot, postfix, account), certificates)
    with running(down) as proxy:
        for address, greeting in ((proxy.smtp, b"220 "), (proxy.pop3, b"+OK ")):
            with socket.create_connection(address, timeout=50) as connection:
                assert connection.recv(100).startswith(greeting)


def test_a_backend_that_never_answers_does_not_hold_the_stop(
    dovecot: Dovecot, postfix: Postfix, account: Account
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = str(silent.getsockname()[1])
        changed = backends(dovecot, postfix, account) | {"DRAIN_SECONDS": "0.2"}
        changed |= {"BACKEND_IMAP_PORT": port, "BACKEND_SMTP_PORT": port}
        with running(changed) as proxy, contextlib.ExitStack() as clients:
            commands = {proxy.pop3: b"USER a\r\nPASS b\r\n", proxy.smtp: b"HELO x\r\nMAIL FROM:<a@b>\r\n"}
            for address, lines in commands.items():
                client = clients.enter_context(socket.create_connection(address, timeout=50))
                client.sendall(lines)
                clients.enter_context(silent.accept()[0])
            began = time.monotonic()
            assert proxy.stop() == 0
            assert time.monotonic() - began < 10
