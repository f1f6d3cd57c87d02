"""A local web server for trying a channel: static files, and a count of the bytes that it sends."""

import os
import re
import threading
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)  # more digits are no file's
_CHUNK = 64 * 1024  # bytes
_FOR_EVER = "max-age=31536000, immutable"  # only timestamp.json ever changes


class Server:
    """Serves a folder on loopback while the `with` block lasts.

    Attributes:
        url: Where it is, without a slash at the end.
        bytes_sent: Bytes of all answers so far, headers included.
        requests: How many requests it has answered.
    """

    def __init__(
        self, site: str | os.PathLike[str], *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        """Bind a port.

        Args:
            port: 0 takes a free one.
        """
        self.bytes_sent = self.requests = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        handler = partial(_Handler, Path(site).resolve(), self._count)
        self._http = ThreadingHTTPServer((host, port), handler)
        self._http.daemon_threads = True
        self.url = f"http://{host}:{self._http.server_address[1]}"

    def _count(self, sent: int, requests: int = 0) -> None:
        with self._lock:
            self.bytes_sent += sent
            self.requests += requests

    def __enter__(self) -> "Server":
        self._thread = threading.Thread(target=self.run, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.shutdown()
        if self._thread is not None:
            self._thread.join()
        self.close()

    def run(self) -> None:
        """Answer until the process is interrupted."""
        self._http.serve_forever(poll_interval=0.02)

    def close(self) -> None:
        """Release the port."""
        self._http.server_close()


class _Counted:
    """An output stream that counts."""

    def __init__(self, stream: Any, count: Any) -> None:
        self._stream, self._count = stream, count

    def write(self, data: bytes) -> int:
        self._count(len(data))
        return int(self._stream.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds that a connection may be idle
    disable_nagle_algorithm = True

    def __init__(self, site: Path, count: Any, *args: Any) -> None:
        self._site, self._count = site, count
        super().__init__(*args)

    def setup(self) -> None:
        super().setup()
        self.wfile: Any = _Counted(self.wfile, self._count)

    def version_string(self) -> str:
        return "edgecl"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the client has gone, or reads too slowly
            self.close_connection = True

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self._count(0, 1)
        file = self._opened()
        if file is None:
            self._head(HTTPStatus.NOT_FOUND, 0)
            return
        with file:
            path = Path(file.name)
            size = os.fstat(file.fileno()).st_size
            begin, end = self._range(size)
            if begin >= end and size > 0:
                self._head(
                    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
                    0,
                    ("Content-Range", f"bytes */{size}"),
                )
                return
            headers = [
                ("Accept-Ranges", "bytes"),
                ("Cache-Control", "no-cache" if path.name == "timestamp.json" else _FOR_EVER),
                (
                    "Content-Type",
                    "application/json" if path.suffix == ".json" else "application/octet-stream",
                ),
            ]
            if end - begin < size:
                headers.append(("Content-Range", f"bytes {begin}-{end - 1}/{size}"))
                self._head(HTTPStatus.PARTIAL_CONTENT, end - begin, *headers)
            else:
                self._head(HTTPStatus.OK, size, *headers)
            if body:
                self._send(file, begin, end)

    def _head(self, status: HTTPStatus, length: int, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def _send(self, file: BinaryIO, begin: int, end: int) -> None:
        file.seek(begin)
        while begin < end and (chunk := file.read(min(_CHUNK, end - begin))):
            self.wfile.write(chunk)
            begin += len(chunk)

    def _opened(self) -> BinaryIO | None:
        """Open the plain file that is asked for; None if it is hidden, outside or unreadable."""
        try:
            path = self._path()
            return None if path is None else path.open("rb")
        except (OSError, ValueError, RuntimeError):  # too long, a loop of links, gone, not ours
            return None

    def _path(self) -> Path | None:
        parts = unquote(urlsplit(self.path).path).split("/")[1:]
        if any(not part or part.startswith(".") or "\0" in part for part in parts):
            return None
        path = self._site.joinpath(*parts).resolve()
        return path if path.is_relative_to(self._site) and path.is_file() else None

    def _range(self, size: int) -> tuple[int, int]:
        """Return begin and end of what is asked for: all of it where the range cannot be parsed."""
        found = _RANGE.fullmatch(self.headers.get("Range", ""))
        if found is None or not any(found.groups()):
            return 0, size
        first, last = found.groups()
        if not first:
            return max(0, size - int(last)), size
        return int(first), min(size, int(last) + 1) if last else size
