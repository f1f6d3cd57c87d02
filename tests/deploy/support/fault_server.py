"""A web server on loopback that serves a folder, and misbehaves on request."""

import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

_PIECE = 16 * 1024  # bytes of one write


@dataclass
class Fault:
    """What is wrong with the answers about some paths."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None  # instead of the file
    cut: int | None = None  # bytes of the body after which the connection ends
    piece: int = _PIECE  # bytes of one write
    pause: float = 0.0  # seconds after each piece
    slow_head: float = 0.0  # seconds after each byte of the head
    endless: bool = False  # the body again and again, chunked
    ranges: bool = True  # False: Range is ignored
    wrong_range: bool = False  # another part than the one that was asked for
    times: int | None = None  # how many requests it concerns; None for all


class FaultServer(ThreadingHTTPServer):
    """The server; its attributes hold what it did.

    Attributes:
        url: Where it is.
        faults: By a part of the path; the first that fits counts.
        asked: The paths of all requests, in order.
        heads: The heads of all requests.
        body_bytes: Bytes of bodies that were sent.
        wire_bytes: Bytes of requests and answers, heads included.
        connections: Connections that were made.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.faults: dict[str, Fault] = {}
        self.asked: list[str] = []
        self.heads: list[dict[str, str]] = []
        self.body_bytes = self.wire_bytes = self.connections = 0
        self.closing = threading.Event()

    def reset(self) -> None:
        """Forget the faults and the counts."""
        self.faults, self.asked, self.heads = {}, [], []
        self.body_bytes = self.wire_bytes = self.connections = 0

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing about a client that has hung up."""

    def fault(self, path: str) -> Fault:
        for part, fault in self.faults.items():
            if part in path and fault.times != 0:
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return Fault()


@contextmanager
def serving(folder: Path, tls: ssl.SSLContext | None = None) -> Iterator[FaultServer]:
    with FaultServer(folder) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
            server.url = f"https://localhost:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FaultServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 30

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        fault = self.server.fault(path)
        self.server.asked.append(path)
        self.server.heads.append(dict(self.headers.items()))
        self.server.wire_bytes += len(self.raw_requestline) + len(self.headers.as_bytes())
        status, body = self._body(path, fault)
        headers = {"Content-Length": str(len(body)), **fault.headers}
        if status == 200 and fault.ranges and (match := self._range()):
            start = int(match[1]) + fault.wrong_range
            status, body = (206, body[start:]) if start < len(body) else (416, b"")
            headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/*"
            headers["Content-Length"] = str(len(body))
        if fault.endless:
            del headers["Content-Length"]
            headers["Transfer-Encoding"] = "chunked"
        self._send_head(status, headers, fault)
        self._send_body(body, fault)

    def _body(self, path: str, fault: Fault) -> tuple[int, bytes]:
        file = self.server.folder / path.lstrip("/")
        if fault.status is not None:
            return fault.status, fault.content or b"sorry"
        if fault.content is not None:
            return 200, fault.content
        return (200, file.read_bytes()) if file.is_file() else (404, b"not here")

    def _range(self) -> re.Match[str] | None:
        return re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))

    def _send_head(self, status: int, headers: dict[str, str], fault: Fault) -> None:
        lines = [f"HTTP/1.1 {status} x", *(f"{name}: {text}" for name, text in headers.items())]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        if not fault.slow_head:
            self._send(head)
            return
        for byte in head:
            self._send(bytes([byte]))
            self.server.closing.wait(fault.slow_head)

    def _send(self, data: bytes) -> None:
        self.wfile.write(data)
        self.server.wire_bytes += len(data)

    def _send_body(self, body: bytes, fault: Fault) -> None:
        while True:
            for begin in range(0, min(len(body), fault.cut or len(body)), fault.piece):
                piece = body[begin : begin + fault.piece][: (fault.cut or len(body)) - begin]
                self._send(b"%x\r\n%s\r\n" % (len(piece), piece) if fault.endless else piece)
                self.server.body_bytes += len(piece)
                if fault.pause:
                    time.sleep(fault.pause)
            if not fault.endless or self.server.closing.is_set():
                break
        if fault.cut is not None or fault.endless:
            self.close_connection = True
