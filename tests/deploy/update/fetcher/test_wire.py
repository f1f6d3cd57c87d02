"""Every wait of a download has an end: at the deadline, and soon after a request to stop."""

import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest
from tests.deploy.support.fault_server import Fault
from tests.deploy.support.fetching import DATA, DEADLINE, LARGE, RESUMED, take
from tuf.api.exceptions import DownloadError, SlowRetrievalError

from edgecl_deploy.errors import StoppedError
from edgecl_deploy.update import wire
from edgecl_deploy.update.fetcher import Fetcher

SOON = 1.5  # seconds after a request to stop


@contextmanager
def listening(answer):
    """Serve raw connections on loopback; `answer` gets each, and an event that ends it."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)

        def serve():
            while not over.is_set():
                try:
                    link, _ = server.accept()
                except TimeoutError:
                    continue
                threading.Thread(target=answered, args=(link,), daemon=True).start()

        def answered(link):
            with link, suppress(OSError):  # the fetcher has hung up
                answer(link, over)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            over.set()
            thread.join()


def dripping(link, over):
    """Answer CONNECT, one header after the other."""
    link.recv(65536)
    link.sendall(b"HTTP/1.1 200 OK\r\n")
    while not over.wait(0.05):
        link.sendall(b"X-Wait: a little\r\n")


def silent(link, over):
    over.wait(30)


def shaking(link, over):
    """Begin a record of TLS, and send it byte by byte."""
    link.sendall(b"\x16\x03\x03\x40\x00")
    while not over.wait(0.05):
        link.sendall(b"\x02")


def unresolved(monkeypatch, over):
    real = socket.getaddrinfo

    def slow(host, *rest, **more):
        if host == "channel.invalid":
            over.wait(30)
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", slow)


@contextmanager
def place(kind, server, monkeypatch):
    """Yield a URL of which the answer takes for ever."""
    over = threading.Event()
    monkeypatch.setenv("no_proxy", "nothing")
    try:
        if kind == "name service":
            unresolved(monkeypatch, over)
            yield "http://channel.invalid/file"
        elif kind == "body":
            server.faults["file"] = Fault(piece=100_000, pause=30)
            with listening(lambda link, end: (link.sendall(HEAD), end.wait(30))) as address:
                yield f"http://{address}/file"
        elif kind == "TLS":
            with listening(shaking) as address:
                yield f"https://{address}/file"
        else:
            with listening(dripping if kind == "tunnel" else silent) as address:
                monkeypatch.setenv("https_proxy", f"http://{address}")
                yield "https://channel.invalid/file"
    finally:
        over.set()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\nsome"
KINDS = ["name service", "tunnel", "silent proxy", "TLS", "body"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_deadline(server, part, monkeypatch, kind):
    with place(kind, server, monkeypatch) as url:
        begin = time.monotonic()
        with pytest.raises(SlowRetrievalError):
            take(Fetcher(part, deadline=DEADLINE), url)
        assert time.monotonic() - begin < DEADLINE + 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_to_stop(server, part, monkeypatch, kind):
    stop = threading.Event()
    with place(kind, server, monkeypatch) as url:
        threading.Timer(0.3, stop.set).start()
        begin = time.monotonic()
        with pytest.raises(StoppedError, match="goes on where this one ended"):
            take(Fetcher(part, stop_requested=stop.is_set), url)
        assert time.monotonic() - begin < 0.3 + SOON


def test_a_stop_in_a_slow_download_keeps_what_came(server, part):
    stop = threading.Event()
    threading.Timer(0.4, stop.set).start()
    begin = time.monotonic()
    with pytest.raises(StoppedError):
        take(Fetcher(part, rate_kbps=100, stop_requested=stop.is_set), server.url + RESUMED,
             len(LARGE))  # fmt: skip
    assert time.monotonic() - begin < 0.4 + SOON
    assert take(Fetcher(part), server.url + RESUMED, len(LARGE)) == LARGE
    assert server.heads[1]["Range"].startswith("bytes=")


def take_often(fetcher, url):
    for _ in range(100):
        take(fetcher, url)


def test_several_files_together_have_a_deadline(server, part):
    server.faults["file"] = Fault(content=b"some", pause=0.1)
    fetcher = Fetcher(part)
    begin = time.monotonic()
    with fetcher.within(0.4), pytest.raises(SlowRetrievalError):
        take_often(fetcher, f"{server.url}/file")
    assert time.monotonic() - begin < 1.5
    assert 3 <= fetcher.requests <= 5
    server.reset()
    assert take(fetcher, f"{server.url}/file") == DATA


def test_the_next_address_is_tried(server, part, monkeypatch):
    port = int(server.url.rpartition(":")[2])
    closed, right = (("127.0.0.1", 9), ("127.0.0.1", port))
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", each) for each in (closed, right)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert take(Fetcher(part), f"http://channel.invalid:{port}/file") == DATA
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    with pytest.raises(DownloadError, match="has no address"):
        take(Fetcher(part), f"http://other.invalid:{port}/file")


def test_a_name_that_is_not_there(part):
    with pytest.raises(DownloadError, match=r"no-such-host\.invalid"):
        take(Fetcher(part), "http://no-such-host.invalid/file")


def test_a_connection_that_nobody_accepts(monkeypatch):
    """A full queue of a listening socket drops the first packet, as a dead address does."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = server.getsockname()[1]
        fill = [socket.socket() for _ in range(3)]
        for each in fill:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        clock = wire.Clock(20.0)
        clock.start(0.4)
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            wire.connect("127.0.0.1", port, clock)
        assert time.monotonic() - begin < 1.4
        for each in fill:
            each.close()
