"""A reverse proxy as small as can be: it has the page below a path of its own, and hands on what comes bit by bit."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

PATH = "/mail/proxy/"
_OF_A_CONNECTION = ("connection", "keep-alive", "transfer-encoding", "server", "date")


@contextmanager
def below(page: str) -> Iterator[str]:
    """The address of the page behind it."""
    with _Server(("127.0.0.1", 0), page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{PATH}"
        finally:
            server.shutdown()
            thread.join(20)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], page: str) -> None:
        super().__init__(address, _Handler)
        self.behind = urlsplit(page).netloc


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def _forward(self) -> None:
        if not self.path.startswith(PATH):
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        with closing(http.client.HTTPConnection(self.server.behind, timeout=50)) as behind:
            behind.request(self.command, self.path.removeprefix(PATH[:-1]), body, dict(self.headers.items()))
            answer = behind.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _OF_A_CONNECTION:
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            try:
                while piece := answer.read1(65536):
                    self.wfile.write(piece)
            except OSError:
                pass  # the browser went away

    do_GET = do_POST = _forward  # the names that http.server calls

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (named so by http.server)
        """Nothing on the tests' standard error."""
