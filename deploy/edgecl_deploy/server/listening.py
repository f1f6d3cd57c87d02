"""The socket of the server, and its end: SIGTERM and SIGINT let it finish what has begun."""

import asyncio
import os
import socket
import ssl
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgecl_deploy.errors import OptionError, one_line
from edgecl_deploy.server import limits
from edgecl_deploy.server.guard import UNIX, Address
from edgecl_deploy.server.service import Service

_MODE = 0o660  # of a socket in the file system: its user and group


@dataclass(frozen=True)
class Tls:
    """The files of a server that encrypts.

    Attributes:
        cert: Its certificate, with those that signed it.
        key: Of the certificate.
        client_ca: Who signs the certificates of callers; None: none is asked for.
    """

    cert: str
    key: str
    client_ca: str | None = None

    def context(self) -> ssl.SSLContext:
        """Read the files.

        Raises:
            OptionError: They are no certificates, or do not belong together.
        """
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            made.load_cert_chain(self.cert, self.key)
            if self.client_ca is not None:
                made.load_verify_locations(self.client_ca)
                made.verify_mode = ssl.CERT_REQUIRED
        except OSError as error:  # an SSLError is one
            raise OptionError(
                "--tls-cert, --tls-key and --client-ca must be PEM files that belong together",
                one_line(error),
                "Make them anew, or correct the paths.",
            ) from error
        return made


def bind(address: Address) -> socket.socket:
    """Return a socket that listens as soon as a server takes it.

    Raises:
        OptionError: The address is taken, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    if address.path:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    else:  # asyncio sends without a delay where the protocol is named, else each answer takes 40 ms
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if address.path:
            _clear(Path(address.path))
            before = os.umask(0o777 & ~_MODE)
            try:
                made.bind(address.path)
            finally:
                os.umask(before)
        else:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((address.host, address.port))
    except OSError as error:
        made.close()
        raise OptionError(
            "--listen must be an address of this machine that nobody has",
            one_line(error),
            "Choose another port or path, or stop the other server.",
        ) from error
    return made


def _clear(path: Path) -> None:
    """Remove the socket that a server has left which was killed; one that answers stays."""
    with suppress(OSError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(1.0)
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()


def url_of(bound: socket.socket, encrypted: bool) -> str:
    """Return where a socket can be reached."""
    name = bound.getsockname()
    if bound.family == socket.AF_UNIX:
        return f"{UNIX}{name}"
    host = f"[{name[0]}]" if bound.family == socket.AF_INET6 else name[0]
    return f"http{'s' if encrypted else ''}://{host}:{name[1]}"


class Prompt(H11Protocol):
    """A connection that is closed if a head does not come, or an answer is not read, in time."""

    _timer: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first head; there may be no more than `MAX_CONNECTIONS`."""
        super().connection_made(transport)
        if len(self.connections) > limits.MAX_CONNECTIONS:
            transport.abort()
        else:
            self._wait()

    def pause_writing(self) -> None:
        """Give a caller who does not read its answer some time."""
        super().pause_writing()
        self._unread = self.loop.call_later(limits.BODY_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on with the answer."""
        super().resume_writing()
        self._read()

    def on_response_complete(self) -> None:
        """Wait for the next one."""
        super().on_response_complete()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        super().connection_lost(exc)
        self._stop()
        self._read()

    def _wait(self) -> None:
        self._stop()
        self._timer = self.loop.call_later(limits.HEAD_SECONDS, self._late)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()

    def _late(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


class Server(uvicorn.Server):
    """A server that goes on answering while it drains, with 503 to what is new."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._signals = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, end at the second one.

        It runs between two instructions of the loop's thread, so it takes no lock and prints
        nothing.
        """
        self._signals += 1
        if self._signals > 1:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Look for another release, and for the end; ten times a second."""
        if self._signals:
            self._service.drain()
        self._service.look()
        return await super().on_tick(counter) or self._service.drained


def make_server(app: ASGIApp, service: Service, tls: Tls | None) -> Server:
    """Return a server.

    Args:
        app: What answers.
        service: What it answers with.
        tls: The files with which it encrypts; None if it does not.
    """
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=Prompt,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # not a line for each caller who speaks no HTTP
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=limits.MAX_HEAD,
        timeout_graceful_shutdown=limits.CLOSE_SECONDS,
    )
    if tls is not None:
        config.load()
        config.ssl = tls.context()
    return Server(config, service)


def serve(server: Server, bound: socket.socket, begun: Callable[[], None]) -> None:
    """Serve until a signal, then finish what has begun.

    Args:
        server: The server.
        bound: Its socket, which is closed in the end.
        begun: Is called when it listens.
    """

    async def run() -> None:
        serving = asyncio.ensure_future(server.serve(sockets=[bound]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if server.started:
            begun()
        await serving

    path = bound.getsockname() if bound.family == socket.AF_UNIX else None
    own = None if path is None else os.lstat(path).st_ino
    try:
        asyncio.run(run())
    finally:
        bound.close()
        if path is not None:
            with suppress(OSError):
                if os.lstat(path).st_ino == own:  # nobody has taken the path over
                    os.unlink(path)
