"""An S3 server in front of the real one that answers badly, by chance and the same way for the same seed."""

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("500", "503", "SlowDown", "refuses", "cuts the reply", "loses the reply", "is slow")
_ERROR = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>planted</Message></Error>'
_ANSWERS = {"500": (500, "InternalError"), "503": (503, "ServiceUnavailable"), "SlowDown": (503, "SlowDown")}


class BadServer(ThreadingHTTPServer):
    """Passes requests on; of each 100, `percent` meet a fault."""

    daemon_threads = True

    def __init__(self, upstream: str, seed: int, percent: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream.removeprefix("http://")
        self.percent = percent
        self.met: Counter[str] = Counter()
        self._draw = random.Random(seed)
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fault(self) -> str:
        """What happens to the next request; "" if nothing does."""
        with self._lock:
            found = self._draw.choice(FAULTS) if self._draw.uniform(0, 100) < self.percent else ""
            self.met[found] += 1
        return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: BadServer

    def handle_request(self) -> None:
        fault = self.server.fault()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault == "refuses":
            self.close_connection = True
            return
        if fault in _ANSWERS:
            status, code = _ANSWERS[fault]
            self._answer(status, [("Content-Type", "application/xml")], _ERROR.format(code=code).encode())
            return
        try:
            upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            reply = upstream.getresponse()
            data = reply.read()
        except OSError:  # the real server is down
            self.close_connection = True
            return
        if fault == "loses the reply":
            self.close_connection = True
            return
        if fault == "is slow":
            time.sleep(0.5)
        headers = [(n, v) for n, v in reply.getheaders() if n.lower() not in ("transfer-encoding", "connection")]
        self._answer(reply.status, headers, data, cut=fault == "cuts the reply")

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() != "content-length":
                self.send_header(name, value)
        length = next((value for name, value in headers if name.lower() == "content-length"), str(len(data)))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = cut

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request

    def log_message(self, *_: Any) -> None:
        return


@contextmanager
def bad_server(upstream: str, seed: int, percent: float) -> Iterator[BadServer]:
    """A BadServer that listens while the block runs."""
    server = BadServer(upstream, seed, percent)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
