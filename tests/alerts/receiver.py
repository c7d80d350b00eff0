"""A web server that takes what is POSTed to it, and answers with the statuses that a test wants."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    def __init__(self, port: int, scheme: str, statuses: list[int]) -> None:
        self.url = f"{scheme}://localhost:{port}/hooks/T0P-s3cret"
        self.statuses = statuses
        self.received: list[Any] = []
        self.types: list[str | None] = []
        self.go_on = threading.Event()
        self.go_on.set()


@contextmanager
def receiving(*, tls: ssl.SSLContext | None = None, statuses: Sequence[int] = ()) -> Iterator[Receiver]:
    """`statuses` are those of the first answers; later ones are 204. While `go_on` is clear, there is no answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.received.append(json.loads(content))
            receiver.types.append(self.headers["Content-Type"])
            receiver.go_on.wait(60)
            self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
            self.send_header("Location", receiver.url)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that left, or did not trust the certificate."""

    with Server(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        receiver = Receiver(server.server_port, "https" if tls else "http", list(statuses))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield receiver
        finally:
            receiver.go_on.set()
            server.shutdown()
            thread.join()
