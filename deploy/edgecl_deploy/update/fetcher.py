"""Fetches the bytes of a channel, over HTTP or from a folder, bounded in time and length.

Laws: only the transport is checked here, python-tuf checks the bytes; every wait ends by the
deadline of its file (`wire.py`), and hears a request to stop within a second; nothing is
decompressed; a file is in `part` while it arrives, so no temporary folder of the system (often
memory) is used; no message repeats a password.
"""

import hashlib
import io
import os
import re
import stat
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urljoin, urlsplit

import urllib3
from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    LengthOrHashMismatchError,
    RepositoryError,
    SlowRetrievalError,
)
from tuf.ngclient.fetcher import FetcherInterface
from urllib3.response import BaseHTTPResponse

from edgecl_deploy import __version__
from edgecl_deploy.errors import OptionError, one_line, shown
from edgecl_deploy.stopping import never
from edgecl_deploy.update.access import HINT, authorization, plain_url, proxy_of
from edgecl_deploy.update.wire import Clock, timed_context, timed_pools

_REDIRECTS = 2
_CHUNK = 64 * 1024  # bytes of one read
_SMALL = 16 * 1024  # bytes of an error's body that are read, to keep the connection
_BRIEF = 300.0  # seconds for a file of metadata
_WINDOW = 30.0  # seconds over which the lowest rate is measured
_SHELF_LIFE = 7 * 86400  # seconds that a partial file is kept
_LONGEST_WAIT = 4 * 3600  # seconds that a server may ask a device to wait
Chunks = Generator[bytes, None, None]
_WANT_A_PASSWORD = {401, 407}  # the status of a site's and of a proxy's answer
_CONTENT = re.compile(r"/[0-9a-f]{64}\.[^/?#]+")  # ends the URL of a file that cannot change


