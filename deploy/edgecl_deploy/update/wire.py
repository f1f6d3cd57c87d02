"""Sockets of which every wait ends in time: name service, connection, tunnel, TLS and bytes.

Laws: no wait is longer than the deadline of the file or the allowed silence; a request to stop is
heard within a second in all of them.
"""

import errno
import io
import os
import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError
from urllib3.util.ssl_ import create_urllib3_context

from edgecl_deploy.errors import StoppedError
from edgecl_deploy.stopping import never

_SLICE = 0.5  # seconds of a wait after which a request to stop is looked for
T = TypeVar("T")
_CONNECTING = {errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR}


class Clock:
    """The deadline of the file that is being fetched, and the request to stop.

    Args:
        silence: Seconds that one wait may take.
        stop_requested: Whether the process is asked to stop.
    """

    def __init__(self, silence: float, stop_requested: Callable[[], bool] = never) -> None:
        self._silence = silence
        self._stop_requested = stop_requested
        self._until = 0.0
        self.latest = float("inf")  # no file has a later deadline

    def start(self, seconds: float) -> None:
        """Begin a file that may take so long."""
        self._until = min(time.monotonic() + seconds, self.latest)

    def left(self) -> float:
        """Return how long the next wait may take, in seconds.

        Raises:
            TimeoutError: No time is left.
            StoppedError: The process is asked to stop.
        """
        if self._stop_requested():
            raise StoppedError(
                "a download goes on only while no stop is requested",
                "a request to stop",
                "The next update goes on where this one ended.",
            )
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline of the file has passed")
        return min(left, self._silence)

    def attempt(self, what: str, action: Callable[[float], T]) -> T:
        """Do something that may have to wait; between short waits look whether to go on.

        Args:
            what: What is waited for.
            action: Gets the seconds that it may wait; a TimeoutError of it lets it wait again.

        Raises:
            TimeoutError: It has waited too long.
        """
        allowed = self.left()
        until = time.monotonic() + allowed
        while (rest := until - time.monotonic()) > 0:
            with suppress(TimeoutError):
                return action(min(rest, _SLICE))
            self.left()
        raise TimeoutError(f"{what} timed out after {allowed:.1f} s")

    def pause(self, seconds: float) -> None:
        """Wait, unless the deadline passes or a stop is requested."""
        until = time.monotonic() + seconds
        while (rest := until - time.monotonic()) > 0:
            time.sleep(min(rest, _SLICE, self.left()))


class TimedSocket:
    """A socket that reads by the clock; everything else is passed to the socket."""

    def __init__(self, sock: Any, clock: Clock) -> None:
        self._sock, self._clock = sock, clock

    def recv_into(self, buffer: Any) -> int:
        """Read into a buffer; return how many bytes came."""

        def read(wait: float) -> int:
            self._sock.settimeout(wait)
            return int(self._sock.recv_into(buffer))

        return self._clock.attempt("a read", read)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Read up to so many bytes; urllib3 reads TLS in TLS by this."""
        buffer = bytearray(size)
        return bytes(buffer[: self.recv_into(buffer)])

    def makefile(self, *_args: Any, **_options: Any) -> io.BufferedReader:
        """Return a file that reads this socket."""
        return io.BufferedReader(_TimedReader(self, self._sock.makefile("rb", buffering=0)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _TimedReader(io.RawIOBase):
    def __init__(self, sock: TimedSocket, raw: Any) -> None:
        super().__init__()
        self._sock, self._raw = sock, raw  # the raw file keeps the socket open

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._sock.recv_into(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def timed_pools(clock: Clock) -> dict[str, type[HTTPConnectionPool]]:
    """Make the pools of a manager whose connections keep the clock (urllib3's `ConnectionCls`)."""

    class Timed(HTTPConnection):
        sock: Any

        def _new_conn(self) -> socket.socket:
            try:
                return connect(self._dns_host, self.port, clock)
            except TimeoutError as error:
                raise ConnectTimeoutError(self, str(error)) from error

        def _tunnel(self) -> None:
            raw, self.sock = self.sock, TimedSocket(self.sock, clock)
            try:
                super()._tunnel()
            finally:
                if self.sock is not None:  # None: refused, and closed
                    self.sock = raw

    class Plain(Timed):
        def connect(self) -> None:
            super().connect()
            self.sock = TimedSocket(self.sock, clock)

    class Secure(Timed, HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            self.sock = TimedSocket(self.sock, clock)

        def _connect_tls_proxy(self, hostname: str, sock: socket.socket) -> Any:
            return TimedSocket(super()._connect_tls_proxy(hostname, sock), clock)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def timed_context(clock: Clock) -> ssl.SSLContext:
    """Return a context of TLS that trusts what the system trusts, and shakes hands by the clock."""

    class Timed(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            def shake(wait: float) -> None:
                self.settimeout(wait)
                ssl.SSLSocket.do_handshake(self, block)

            try:
                clock.attempt("the TLS handshake", shake)
            except BaseException:  # for a StoppedError `ssl` leaves it open
                self.close()
                raise

    context = create_urllib3_context()
    context.load_default_certs()
    context.sslsocket_class = Timed
    return context


def connect(host: str, port: int, clock: Clock) -> socket.socket:
    """Connect to the first address of a host that answers.

    Raises:
        OSError: None of them does.
    """  # noqa: DOC502  the last one's error
    wrong: OSError = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in _addresses(host, port, clock):
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:  # this machine has no IPv6, for example
            wrong = error
            continue
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _reach(sock, address, clock)
            return sock
        except OSError as error:
            sock.close()
            wrong = error
        except BaseException:
            sock.close()
            raise
    raise wrong


def _reach(sock: socket.socket, address: Any, clock: Clock) -> None:
    sock.setblocking(False)
    number = sock.connect_ex(address)
    if number in _CONNECTING:
        poll = select.poll()
        poll.register(sock, select.POLLOUT)

        def reached(wait: float) -> None:
            if not poll.poll(1000 * wait):
                raise TimeoutError

        clock.attempt("a connection", reached)
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))
    sock.settimeout(clock.left())


def _addresses(host: str, port: int, clock: Clock) -> list[Any]:
    """Ask the name service, in a thread: the C library's wait has no end of ours.

    Raises:
        OSError: There is no such name.
    """
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, ValueError) as error:
            answers.put(error)

    threading.Thread(target=ask, name="edgecl-name-service", daemon=True).start()

    def answered(wait: float) -> Any:
        try:
            return answers.get(timeout=wait)
        except queue.Empty:
            raise TimeoutError from None

    answer = clock.attempt("the name service", answered)
    if isinstance(answer, Exception):
        raise OSError(f"{host}: {answer}")
    return list(answer)
