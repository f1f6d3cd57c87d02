"""The local web server: what it shows, what it hides, and that it counts every byte."""

import contextlib
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import urllib3

from edgecl_export.channel import Repository, Server


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "www"
    (folder / "metadata").mkdir(parents=True)
    (folder / "metadata" / "timestamp.json").write_bytes(b"{}")
    (folder / "blob.safetensors").write_bytes(bytes(range(256)) * 1000)
    (folder / "empty").write_bytes(b"")
    (folder / ".lock").write_bytes(b"")
    (tmp_path / "secret").write_text("not yours")
    (folder / "link").symlink_to(tmp_path / "secret")
    return folder


def talk(server: Server, text: str) -> bytes:
    """Send a raw request and read until the server closes."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as link:
        link.sendall(f"{text} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while chunk := link.recv(65536):
            data += chunk
    return data


def talk_raw(server: Server, text: str, *, whole: bool = True) -> bytes:
    """Send a request without its version or its end, and read until the server closes."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as link:
        end = "\r\nConnection: close\r\n\r\n" if whole else "\r\n\r\n"
        data = b""
        with contextlib.suppress(ConnectionError):
            link.sendall(f"{text}{end}".encode())
            link.shutdown(socket.SHUT_WR)
            while chunk := link.recv(65536):
                data += chunk
    return data


def test_files_and_ranges(site: Path) -> None:
    data = (site / "blob.safetensors").read_bytes()
    with Server(site) as server, urllib3.PoolManager() as http:
        url = f"{server.url}/blob.safetensors"
        whole = http.request("GET", url)
        assert (whole.status, whole.data) == (200, data)
        assert whole.headers["Accept-Ranges"] == "bytes"
        assert "immutable" in whole.headers["Cache-Control"]
        assert "ETag" not in whole.headers
        for asked, begin, end in (
            ("0-0", 0, 1),
            ("100-199", 100, 200),
            ("255000-", 255_000, 256_000),
            ("-5", 255_995, 256_000),
            ("255990-999999", 255_990, 256_000),
        ):
            part = http.request("GET", url, headers={"Range": f"bytes={asked}"})
            assert (part.status, part.data) == (206, data[begin:end])
            assert part.headers["Content-Range"] == f"bytes {begin}-{end - 1}/256000"
        for asked in ("bytes=0-1,5-6", "lines=1-2", "bytes=-"):
            assert http.request("GET", url, headers={"Range": asked}).data == data
        beyond = http.request("GET", url, headers={"Range": "bytes=256000-"})
        assert (beyond.status, beyond.headers["Content-Range"]) == (416, "bytes */256000")
        head = http.request("HEAD", url)
        assert (head.status, head.data, head.headers["Content-Length"]) == (200, b"", "256000")
        assert http.request("GET", f"{server.url}/empty").status == 200
        stamp = http.request("GET", f"{server.url}/metadata/timestamp.json")
        assert stamp.headers["Cache-Control"] == "no-cache"
        assert stamp.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    "path",
    ["/", "/metadata", "/metadata/", "/../secret", "/metadata/../../secret", "/%2e%2e/secret",
     "/..%2fsecret", "/link", "/.lock", "/none", "//etc/passwd", "/metadata%00"],
)  # fmt: skip
def test_nothing_else_is_shown(site: Path, path: str) -> None:
    with Server(site) as server:
        answer = talk(server, f"GET {path}")
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"not yours" not in answer


def test_strange_requests_are_answered_without_a_word(
    site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (site / "loop").symlink_to("loop")
    (site / "a").symlink_to("b")
    (site / "b").symlink_to("a")
    (site / "folder" / "deep").mkdir(parents=True)
    (site / "private").write_text("not yours")
    (site / "private").chmod(0)
    paths = ["x" * 5000, "/".join("x" * 3000), "loop", "a", "a/b", "empty/x", "%ff%fe", "%00",
             "metadata/timestamp.json/x", "[", "folder/deep"]  # fmt: skip
    if os.geteuid():
        paths.append("private")
    ranges = ["9" * 5000 + "-", "-" + "9" * 5000, "0-" + "9" * 5000, "\u0661-\u0662", "5-1"]
    with Server(site) as server:
        for path in paths:
            assert talk(server, f"GET /{path}").startswith(b"HTTP/1.1 404 "), path
        for asked in ranges:
            text = f"GET /blob.safetensors HTTP/1.1\r\nRange: bytes={asked}"
            answer = talk_raw(server, text)
            assert answer.split()[1] in {b"200", b"206", b"416"}, asked
        for line in ("GET", "GET x", "BREW /file", "GET /" + "y" * 70_000, "\x00\xff"):
            talk_raw(server, line, whole=False)
        assert talk(server, "GET /metadata/timestamp.json").endswith(b"{}")
    assert capfd.readouterr() == ("", "")


def test_every_byte_is_counted(site: Path) -> None:
    with Server(site) as server:
        sent = [
            talk(server, f"{verb} {path}")
            for verb, path in [
                ("GET", "/blob.safetensors"), ("HEAD", "/blob.safetensors"), ("GET", "/none"),
            ]
        ]  # fmt: skip
        assert server.requests == 3
        assert server.bytes_sent == sum(map(len, sent))


def test_a_client_that_goes_away(site: Path) -> None:
    (site / "large").write_bytes(bytes(20_000_000))
    with Server(site) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as link:
            link.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            link.recv(1000)
        assert talk(server, "GET /metadata/timestamp.json").endswith(b"{}")


def test_an_idle_poll_is_small(
    repository: Repository, releases: dict[int, Path], shop: Any
) -> None:
    repository.publish(releases[1], shop.bundle, channel="stable")
    with Server(repository.site.path) as server:
        talk(server, "GET /metadata/2.root.json")
        talk(server, "GET /metadata/timestamp.json")
        assert server.bytes_sent < 1500