class Fetcher(FetcherInterface):
    """Fetches files for python-tuf; for one thread.

    A target that was cut off continues where it ended, also in another process: its URL holds its
    digest, so the content cannot have changed, and the whole file is verified in the end.

    Args:
        part: The folder of partial files.
        folder: The only folder that files are read from; no link out of it is followed. None
            refuses every path and `file://` URL.
        rate_kbps: Kilobytes (1000 bytes) per second that are taken at most; None for no limit.
        deadline: Seconds for one file, from the request to the last byte. A target that needs
            longer continues at the next poll.
        silence: Seconds to connect, and between two arrivals.
        slowest_kbps: Kilobytes per second that half a minute must bring on average.
        stop_requested: Whether the process is asked to stop.

    Attributes:
        received: Bytes of bodies that came over the network or out of the folder.
        requests: Requests that were made, redirects included.
        retry_after: Seconds that the server last asked to wait; None if it did not.
        resumed: Whether the last target began with bytes of an earlier attempt.
    """

    def __init__(
        self,
        part: Path,
        *,
        folder: Path | None = None,
        rate_kbps: float | None = None,
        deadline: float = 1800.0,
        silence: float = 20.0,
        slowest_kbps: float = 0.5,
        stop_requested: Callable[[], bool] = never,
    ) -> None:
        self.received = 0
        self.requests = 0
        self.retry_after: float | None = None
        self.resumed = False
        self._part = part
        self._folder = folder
        self._rate = None if rate_kbps is None else 1000 * rate_kbps
        self._slowest = 1000 * min(slowest_kbps, (rate_kbps or slowest_kbps * 2) / 2)
        self._deadline = deadline
        self._clock = Clock(silence, stop_requested)
        self._free = 0.0  # when the limited line is free again
        self._managers: dict[tuple[str, str], urllib3.PoolManager] = {}

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Let no file that is fetched in the block end later than in so many seconds."""
        self._clock.latest = time.monotonic() + seconds
        try:
            yield
        finally:
            self._clock.latest = float("inf")

    # -- what python-tuf calls ------------------------------------------------------------------

    def _fetch(self, url: str) -> Iterator[bytes]:
        self._clock.start(self._deadline)
        return self._open(url, 0)[1]

    @contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[IO[bytes]]:
        """Fetch a file, and remove the partial one when the caller has checked it.

        Args:
            max_length: Its bytes, or the most that they may be.

        Yields:
            The open file, at its beginning.

        Raises:
            DownloadLengthMismatchError: It is longer than `max_length`.
            LengthOrHashMismatchError: The caller found that it holds other bytes.
        """
        self.resumed = False
        if not _CONTENT.fullmatch(url, url.rfind("/")):
            self._clock.start(min(self._deadline, _BRIEF))
            with io.BytesIO() as memory:
                self._fill(memory, url, max_length, 0)
                yield memory
            return
        self._clock.start(self._deadline)
        path = self._part / hashlib.sha256(url.encode()).hexdigest()
        with _opened(path) as file:
            offset = file.seek(0, os.SEEK_END)
            if offset > max_length:
                offset = 0
            self.resumed = offset > 0
            try:
                if offset < max_length or max_length == 0:
                    self._fill(file, url, max_length, offset)
                file.seek(0)
                yield file
            except (DownloadLengthMismatchError, LengthOrHashMismatchError):
                path.unlink(missing_ok=True)
                raise
        path.unlink(missing_ok=True)

    def sweep(self, now: float) -> None:
        """Remove partial files that were not continued for a week."""
        for path in self._part.iterdir():
            if now - path.lstat().st_mtime > _SHELF_LIFE:
                path.unlink()

    # -- one file -------------------------------------------------------------------------------

    def _fill(self, file: IO[bytes], url: str, max_length: int, offset: int) -> None:
        size, chunks = self._open(url, offset)
        self.resumed = size > 0
        file.seek(size)
        file.truncate()
        with closing(chunks):
            for chunk in chunks:
                self.received += len(chunk)
                size += len(chunk)
                if size > max_length:
                    raise DownloadLengthMismatchError(f"{url} is longer than {max_length} bytes")
                file.write(chunk)
        file.seek(0)

    def _open(self, url: str, offset: int) -> tuple[int, Chunks]:
        """Begin to read at `offset`, or at 0 if the server cannot; return the offset that it is.

        Raises:
            RepositoryError: The answer is encoded.
        """
        path = local_path(url)
        if path is not None:
            return offset, self._read_local(path, offset)
        with _named(url):
            response = self._request(url, offset)
            if offset and not _continues(response, offset):
                response.close()
                response, offset = self._request(url, 0), 0
            if response.status == 200:
                offset = 0  # the server knows no ranges: all of it comes again
            elif response.status != 206 or not offset:
                self._refuse(url, response)
            encoding = response.headers.get("Content-Encoding", "identity")
            if encoding != "identity":
                response.close()
                raise RepositoryError(f"{url} came encoded as {shown(encoding)}")
        return offset, self._read_web(url, response)

    # -- from the web ---------------------------------------------------------------------------

    def _request(self, url: str, offset: int) -> BaseHTTPResponse:
        headers = {"Accept-Encoding": "identity", "User-Agent": f"edgecl-device/{__version__}"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        for _ in range(_REDIRECTS + 1):
            self.requests += 1
            left = self._clock.left()
            response = self._manager(url).request(
                "GET",
                url,
                headers=headers | authorization(url),
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=urllib3.Timeout(connect=left, read=left),
            )
            location = response.get_redirect_location()
            if not location:
                return response
            response.close()
            url = _redirected(url, location)
        raise DownloadError(f"more than {_REDIRECTS} redirects")

    def _manager(self, url: str) -> urllib3.PoolManager:
        proxy, headers = proxy_of(url) or ("", {})
        scheme = urlsplit(url).scheme
        if (scheme, proxy) not in self._managers:
            tls = timed_context(self._clock) if "https" in {scheme, proxy[:5]} else None
            made = urllib3.PoolManager(ssl_context=tls)
            if proxy:
                made = urllib3.ProxyManager(
                    proxy, proxy_headers=headers, proxy_ssl_context=tls, ssl_context=tls
                )
            made.pool_classes_by_scheme = timed_pools(self._clock)
            self._managers[scheme, proxy] = made
        return self._managers[scheme, proxy]

    def _read_web(self, url: str, response: BaseHTTPResponse) -> Chunks:
        size = _CHUNK if self._rate is None else max(1, min(_CHUNK, int(self._rate / 4)))
        with _named(url):
            try:
                begin, count = time.monotonic(), 0
                while chunk := response.read1(size, decode_content=False):
                    yield chunk
                    begin, count = self._paced(begin, count + len(chunk))
                    self._wait(len(chunk))
            finally:
                response.close()

    def _paced(self, begin: float, count: int) -> tuple[float, int]:
        """Begin the next window if this one is over.

        Raises:
            SlowRetrievalError: It brought too little.
        """
        lasted = time.monotonic() - begin
        if lasted < _WINDOW:
            return begin, count
        if count < self._slowest * lasted:
            raise SlowRetrievalError(f"only {count} bytes came in {lasted:.0f} s")
        return begin + lasted, 0

    def _wait(self, count: int) -> None:
        if self._rate is not None:
            now = time.monotonic()
            self._free = max(self._free, now) + count / self._rate
            self._clock.pause(self._free - now)

    def _refuse(self, url: str, response: BaseHTTPResponse) -> None:
        self._note_retry_after(response.headers.get("Retry-After"))
        if response.length_remaining is not None and response.length_remaining <= _SMALL:
            self.received += len(response.read(decode_content=False))
        response.close()
        hint = f": {HINT}" if response.status in _WANT_A_PASSWORD else ""
        raise DownloadHTTPError(f"{url} answered {response.status}{hint}", response.status)

    def _note_retry_after(self, header: str | None) -> None:
        if header is not None:
            try:
                wait = urllib3.Retry().parse_retry_after(header[:100])
            except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
                return
            self.retry_after = min(wait, _LONGEST_WAIT)

    # -- from a folder --------------------------------------------------------------------------

    def _read_local(self, path: Path, offset: int) -> Chunks:
        self.requests += 1
        with _named(str(path)), self._opened_local(path) as file:
            file.seek(offset)
            while chunk := file.read(_CHUNK):
                yield chunk
                self._clock.left()

    def _opened_local(self, path: Path) -> IO[bytes]:
        real = Path(os.path.realpath(path))
        if self._folder is None or not real.is_relative_to(os.path.realpath(self._folder)):
            raise RepositoryError(f"{path} is outside of {self._folder}")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            handle = os.open(real, flags)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DownloadHTTPError(f"{path} is not there", 404) from error
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise RepositoryError(f"{path} is no plain file")
        return os.fdopen(handle, "rb")


def local_path(url: str) -> Path | None:
    """Return the path that a `file://` URL or a plain path names; None for HTTP.

    Args:
        url: Of a channel, or of one of its files.

    Raises:
        OptionError: The URL is of another kind.
    """
    if "://" not in url:
        return Path(url)
    parts = urlsplit(url)
    if parts.scheme in {"http", "https"} and parts.hostname:
        return None
    if parts.scheme == "file" and parts.netloc in {"", "localhost"}:
        return Path(unquote(parts.path))
    raise OptionError(
        "a channel must be at http://, https:// or file:// or in a folder",
        shown(plain_url(url)),
        "Correct the URL in the store's config.json.",
    )


def _continues(response: BaseHTTPResponse, offset: int) -> bool:
    """Return whether an answer is not about another range."""
    begins = response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
    return begins if response.status == 206 else response.status != 416


def _redirected(url: str, location: str) -> str:
    target = urljoin(url, location)
    before, after = urlsplit(url).scheme, urlsplit(target).scheme
    if after != "https" and (before, after) != ("http", "http"):
        raise DownloadError(f"redirected from {before} to {shown(after)}")
    parts = urlsplit(target)  # a redirect names no user, but may have a query
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _opened(path: Path) -> IO[bytes]:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "r+b")


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Turn the errors of the network or a folder into python-tuf's.

    Raises:
        SlowRetrievalError: It was too slow.
        DownloadError: It failed.
    """
    try:
        yield
    except (TimeoutError, urllib3.exceptions.TimeoutError) as error:
        raise SlowRetrievalError(f"{url}: {one_line(error)}") from error
    except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
        raise DownloadError(f"{url}: {one_line(error)}") from error
